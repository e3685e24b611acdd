"""Offline runs: exact resume, evaluation, play without the data, and going on from replays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from RoboRenForce import algorithms, components, networks, runners
from RoboRenForce.algorithms import ActorPolicy
from RoboRenForce.buffer import DatasetCfg, DatasetLoader, EpisodeArrays, ReplayBufferCfg, TransitionDataset
from RoboRenForce.configclass import configclass
from RoboRenForce.envs.scripted_env import ScriptedEnvCfg
from RoboRenForce.runners.playing import build_player
from RoboRenForce.utils.checkpoint import load_checkpoint
from RoboRenForce.utils.errors import CheckpointError
from RoboRenForce.utils.run_dir import RunDir
from small_runs import check_same, scripted
from test_resume import check_resume, metrics, trained

pytestmark = pytest.mark.contract

ENV = ScriptedEnvCfg(num_envs=4)


class RandomData(DatasetLoader):
    """Random episodes of the scripted environment's shapes."""

    reads = 0

    def read(self) -> TransitionDataset:
        RandomData.reads += 1
        random, episodes = np.random.default_rng(self.cfg.seed), []
        for number, length in enumerate((12, 30, 9)):
            last = np.arange(length) == length - 1
            rows = {"policy": 3, "critic": 4}
            episodes.append(
                EpisodeArrays(
                    key=f"episode_{number}",
                    observations={name: random.normal(size=(length + 1, size)) for name, size in rows.items()},
                    actions=random.uniform(-1.0, 1.0, (length, 2)),
                    rewards=random.normal(size=length),
                    terminations=last & (number != 1),
                    truncations=last & (number == 1),
                )
            )
        return TransitionDataset.from_episodes(episodes, source="random", action=scripted().spec.action)


@configclass
class RandomDataCfg(DatasetCfg):
    class_type: type = RandomData
    seed: int = 0


MLP = networks.MLPCfg(hidden_features=[8])
ACTORS: dict[str, components.ActorCfg] = {
    "normal": components.StateIndStdActorCfg(backbone_cfg=MLP, use_log_std=True),
    "squashed": components.TanhGaussianActorCfg(backbone_cfg=MLP),
    "deterministic": components.DeterministicActorCfg(backbone_cfg=MLP),
}
SMALL: dict[str, Any] = {"batch_size": 16, "replay": ReplayBufferCfg(capacity=64)}
RUNS: dict[str, tuple[str, Any]] = {
    "bc": ("deterministic", algorithms.BCCfg),
    "iql": ("normal", algorithms.IQLCfg),
    "cql": ("squashed", algorithms.CQLCfg),
    "cql_lagrange": ("squashed", lambda **options: algorithms.CQLCfg(target_gap=1.0, **options)),
    "td3_bc": ("deterministic", algorithms.TD3BCCfg),
    "rebrac": ("deterministic", algorithms.ReBRACCfg),
}


def offline_cfg(name: str, **changes: Any) -> runners.OfflineRunnerCfg:
    """A run of four iterations of three updates."""
    actor, algorithm = RUNS[name]
    critic, value = components.QNetworkCfg(backbone_cfg=MLP), components.VNetworkCfg(backbone_cfg=MLP)
    policy: Any = components.ActorQPackCfg(actor_cfg=ACTORS[actor], critic_cfg=critic)
    if name == "bc":
        policy = components.ActorPackCfg(actor_cfg=ACTORS[actor])
    elif name == "iql":
        policy = components.ActorQVPackCfg(actor_cfg=ACTORS[actor], critic_cfg=critic, value_cfg=value)
    options: dict[str, Any] = {
        "updates_per_iteration": 3,
        "max_iterations": 4,
        "eval_interval": 0,
        "logger": [],
        "report": False,
        "dataset": RandomDataCfg(),
        "policy": policy,
        "algorithm": algorithm(**SMALL),
    }
    return runners.OfflineRunnerCfg(**(options | changes))


@pytest.mark.parametrize("name", RUNS)
def test_resume_is_exact(tmp_path: Path, name: str) -> None:
    check_resume(offline_cfg(name), None, tmp_path, stop=10, end=20)
    assert trained(load_checkpoint(tmp_path / "straight" / "model_20.pt"), tmp_path)


def test_an_iteration_is_its_updates_without_any_environment(tmp_path: Path) -> None:
    runner = offline_cfg("iql").build(log_dir=tmp_path)
    runner.learn()
    assert runner.algorithm.num_updates == runner.max_updates == 12 and runner.steps == 0
    assert runner.eval_env is None
    lines = metrics(tmp_path)
    assert [line["Train/updates"] for line in lines] == [3.0, 6.0, 9.0, 12.0]
    assert {"Loss/value", "Loss/critic", "Loss/actor", "Policy/advantage_weight"} <= lines[-1].keys()


def test_evaluations_decide_about_the_best_checkpoint_and_change_nothing(tmp_path: Path) -> None:
    plain, evaluated = tmp_path / "plain", tmp_path / "evaluated"
    offline_cfg("iql").build(log_dir=plain).learn()
    cfg = offline_cfg("iql", eval_interval=2, eval_episodes=4)
    cfg.build(eval_env=ENV.replace(seed=5).build(), log_dir=evaluated).learn()
    assert ["Eval/mean_reward" in line for line in metrics(evaluated)] == [False, True, False, True]
    assert RunDir(evaluated).pointed("best") is not None
    one, two = (load_checkpoint(folder / "model_4.pt")["algorithm"] for folder in (plain, evaluated))
    check_same(one, two)


def test_a_policy_is_played_without_the_data_it_learned_from(tmp_path: Path) -> None:
    for name in RUNS:
        folder = tmp_path / name
        runner = offline_cfg(name).build(log_dir=folder)
        runner.learn()
        reads = RandomData.reads
        played = build_player(offline_cfg(name), runner.spec, scripted(num_envs=2), "cpu")
        played.load(folder / "model_4.pt", resume=False)
        assert RandomData.reads == reads
        policy = played.policy()
        assert isinstance(policy, ActorPolicy)
        obs = scripted().get_observations()
        assert torch.equal(policy(obs), runner.policy()(obs))


def test_a_small_data_set_needs_no_warm_up() -> None:
    algorithm = algorithms.SACCfg(**SMALL)
    assert algorithm.learning_starts > 100  # and the data has fewer transitions
    runner = offline_cfg("cql", algorithm=algorithm).build()
    runner.learn()
    assert len(runner.algorithm.experience.buffer) < 100
    assert runner.algorithm.num_updates == 12


def test_other_data_is_refused_on_resume(tmp_path: Path) -> None:
    offline_cfg("iql").build(log_dir=tmp_path).learn()
    other = offline_cfg("iql", dataset=RandomDataCfg(seed=1)).build()
    with pytest.raises(CheckpointError, match="resume with the same data"):
        other.load(tmp_path / "model_4.pt")


@pytest.mark.parametrize("name", ["iql", "cql", "td3_bc"])
def test_a_policy_goes_on_online_from_its_checkpoint(tmp_path: Path, name: str) -> None:
    """The same algorithm with an off-policy runner takes over networks, targets, optimizers and normalizers."""
    offline = offline_cfg(name)
    first = offline.build(log_dir=tmp_path)
    first.learn()
    online = runners.OffPolicyRunnerCfg(
        num_steps_per_env=8,
        max_iterations=3,
        logger=[],
        report=False,
        policy=offline.policy,
        algorithm=offline.algorithm,
    ).build(env=ENV.build())
    online.load(tmp_path / "model_4.pt", resume=False)
    check_same(online.algorithm.networks.state_dict(), first.algorithm.networks.state_dict())
    assert len(online.algorithm.experience.buffer) == 0
    before = online.algorithm.num_updates
    online.learn()
    assert online.algorithm.num_updates > before == 12
    seen = online.algorithm.actor.normalizer.moments.count
    assert float(seen) == 12 + 30 + 9 + 3 * 8 * ENV.num_envs
