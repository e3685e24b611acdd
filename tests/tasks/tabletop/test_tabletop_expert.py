"""The scripted expert: it succeeds, errs as it is told to, and goes around a post on both sides."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from RoboRenForce.envs import VecEnv
from RRF_tabletop_tasks import ExpertCfg, TabletopCfg
from RRF_tabletop_tasks.registration import state_cfg

pytestmark = pytest.mark.contract


def outcome(env: VecEnv, steps: int, **options: Any) -> tuple[float, float]:
    """Success rate and mean length of the episodes that end."""
    expert = ExpertCfg(**options).build(env)
    ended = succeeded = length = 0.0
    for _ in range(steps):
        lengths = env.episode_length_buf + 1
        _, _, dones, extras = env.step(expert())
        expert.reset(dones)
        ended += dones.sum().item()
        succeeded += extras["success"].sum().item()
        length += lengths[dones.bool()].sum().item()
    return succeeded / ended, length / ended


@pytest.mark.parametrize("task", ["Place", "Reach", "Fork"])
@pytest.mark.parametrize("noise", [0.0, 0.2])
def test_it_succeeds(task: Any, noise: float) -> None:
    rate, length = outcome(state_cfg(task, num_envs=100).build(), 100, noise=noise)
    assert rate == 1.0 if not noise else rate > 0.97
    assert 4 < length < 30


def test_it_fails_as_often_as_it_is_told_to() -> None:
    for task in ("Reach", "Fork"):
        rate, _ = outcome(state_cfg(task, num_envs=400).build(), 80, failure_rate=0.3)
        # Failing episodes last to the horizon, so fewer of them end in a fixed number of steps.
        assert 0.6 < rate < 0.97
    assert outcome(state_cfg("Place", num_envs=50).build(), 120, failure_rate=1.0)[0] < 0.1


def test_both_ways_around_the_post_are_taken_and_equally_good() -> None:
    env = state_cfg("Fork", num_envs=400).build()
    assert bool((env.scene.hand[:, 0] == env.scene.posts[:, 0, 0]).all())
    expert = ExpertCfg(seed=1).build(env)
    sides, lengths = [], []
    for _ in range(30):
        hand, length = env.scene.hand.clone(), env.episode_length_buf + 1
        beside = (hand[:, 1] - env.scene.posts[:, 0, 1]).abs() < 0.08
        sides.append((hand[:, 0] - env.scene.posts[:, 0, 0])[beside])
        _, _, dones, extras = env.step(expert())
        expert.reset(dones)
        assert bool(extras["success"][dones.bool()].all())
        lengths.append(length[dones.bool()])
    side = torch.cat(sides)
    assert (side.abs() > 0.24).all()
    assert 0.4 < (side > 0).float().mean() < 0.6
    assert torch.cat(lengths).float().std() < 1.0
    one_way = ExpertCfg(right_share=1.0).build(env)
    env.reset(seed=5)
    for _ in range(5):
        env.step(one_way())
    assert (env.scene.hand[:, 0] > 0).all()


def test_a_slower_expert_needs_longer() -> None:
    env = state_cfg("Reach", num_envs=100).build()
    assert outcome(env, 60, speed=0.5)[1] > 1.5 * outcome(env, 60)[1]


def test_it_acts_below_any_wrapper_and_is_part_of_the_configuration() -> None:
    env = TabletopCfg(num_envs=3, image_size=32, task="Reach", expert=ExpertCfg(noise=0.1)).build()
    assert env.cfg.expert.build(env)(env.get_observations()).shape == (3, 3)
