"""PPO and SAC on a belief: what it is of, what trains it and what does not, and what it is built from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from RoboRenForce import algorithms, components, networks
from RoboRenForce.algorithms.actor_policy import ActorPolicy
from RoboRenForce.algorithms.algorithm import RunContext
from RoboRenForce.algorithms.loss_terms.belief import belief_loss
from RoboRenForce.algorithms.loss_terms.samples import Samples
from RoboRenForce.buffer import SequenceReplayBufferCfg
from RoboRenForce.configclass import ConfigError
from RoboRenForce.envs import ScriptedEnvCfg
from RoboRenForce.envs.spec import ActionSpec, EnvSpec
from RoboRenForce.networks import BeliefNetwork, MLPCfg
from RoboRenForce.utils.export import export_policy
from RoboRenForce.utils.seeding import seed_everything
from stepping import stepped
from tensordict import TensorDict

pytestmark = pytest.mark.oracle

SCRIPT = [["terminated@3", "time_out@5", "time_out@4"], ["time_out@7", "terminated@2"]]
MLP = MLPCfg(hidden_features=[8])
SMALL = networks.FlowDensityCfg(
    gaussian=networks.GaussianDensityCfg(network=MLP), network=MLPCfg(hidden_features=[8], activations="SiLU")
)
SENSORS = EnvSpec(
    task="Robot",
    num_envs=4,
    obs_groups={"slow": (2,), "policy": (3,), "camera": (8, 8, 3), "arrival": (1,), "full": (5,)},
    action=ActionSpec("continuous", 2),
    max_episode_length=10,
    obs_dtypes={"camera": "uint8"},
)
SETS = {"actor": ["slow", "camera", "policy", "arrival"], "critic": ["policy", "full"]}


def ppo(target: list[str] | None = None, **options: Any) -> tuple[algorithms.PPO, Any]:
    """A learner with a small belief, and its environment."""
    seed_everything(0)
    env = ScriptedEnvCfg(num_envs=4, script=SCRIPT, action_dim=2).build()
    policy = components.BeliefActorCriticPackCfg(
        actor_cfg=components.StateIndStdActorCfg(backbone_cfg=MLP),
        critic_cfg=components.VNetworkCfg(backbone_cfg=MLP),
        belief=components.BeliefCfg(size=6, density=SMALL, target=target or [], **options),
    )
    terms = [algorithms.BeliefLossCfg()]
    cfg = algorithms.PPOCfg(loss_terms=terms, num_learning_epochs=1, num_mini_batches=1, schedule="fixed")
    context = RunContext(env.spec, torch.device("cpu"), rollout_steps=12)
    return cfg.build(policy=policy, context=context), env


def sac(**options: Any) -> tuple[algorithms.SAC, Any]:
    seed_everything(0)
    env = ScriptedEnvCfg(num_envs=2, script=SCRIPT, action_dim=2).build()
    policy = components.BeliefActorQPackCfg(
        actor_cfg=components.TanhGaussianActorCfg(backbone_cfg=MLP),
        critic_cfg=components.QNetworkCfg(backbone_cfg=MLP),
        belief=components.BeliefCfg(size=6, density=SMALL, **options),
    )
    replay = SequenceReplayBufferCfg(capacity=400, length=6)
    terms = [algorithms.BeliefLossCfg()]
    cfg = algorithms.SACCfg(replay=replay, batch_size=16, learning_starts=8, loss_terms=terms)
    return cfg.build(policy=policy, context=RunContext(env.spec, torch.device("cpu"))), env


def collect(learner: Any, env: Any, steps: int) -> None:
    obs = env.get_observations()
    for _ in range(steps):
        out, before = learner.act(obs), obs
        obs, reward, done, extras = env.step(out.action.clone())
        learner.process_env_step(stepped(before, out, obs, reward, done, extras))


def test_groups_become_columns_wherever_they_stand():
    belief = components.BeliefCfg(slow=["slow"], arrival="arrival", target=["full"])
    plain = components.StateIndStdActorCfg(backbone_cfg=MLP, cnn_cfg=networks.CNNCfg())
    cfg = components.BeliefActorCriticPackCfg(
        actor_cfg=plain, critic_cfg=components.VNetworkCfg(backbone_cfg=MLP), belief=belief
    ).with_encoders(SENSORS, SETS)
    found: Any = cfg.actor_cfg.backbone_cfg
    assert (found.slow_columns, found.arrival_column, found.target_features) == ([0, 1], 5, 5)
    assert cfg.critic_cfg.backbone_cfg == MLP  # it reads the target, so it needs no memory
    following: Any = belief.replace(target=[]).before(plain, SENSORS, SETS).backbone_cfg
    assert (following.target_groups, following.target_is_next) == (["policy"], True)
    assert (following.target_features, following.condition_features) == (3, 2)


def test_the_ratio_of_the_first_mini_batch_is_one():
    learner, env = ppo()
    collect(learner, env, 12)
    learner.mini_batches.shuffle()
    learner.mini_batches.prepare(*learner.rollout.end())
    batch = next(iter(learner.mini_batches))
    distribution, _ = learner.actor(batch.obs, batch.states["actor"], batch.start)
    assert bool(batch.start[1:].any())
    torch.testing.assert_close(distribution.log_prob(batch.action), batch.log_prob, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("target", [["critic"], []], ids=["hidden_state", "next_observation"])
@pytest.mark.parametrize("stop", [True, False], ids=["apart", "jointly"])
def test_the_belief_learns_from_its_target_and_from_the_policy_only_if_asked_to(target: list[str], stop: bool):
    learner, env = ppo(target, stop_gradient=stop)
    collect(learner, env, 12)
    learner.mini_batches.prepare(*learner.rollout.end())
    batch = next(iter(learner.mini_batches))
    belief: Any = learner.actor.backbone

    def reached(loss: torch.Tensor) -> dict[str, bool]:
        parts = {"update": belief.fast_update, "density": belief.density, "head": belief.head, "critic": learner.critic}
        found = {}
        for name, part in parts.items():
            grads = torch.autograd.grad(loss, list(part.parameters()), retain_graph=True, allow_unused=True)
            found[name] = any(grad is not None and bool(grad.abs().sum() > 0) for grad in grads)
        return found

    rows, mask = belief_loss(learner.actor, learner.critic, Samples.of(batch, 1000))
    counted = rows.mean() if mask is None else rows[mask].mean()
    assert reached(counted) == {"update": True, "density": True, "head": False, "critic": False}
    policy, _, _ = learner.policy_loss(batch)
    assert reached(policy) == {"update": not stop, "density": False, "head": True, "critic": False}
    assert "Loss/belief" in learner.loss(batch)[2]


def test_no_pair_of_the_next_observation_reaches_over_an_end():
    """What follows an end is of another episode: changing it changes no row that counts before it."""
    learner, env = ppo()
    collect(learner, env, 12)
    learner.mini_batches.prepare(*learner.rollout.end())
    batch = next(iter(learner.mini_batches))
    samples = Samples.of(batch, 1000)

    def rows(obs: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        samples.obs = obs
        torch.manual_seed(5)
        found, mask = belief_loss(learner.actor, learner.critic, samples)
        return found, mask if mask is not None else torch.ones_like(found, dtype=torch.bool)

    plain, mask = rows(samples.obs)
    begins = batch.start.clone()
    begins[0] = False
    changed, _ = rows({name: x + 1e3 * begins.unsqueeze(-1) for name, x in samples.obs.items()})
    after = torch.cat([torch.zeros_like(begins[:1]), begins]).cumsum(0)[:-1].bool()[:-1]  # in a changed episode
    before_any = mask & ~after & (torch.cat([begins[1:]]).cumsum(0) == 0)
    assert not bool(mask[begins[1:]].any()) and bool(begins.any())
    torch.testing.assert_close(changed[before_any], plain[before_any])


def test_sac_trains_the_belief_and_goes_on_bit_for_bit():
    learner, env = sac(target=["critic"])
    assert learner.actor.is_recurrent and not learner.critic.is_recurrent
    assert "previous_action" in learner.actor.groups
    collect(learner, env, 30)
    metrics = learner.update()
    assert float(metrics["Loss/belief"]) != 0.0
    saved = learner.state_dict()
    saved["replay"] = learner.experience.buffer.state_dict()
    again, _ = sac(target=["critic"])
    again.load_state_dict(saved)
    again.experience.buffer.records = learner.experience.buffer.records  # as a stored replay would
    for name, value in again.networks.state_dict().items():
        assert torch.equal(value, learner.networks.state_dict()[name]), name
    obs = env.get_observations()
    torch.manual_seed(1)
    first = learner.act(obs).action.clone()
    torch.manual_seed(1)
    assert torch.equal(again.act(obs).action, first)
    critic: Any = sac()[0].critic.history
    assert isinstance(critic, BeliefNetwork) and critic.density is None


def test_an_exported_policy_carries_its_belief(tmp_path: Path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    groups = {"actor": ["slow", "policy", "arrival"], "critic": ["full"]}
    belief = components.BeliefCfg(size=6, density=SMALL, slow=["slow"], arrival="arrival", target=["full"])
    cfg = components.BeliefActorCriticPackCfg(actor_cfg=components.StateIndStdActorCfg(backbone_cfg=MLP), belief=belief)
    actor = cfg.build(spec=SENSORS, obs_groups=groups).actor
    policy = ActorPolicy(actor)

    def observations(step: int) -> TensorDict:
        arrival = torch.where(torch.arange(3) % 2 == step % 2, 1.0, -1.0).unsqueeze(1)
        obs = {"slow": torch.randn(3, 2), "policy": torch.randn(3, 3), "arrival": arrival}
        return TensorDict(obs, batch_size=[3])

    actor.update_normalizer(torch.stack([observations(step) for step in range(20)]))
    export_policy(policy.exportable(), tmp_path)
    session = onnxruntime.InferenceSession(str(tmp_path / "policy.onnx"), providers=["CPUExecutionProvider"])
    state = torch.zeros(1, 3, 6).numpy()
    for step in range(4):
        obs = observations(step)
        inputs = {"obs": torch.cat([obs[name] for name in groups["actor"]], 1).numpy(), "state_in": state}
        actions, state = session.run(["actions", "state_out"], inputs)
        torch.testing.assert_close(torch.from_numpy(actions), policy(obs), atol=1e-5, rtol=1e-5)


def test_what_does_not_fit_is_named():
    def build(**options: Any) -> None:
        cfg = components.BeliefActorCriticPackCfg(
            actor_cfg=components.StateIndStdActorCfg(backbone_cfg=MLP, cnn_cfg=networks.CNNCfg()),
            belief=components.BeliefCfg(**options),
        )
        cfg.with_encoders(SENSORS, SETS)

    with pytest.raises(ConfigError, match=r"target names \['slow'\], which the critic does not read"):
        build(target=["slow"])
    with pytest.raises(ConfigError, match="names the group 'gyro', which is none of the flat groups"):
        build(slow=["gyro"])
    with pytest.raises(ConfigError, match="arrival='policy' has 3 numbers; expected one"):
        build(slow=["slow"], arrival="policy")
    env = ScriptedEnvCfg(num_envs=2, action_dim=2).build()
    context = RunContext(env.spec, torch.device("cpu"))
    with pytest.raises(ConfigError, match=r"trains the belief of an actor, and this one has a MLP"):
        algorithms.PPOCfg(loss_terms=[algorithms.BeliefLossCfg()]).build(
            policy=components.ActorCriticPackCfg(), context=context
        )
