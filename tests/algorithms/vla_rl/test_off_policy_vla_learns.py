"""Policies cloned from few and noisy demonstrations get better by SAC over corrections, and over start noise."""

from __future__ import annotations

from pathlib import Path
from statistics import median
from typing import Any

import pytest
import torch
from RoboRenForce.algorithms import SACCfg
from RoboRenForce.algorithms.vla_rl import DSRLCfg, ResidualChunkCfg, VLASACCfg, vla_sac_networks
from RoboRenForce.algorithms.vla_training import VLAPlayPolicy
from RoboRenForce.buffer import FeatureReplayBufferCfg
from RoboRenForce.components.action_heads import FlowHeadCfg
from RoboRenForce.components.temperature import TemperatureCfg
from RoboRenForce.networks import MLPDenoiserCfg, ResidualMLPCfg
from RoboRenForce.runners import OffPolicyRunnerCfg
from RoboRenForce.runners.evaluation import evaluate

pytest.importorskip("RRF_tabletop_tasks")
from cloned_tabletop import clone, reach_cfg, small_policy

pytestmark = [pytest.mark.learning, pytest.mark.long]

HEAD = FlowHeadCfg(chunk_size=8, num_steps=5, network=MLPDenoiserCfg(network=ResidualMLPCfg(dim=128, num_blocks=2)))
CASES: dict[str, tuple[Any, dict[str, Any]]] = {
    "corrections": (VLASACCfg, {"actions": ResidualChunkCfg(scale=1.0)}),
    "start noise": (DSRLCfg, {}),
}


SEEDS = (0, 1, 2)


@pytest.fixture(scope="module")
def cloned(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A policy for each seed."""
    folders = [tmp_path_factory.mktemp("cloned") for _ in SEEDS]
    return [
        clone(HEAD, folder, steps=250, seed=seed, speed=0.6, label_noise=0.5)
        for folder, seed in zip(folders, SEEDS, strict=True)
    ]


def runner_cfg(kind: Any, cloned: Path, seed: int = 0, **options: Any) -> OffPolicyRunnerCfg:
    networks = vla_sac_networks()
    for part in (networks.actor_cfg, networks.critic_cfg):
        part.backbone_cfg.hidden_features = [128, 128]
    learner = SACCfg(
        gamma=0.95,
        replay=FeatureReplayBufferCfg(capacity=50_000),
        learning_starts=320,
        batch_size=128,
        gradient_steps=4,
        actor_learning_rate=1e-3,
        critic_learning_rate=1e-3,
        final_learning_rate=0.1,
        temperature=TemperatureCfg(initial=0.01),
    )
    return OffPolicyRunnerCfg(
        num_steps_per_env=50,
        max_iterations=18,
        seed=seed,
        logger=[],
        report=False,
        policy=small_policy(HEAD),
        algorithm=kind(init_from=str(cloned), learner=learner, networks=networks, **options),
    )


@pytest.mark.parametrize("case", CASES)
def test_a_cloned_policy_becomes_reliable(cloned: list[Path], case: str) -> None:
    """Median of three seeds."""
    kind, options = CASES[case]
    shown = reach_cfg(100, seed=1234).build()
    reached = []
    for seed in SEEDS:
        cfg = runner_cfg(kind, cloned[seed], seed, **options)
        runner: Any = cfg.build(env=reach_cfg(16, seed=seed, reward="dense").build())
        before = evaluate(shown, VLAPlayPolicy(runner.algorithm.model, shown.spec), 200, seed=99)
        with torch.random.fork_rng():
            runner.learn()
        reached.append(evaluate(shown, runner.policy(), 200, seed=99).success_rate)
        print(f"{case}, seed {seed}: {before.success_rate} -> {reached[-1]}")
        assert 0.2 <= before.success_rate <= 0.6
    assert median(reached) >= 0.85
