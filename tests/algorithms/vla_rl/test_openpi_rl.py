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
    variant, path = start
    fields = {"init_from": str(path), "optimizer": SGD, "num_mini_batches": 1, "num_learning_epochs": 1, **options}
    env_cfg = reach_cfg(8, seed=7, max_episode_length=10, reward="dense")
    if algorithm == "grpo":
        env_cfg.groups = GroupVecCfg(group_size=4)
        cfg: Any = VLAGRPORunnerCfg(algorithm=GRPOCfg(**fields))
    else:
        value = ValueHeadCfg(network=MLPCfg(hidden_features=[16]))
        cfg = VLAPPORunnerCfg(algorithm=VLAPPOCfg(value=value, **fields), num_steps_per_env=4)
    cfg = cfg.replace(policy=policy_cfg(variant, density), logger=[], report=False, max_iterations=1)
    run = cfg.build(env=env_cfg.build())
    run.before = weights(run)
    run.learn()
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
