"""A run goes on with another number of environments: what was learned stays, what belongs to episodes begins anew."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from RoboRenForce import algorithms, components, networks
from RoboRenForce.buffer import PrioritizedReplayBufferCfg, ReplayBufferCfg
from small_runs import check_same, ppo_cfg, scripted
from test_off_policy_runs import SMALL, dsact, sac_cfg, with_memory

pytestmark = pytest.mark.contract

MLP = networks.MLPCfg(hidden_features=[8])
ALL_OF_PPO: dict[str, Any] = {
    "normalize_reward": True,
    "normalize_value": True,
    "reward_terms": [algorithms.RNDCfg(normalize_reward=True)],
}


def ppo(backbone: networks.NetworkCfg, **options: Any) -> Any:
    learning = {"num_learning_epochs": 1, "num_mini_batches": 2} | options
    return ppo_cfg(backbone, algorithm=algorithms.PPOCfg(**learning))


def flash(replay: ReplayBufferCfg) -> Any:
    return sac_cfg(algorithms.FlashSACCfg(**{**SMALL, "replay": replay}, precision="fp32"))


def td3() -> Any:
    policy = components.ActorQPackCfg(
        actor_cfg=components.DeterministicActorCfg(backbone_cfg=MLP),
        critic_cfg=components.QNetworkCfg(backbone_cfg=MLP),
    )
    return sac_cfg(algorithms.FastTD3Cfg(**SMALL, precision="fp32"), policy)


RUNS = {
    "ppo": lambda: ppo(MLP, **ALL_OF_PPO),
    "ppo_gru": lambda: ppo(networks.RNNCfg(hidden_size=8), **ALL_OF_PPO),
    "ppo_rsl_rl": lambda: ppo(MLP, normalize_reward=True, parity="rsl_rl_5_4"),
    "sac": sac_cfg,
    "dsact": dsact,
    "fast_td3": td3,  # a noise level per environment
    "flash": lambda: flash(ReplayBufferCfg(capacity=64)),  # held noise and running returns; its replay is not stored
    "n_step": lambda: flash(ReplayBufferCfg(capacity=64, n_step=3, store=True)),
    "prioritized": lambda: flash(PrioritizedReplayBufferCfg(capacity=64, n_step=2, store=True)),
    "memory": lambda: with_memory("gru"),
    "stack": lambda: with_memory("stack"),
}


def learned(state: Any, num_envs: tuple[int, ...]) -> Any:
    """`state` without tensors that have a row or column per environment, and without the replay."""
    if isinstance(state, dict):
        kept = {name: learned(value, num_envs) for name, value in state.items() if name != "replay"}
        return {name: value for name, value in kept.items() if value is not None}
    if isinstance(state, torch.Tensor) and set(state.shape) & set(num_envs):
        return None
    return state


@pytest.mark.parametrize("num_envs", [4, 12])
@pytest.mark.parametrize("name", RUNS)
def test_a_run_goes_on_with_fewer_or_more_environments(
    tmp_path: Path, name: str, num_envs: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    cfg = RUNS[name]().replace(max_iterations=3, save_interval=3, seed=3)
    first = cfg.build(env=scripted(num_envs=6), log_dir=tmp_path)
    first.learn()
    again = cfg.replace(max_iterations=5).build(env=scripted(num_envs=num_envs))
    again.load(tmp_path / "model_3.pt")
    sizes = (6, num_envs)
    check_same(learned(first.algorithm.state_dict(), sizes), learned(again.algorithm.state_dict(), sizes), name)
    assert caplog.text.count(f"Resuming with {num_envs} environments instead of 6: all start with fresh episodes") == 1

    again.first_observations()
    experience = getattr(again.algorithm, "experience", None)
    collector = again.algorithm.collector
    starts = collector.start if experience is None else collector.policy_state.start
    assert starts.all()
    if (scaler := (experience or again.algorithm).reward_scaler) is not None:
        assert torch.equal(scaler.discounted, torch.zeros(num_envs)) and scaler.moments.count > 0
    if experience is not None:
        kept = len(first.algorithm.experience.buffer) // num_envs * num_envs if experience.buffer.cfg.store else 0
        assert len(experience.buffer) == kept
    before = [value.clone() for value in again.algorithm.networks.parameters()]
    again.learn()
    assert again.iteration == 5
    moved = [not torch.equal(a, b) for a, b in zip(before, again.algorithm.networks.parameters(), strict=True)]
    assert any(moved)
