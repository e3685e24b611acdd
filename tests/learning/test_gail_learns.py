"""GAIL learns InvertedPendulum from ten episodes of a linear controller, without the reward of the task.

`gail+` rewards every step of life, which alone would keep a pole upright. The pendulum that is swung up has episodes of
one length: there, only the expert's behavior pays.
"""

from __future__ import annotations

from functools import cache

import pytest
import torch
from learning_expert import LINEAR, SWING_UP, recorded
from RoboRenForce.runners.evaluation import evaluate
from RoboRenForce.utils.registry import load_task

pytestmark = pytest.mark.learning


def imitate(task_id: str, expert: object, seed: int, **options: object) -> tuple[float, float]:
    """Return the returns of the expert and of the policy that imitated it."""
    torch.manual_seed(seed)
    task = load_task(task_id)
    data, worth = recorded(task.env_cfg, expert, seed)
    cfg = task.runner_cfg.replace(seed=seed, logger=[], report=False, eval_interval=0, **options)
    cfg.algorithm.reward_terms[0].expert = data
    runner = cfg.build(env=task.env_cfg.replace(seed=1000 * seed).build(), device="cpu")
    runner.learn(cfg.max_iterations)
    env = task.env_cfg.replace(num_envs=10, seed=1000 * seed + 500).build()
    return worth, evaluate(env, runner.policy(), 10).mean


@cache
def balanced(seed: int) -> tuple[float, float]:
    """Returns of expert and policy on InvertedPendulum."""
    return imitate("RoboRenForce-Gym-InvertedPendulum-GAILPPO", LINEAR, seed, max_iterations=32)


def test_ten_episodes_suffice() -> None:
    expert, policy = balanced(1)
    assert expert == 1000.0
    assert policy >= 0.8 * expert


@pytest.mark.long
def test_ten_episodes_suffice_for_three_seeds() -> None:
    assert sorted(balanced(seed)[1] for seed in (1, 2, 3))[1] >= 0.8 * 1000.0


@pytest.mark.long
def test_a_pendulum_is_swung_up_like_the_expert() -> None:
    expert, policy = imitate("RoboRenForce-Gym-Pendulum-GAILPPO", SWING_UP, 1)
    assert expert > -200.0
    assert policy > -400.0
