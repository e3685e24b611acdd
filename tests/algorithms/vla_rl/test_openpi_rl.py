"""pi0 and pi0.5 under PPO, GRPO and DSRL: the expert learns from kept keys and values what it learns from pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from cloned_tabletop import demonstrations, reach_cfg, save_policy, spec_of
from openpi_cases import fill
from RoboRenForce.algorithms.off_policy import SACCfg
from RoboRenForce.algorithms.vla_rl import DSRLCfg, GRPOCfg, VLAPPOCfg
from RoboRenForce.buffer import FeatureReplayBufferCfg
from RoboRenForce.components import OptimizerCfg
from RoboRenForce.components.openpi_policy import OpenPIPolicyCfg
from RoboRenForce.components.vla_value import ValueHeadCfg
from RoboRenForce.envs import GroupVecCfg
from RoboRenForce.networks import MLPCfg
from RoboRenForce.runners import OffPolicyRunnerCfg, VLAGRPORunnerCfg, VLAPPORunnerCfg
from RoboRenForce.utils.parallelize import ParallelCfg

pytestmark = pytest.mark.contract
SGD = OptimizerCfg(kind="sgd", learning_rate=0.01)
"""Unlike Adam's, its steps are smooth in the gradient, so that rounding stays rounding."""
STILL = OptimizerCfg(kind="sgd", learning_rate=1e-12)
"""Takes no step that could be seen."""


def policy_cfg(variant: str, density: str = "sde") -> OpenPIPolicyCfg:
    cfg = OpenPIPolicyCfg(variant=variant, size="tiny")
    cfg.backbone.vision.image_size, cfg.backbone.language.finetune = 32, "frozen"
    cfg.head = cfg.head.replace(chunk_size=4, num_steps=3, density=density)
    cfg.head.network.action_dim = 5
    return cfg


@pytest.fixture(scope="module", params=["pi05", "pi0"])
def start(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """Variant, and a checkpoint of a policy in which every weight matters."""
    policy = policy_cfg(request.param, "none").build(spec_of(demonstrations(4, 4), reach_cfg(1).build()))
    fill(policy)
    return request.param, save_policy(policy, tmp_path_factory.mktemp("start"))


def learned(start: tuple[str, Path], algorithm: str, density: str = "sde", **options: Any) -> Any:
    """A run after one update in one step."""
    run = built(start, algorithm, density, **options)
    run.learn()
    return run


def built(start: tuple[str, Path], algorithm: str, density: str = "sde", **options: Any) -> Any:
    variant, path = start
    fields = {"init_from": str(path), "optimizer": SGD, "num_mini_batches": 1, "num_learning_epochs": 1, **options}
    env_cfg = reach_cfg(8, seed=7, max_episode_length=10, reward="dense")
    if algorithm == "grpo":
        env_cfg.groups = GroupVecCfg(group_size=4)
        cfg: Any = VLAGRPORunnerCfg(algorithm=GRPOCfg(**fields))
    else:
        fields = {"value": ValueHeadCfg(network=MLPCfg(hidden_features=[16]))} | fields
        cfg = VLAPPORunnerCfg(algorithm=VLAPPOCfg(**fields), num_steps_per_env=4)
    cfg = cfg.replace(policy=policy_cfg(variant, density), logger=[], report=False, max_iterations=1)
    run = cfg.build(env=env_cfg.build())
    run.before = weights(run)
    return run


def weights(run: Any) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in run.learner.plain_module.named_parameters()}


@pytest.mark.parametrize(("algorithm", "density"), [("ppo", "sde"), ("grpo", "sde"), ("ppo", "noise")])
def test_the_expert_learns_from_kept_keys_and_values(start: tuple[str, Path], algorithm: str, density: str) -> None:
    run = learned(start, algorithm, density)
    assert run.learner.rollout.store.rows["prefix/key_values"].shape[1:4] == (3, 2, 1)
    assert float(run.metrics["actor/ratio"]) == pytest.approx(1, abs=1e-5)
    after = weights(run)
    moved = {name.partition(".")[0] for name, before in run.before.items() if not torch.equal(after[name], before)}
    assert moved == ({"head", "value"} if algorithm == "ppo" else {"head"})


@pytest.mark.parametrize("density", ["sde", "noise"])
def test_ratios_in_bfloat16_begin_at_one(start: tuple[str, Path], density: str) -> None:
    """The first epoch, computed anew from what was stored, in other batches than while acting."""
    run = learned(
        start, "ppo", density, parallel=ParallelCfg(mixed_precision="bf16"), num_mini_batches=3, optimizer=STILL
    )
    assert float(run.metrics["actor/ratio"]) == pytest.approx(1, abs=2e-3)
    assert float(run.metrics["actor/approx_kl"]) < 1e-5


def test_pictures_teach_what_kept_features_teach(start: tuple[str, Path]) -> None:
    """The same gradients, in float32, although the language model is computed again."""
    kept, again = (weights(learned(start, "ppo", store=store)) for store in ("features", "observations"))
    for name, value in kept.items():
        torch.testing.assert_close(value, again[name], rtol=0, atol=1e-6, msg=name)


def expert_value(**options: Any) -> ValueHeadCfg:
    return ValueHeadCfg(features="expert", network=MLPCfg(hidden_features=[16]), **options)


@torch.no_grad()
def shake(value: torch.nn.Module) -> None:
    """Its output begins with zeros, through which no gradient comes."""
    generator = torch.Generator().manual_seed(1)
    for parameter in value.parameters():
        parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))


def moved(run: Any) -> set[str]:
    after = weights(run)
    return {name for name, before in run.before.items() if not torch.equal(after[name], before)}


@pytest.mark.parametrize("store", ["features", "observations"])
def test_a_value_of_the_expert_learns_beside_the_policy(start: tuple[str, Path], store: str) -> None:
    run = built(start, "ppo", store=store, value=expert_value())
    assert run.learner.value.norm.normalized_shape == (32,)  # the expert's width; the backbone's is 64
    for _ in range(2):
        run.learn(1)
        assert float(run.metrics["actor/ratio"]) == pytest.approx(1, abs=1e-5)
        assert float(run.metrics["actor/value_loss"]) > 0
    assert {name.partition(".")[0] for name in moved(run)} == {"head", "value"}


def test_a_value_of_the_expert_teaches_the_expert_only_if_it_is_not_detached(start: tuple[str, Path]) -> None:
    runs, unclipped = [], SGD.replace(max_grad_norm=1e6)  # else the norm of the value's gradient scales the policy's
    for detach, coef in ((True, 1.0), (True, 0.0), (False, 1.0)):
        value = expert_value(detach=detach)
        run = built(start, "ppo", value=value, value_loss_coef=coef, optimizer=unclipped)
        shake(run.learner.value)
        run.learn()
        runs.append({name: value for name, value in weights(run).items() if name.startswith("head.")})
    detached, policy_alone, taught = runs
    assert all(torch.equal(detached[name], value) for name, value in policy_alone.items())
    differs = {name for name, value in detached.items() if not torch.equal(taught[name], value)}
    assert any("gemma.layers.0." in name for name in differs) and not any("action_out_proj" in name for name in differs)


def test_warming_up_a_value_of_the_expert_trains_the_value_alone(start: tuple[str, Path]) -> None:
    run = built(start, "ppo", value=expert_value(detach=False), critic_warmup=1)
    shake(run.learner.value)
    run.learn(1)
    assert moved(run) and all(name.startswith("value.") for name in moved(run))


def test_cut_episodes_are_bootstrapped_by_the_expert_at_their_last_observations(start: tuple[str, Path]) -> None:
    run = built(start, "ppo", value=expert_value())
    learner, wanted = run.learner, {}
    shake(learner.value)
    process, targets, found = learner.process_env_step, learner.targets, []

    def value_of(obs: Any, rows: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            seen = {name: obs[name][rows] for name in learner.collector.groups}
            return learner.value(learner.model.encode(seen), learner.model.head).clone()

    def watch(transition: Any) -> None:
        step, rows = learner.rollout.step, transition.time_outs.nonzero().squeeze(1)
        recorded = transition.record["value"].flatten()
        torch.testing.assert_close(recorded, value_of(transition.obs, torch.arange(8)), rtol=1e-4, atol=1e-5)
        if len(rows):
            values = value_of(transition.next_obs, rows).tolist()
            wanted.update({(step, row): value for row, value in zip(rows.tolist(), values, strict=True)})
        process(transition)

    def look(rollout: Any) -> Any:
        found.append((targets(rollout), rollout.bootstrap.clone()))
        return found[-1][0]

    learner.process_env_step, learner.targets = watch, look
    run.learn(1)
    ((_, bootstrap),) = found
    assert len(wanted) >= 8 and int((bootstrap != 0).sum()) == len(wanted)
    for (step, row), value in wanted.items():
        assert float(bootstrap[step, row]) == pytest.approx(value, abs=1e-5)


def test_noise_is_steered_through_the_frozen_expert(start: tuple[str, Path]) -> None:
    variant, path = start
    learner = SACCfg(replay=FeatureReplayBufferCfg(capacity=64), learning_starts=8, batch_size=8, gradient_steps=1)
    cfg = OffPolicyRunnerCfg(
        policy=policy_cfg(variant, "none"),
        algorithm=DSRLCfg(init_from=str(path), learner=learner),
        num_steps_per_env=3,
        max_iterations=2,
        logger=[],
        report=False,
    )
    run = cfg.build(env=reach_cfg(8, seed=7, max_episode_length=10).build())
    run.learn()
    assert any(name.startswith("Loss/") for name in run.metrics)
