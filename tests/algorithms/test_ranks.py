"""Two processes with half of the data each take the step that one process takes on all of it.

Comparing processes with one another only shows that they agree. A sum in the place of a mean is the same in all of
them, and Adam divides a common factor of the gradients away: so the moments of Adam are compared, which keep it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing as mp
from RoboRenForce import algorithms, components, networks
from RoboRenForce.algorithms import RunContext
from RoboRenForce.algorithms.on_policy import mini_batches
from RoboRenForce.buffer import ReplayBatch, ReplayBufferCfg
from RoboRenForce.components.distributions import DiagGaussian
from RoboRenForce.envs.spec import ActionSpec, EnvSpec
from RoboRenForce.utils.distributed import DistributedContext
from stepping import stepped
from tensordict import TensorDict
from torch import Tensor

pytestmark = pytest.mark.oracle

STEPS, ENVS, OBS, A = 5, 8, 3, 2
MLP = networks.MLPCfg(hidden_features=[8], activations="Tanh")


def _process(rank: int, world_size: int, folder: Path, work: Callable[..., Any]) -> None:
    torch.manual_seed(0)
    context = DistributedContext(rank, rank, world_size)
    if world_size > 1:
        torch.distributed.init_process_group("gloo", f"file://{folder / 'store'}", rank=rank, world_size=world_size)
    size = ENVS // world_size
    found = work(context, slice(rank * size, (rank + 1) * size))
    torch.save(found, folder / f"found_{world_size}_{rank}.pt")
    context.close()


def run(folder: Path, work: Callable[..., Any]) -> tuple[Any, list[Any]]:
    """What `work(context, rows)` returns in one process with all rows, and in two with half of them each."""
    for world_size in (1, 2):
        mp.start_processes(_process, (world_size, folder, work), nprocs=world_size, start_method="fork")
    alone, *both = (torch.load(folder / f"found_{name}.pt") for name in ("1_0", "2_0", "2_1"))
    return alone, both


def check_same(left: Any, right: Any, path: str = "") -> None:
    if isinstance(left, dict):
        assert left.keys() == right.keys(), path
        for key in left:
            check_same(left[key], right[key], f"{path}.{key}")
    elif isinstance(left, list | tuple):
        for index, (a, b) in enumerate(zip(left, right, strict=True)):
            check_same(a, b, f"{path}[{index}]")
    elif isinstance(left, Tensor):
        torch.testing.assert_close(right, left, rtol=2e-4, atol=1e-7, msg=lambda text: f"{path}: {text}")
    else:
        assert left == right, path


def spec(num_envs: int) -> EnvSpec:
    box = ActionSpec("continuous", A, (-1.0,) * A, (1.0,) * A)
    return EnvSpec("toy", num_envs, {"policy": (OBS,)}, box, 100, ("final_observations",))


def steps(rows: slice, seed: int) -> Any:
    """Observations, and what a step brings, for the environments `rows` of all of them."""
    generator = torch.Generator().manual_seed(seed)

    def observe() -> TensorDict:
        return TensorDict({"policy": 1.0 + 2.0 * torch.randn(ENVS, OBS, generator=generator)}, [ENVS])[rows]

    obs = observe()
    for _ in range(STEPS):
        after, final = observe(), observe()
        done = torch.rand(ENVS, generator=generator) < 0.3
        time_outs = done & (torch.rand(ENVS, generator=generator) < 0.5)
        reward = 2.0 * torch.randn(ENVS, generator=generator) - 1.0
        extras = {"final_observations": final, "terminated": (done & ~time_outs)[rows], "time_outs": time_outs[rows]}
        yield obs, (after, reward[rows], done[rows].long(), extras)
        obs = after


def learn_by_ppo(context: DistributedContext, rows: slice) -> Any:
    """Two iterations of PPO; what would be drawn at random comes from a tape of all environments."""
    draws = iter(range(1000))

    def sample(self: DiagGaussian) -> Tensor:
        noise = torch.randn(ENVS, A, generator=torch.Generator().manual_seed(next(draws)))
        return (self.mean + self.std * noise[rows]).detach()

    DiagGaussian.sample = sample  # type: ignore[method-assign]
    mini_batches.normalize_advantage = lambda advantage, mask: advantage  # every process normalizes its own
    policy = components.ActorCriticPackCfg(
        actor_cfg=components.StateIndStdActorCfg(backbone_cfg=MLP), critic_cfg=components.VNetworkCfg(backbone_cfg=MLP)
    )
    cfg = algorithms.PPOCfg(
        shuffle="none",
        num_mini_batches=1,
        num_learning_epochs=3,
        normalize_reward=True,
        normalize_value=True,
        max_grad_norm=0.5,
        precision="fp32",
        reward_terms=[algorithms.RNDCfg(normalize_reward=True)],
    )
    run = RunContext(
        spec=spec(rows.stop - rows.start),
        device=torch.device("cpu"),
        rollout_steps=STEPS,
        max_updates=4,
        distributed=context,
    )
    ppo = cfg.build(policy=policy, context=run)
    for iteration in range(2):
        for obs, step in steps(rows, iteration):
            ppo.process_env_step(stepped(obs, ppo.act(obs), *step))
        ppo.update()
    state = ppo.state_dict()
    assert float(ppo.optimizer.shared) > 0.0
    state["reward_scaler"].pop("discounted")
    state["reward_terms"]["rnd"].pop("discounted")
    kept = {name: value for name, value in state.items() if name not in ("start", "states")}
    return {**kept, "kl": ppo.optimizer.shared.clone()}


def learn_off_policy(cfg: Any, actor: Any) -> Callable[..., Any]:
    def work(context: DistributedContext, rows: slice) -> Any:
        draws = iter(range(1000))

        def randn_like(like: Tensor) -> Tensor:
            return torch.randn(ENVS, A, generator=torch.Generator().manual_seed(next(draws)))[rows]

        torch.randn_like = randn_like  # type: ignore[assignment]
        policy = components.ActorQPackCfg(
            actor_cfg=actor(backbone_cfg=MLP), critic_cfg=components.QNetworkCfg(backbone_cfg=MLP)
        )
        run = RunContext(spec=spec(rows.stop - rows.start), device=torch.device("cpu"), distributed=context)
        learner = cfg.build(policy=policy, context=run)
        for obs, step in steps(rows, 0):
            learner.process_env_step(stepped(obs, learner.act(obs), *step))
        generator = torch.Generator().manual_seed(3)
        for turn in (False, True):
            obs, next_obs = (torch.randn(ENVS, OBS, generator=generator)[rows] for _ in range(2))
            action, reward = torch.rand(ENVS, A, generator=generator), torch.randn(ENVS, generator=generator)
            discount = 0.9 * (torch.rand(ENVS, generator=generator) > 0.3)
            batch = ReplayBatch(
                {"policy": obs}, action[rows], reward[rows], discount[rows], next_obs={"policy": next_obs}
            )
            learner.train_step(batch, update_actor=turn)
        scale = learner.experience.reward_scaler.state_dict()
        scale.pop("discounted")
        parts = {name: part.state_dict() for name, part in learner.parts().items()}
        return {"networks": learner.networks.state_dict(), "parts": parts, "scale": scale}

    return work


SMALL: dict[str, Any] = {
    "replay": ReplayBufferCfg(capacity=80),
    "batch_size": ENVS,
    "learning_starts": 0,
    "max_return": 2.0,
    "max_grad_norm": 0.5,
    "precision": "fp32",
}
WORK = {
    "ppo": learn_by_ppo,
    "sac": learn_off_policy(algorithms.SACCfg(**SMALL), components.TanhGaussianActorCfg),
    "td3": learn_off_policy(algorithms.TD3Cfg(**SMALL), components.DeterministicActorCfg),
}


@pytest.mark.parametrize("name", WORK)
def test_two_processes_take_the_step_of_one_on_all_data(tmp_path: Path, name: str) -> None:
    alone, both = run(tmp_path, WORK[name])
    for found in both:
        check_same(alone, found)


def share(context: DistributedContext, rows: slice) -> Any:
    """Statistics of batch normalization of one process before and after they are shared."""
    policy = algorithms.flash_sac_policy()
    flash = networks.FlashNetCfg(width=8, num_blocks=1)
    policy.actor_cfg.backbone_cfg = policy.critic_cfg.backbone_cfg = flash
    run = RunContext(spec=spec(ENVS), device=torch.device("cpu"), distributed=context)
    learner = algorithms.FlashSACCfg(**SMALL).build(policy=policy, context=run)
    means = [m.running_mean for m in learner.networks.modules() if isinstance(m, networks.BatchNorm)]
    with torch.no_grad():
        for index, mean in enumerate(means):
            mean.fill_(10.0 * context.rank + index)
    learner._finish_update()
    return [mean.clone() for mean in means]


def test_statistics_of_networks_are_averaged(tmp_path: Path) -> None:
    _, both = run(tmp_path, share)
    for found in both:
        assert len(found) > 3
        for index, mean in enumerate(found):
            torch.testing.assert_close(mean, torch.full_like(mean, 5.0 + index))
