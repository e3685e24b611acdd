"""Policies cloned from few and noisy demonstrations get better by aliased critics, and by demonstrations beside SAC."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from RoboRenForce.algorithms import SACCfg
from RoboRenForce.algorithms.vla_rl import DSRLCfg, ResidualChunkCfg, RLPDCfg, vla_sac_networks
from RoboRenForce.algorithms.vla_training import VLAPlayPolicy
from RoboRenForce.buffer import FeatureReplayBufferCfg
from RoboRenForce.components.action_heads import FlowHeadCfg
from RoboRenForce.components.temperature import TemperatureCfg
from RoboRenForce.data import LeRobotWriter
from RoboRenForce.networks import MLPDenoiserCfg, ResidualMLPCfg
from RoboRenForce.runners import OffPolicyRunnerCfg
from RoboRenForce.runners.demonstrations import dataset_features, record_demonstrations
from RoboRenForce.runners.evaluation import evaluate

pytest.importorskip("RRF_tabletop_tasks")
pytest.importorskip("pyarrow")
from cloned_tabletop import clone, reach_cfg, small_policy
from RRF_tabletop_tasks import ExpertCfg

pytestmark = [pytest.mark.learning, pytest.mark.long]

HEAD = FlowHeadCfg(chunk_size=8, num_steps=5, network=MLPDenoiserCfg(network=ResidualMLPCfg(dim=128, num_blocks=2)))


def cloned(folder: Path, seed: int) -> Path:
    return clone(HEAD, folder, steps=250, seed=seed, speed=0.6, label_noise=0.5)


def learner(**options: Any) -> SACCfg:
    settings: dict[str, Any] = {
        "gamma": 0.95,
        "replay": FeatureReplayBufferCfg(capacity=50_000),
        "learning_starts": 320,
        "batch_size": 128,
        "gradient_steps": 4,
        "actor_learning_rate": 1e-3,
        "critic_learning_rate": 1e-3,
        "final_learning_rate": 0.1,
        "temperature": TemperatureCfg(initial=0.01),
    }
    return SACCfg(**(settings | options))


def networks(num_q: int = 2) -> Any:
    built = vla_sac_networks(num_q)
    for part in (built.actor_cfg, built.critic_cfg):
        part.backbone_cfg.hidden_features = [128, 128]
    return built


def aliased(path: Path, folder: Path, seed: int) -> DSRLCfg:
    return DSRLCfg(init_from=str(path), aliased=True, learner=learner(), networks=networks())


def with_demonstrations(path: Path, folder: Path, seed: int) -> RLPDCfg:
    """A handful of flawless demonstrations, which the cloned policy has not seen."""
    env: Any = reach_cfg(10, chunk=None, seed=500 + seed).build()
    with LeRobotWriter.create(
        folder / "demonstrations", fps=10, features=dataset_features(env.spec, "image")
    ) as writer:
        record_demonstrations(env, ExpertCfg(seed=seed).build(env), writer, 30, seed=500 + seed)
    return RLPDCfg(
        init_from=str(path),
        actions=ResidualChunkCfg(scale=1.0),
        demonstrations=str(folder / "demonstrations"),
        learner=learner(policy_delay=2, target_members=2),
        networks=networks(5),
    )


CASES: dict[str, tuple[Any, str]] = {
    "aliased critics": (aliased, "dense"),
    "demonstrations": (with_demonstrations, "sparse"),
}


def improve(case: str, seed: int, folder: Path) -> tuple[float, float]:
    """Success before and after."""
    algorithm, reward = CASES[case]
    cfg = OffPolicyRunnerCfg(
        num_steps_per_env=50,
        max_iterations=12,
        seed=seed,
        logger=[],
        report=False,
        policy=small_policy(HEAD),
        algorithm=algorithm(cloned(folder, seed), folder, seed),
    )
    shown = reach_cfg(100, seed=1234).build()
    runner: Any = cfg.build(env=reach_cfg(16, seed=20 + seed, reward=reward).build())
    before = evaluate(shown, VLAPlayPolicy(runner.algorithm.model, shown.spec), 200, seed=99)
    with torch.random.fork_rng():
        runner.learn()
    after = evaluate(shown, runner.policy(), 200, seed=99)
    return before.success_rate or 0.0, after.success_rate or 0.0


@pytest.mark.parametrize("case", CASES)
def test_a_cloned_policy_becomes_reliable(case: str, tmp_path: Path) -> None:
    before, after = improve(case, 2, tmp_path)
    assert 0.3 <= before <= 0.6 and after >= 0.85, f"{before:.2f} -> {after:.2f}"
