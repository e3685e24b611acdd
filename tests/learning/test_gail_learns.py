"""GAIL learns InvertedPendulum from ten episodes of a linear controller, without the reward of the task.

`gail+` rewards every step of life, which alone would keep a pole upright. The pendulum that is swung up has episodes of
one length: there, only the expert's behavior pays.
"""

from __future__ import annotations

from functools import partial

import pytest
import torch
from learning_expert import LINEAR, SWING_UP, recorded
from RoboRenForce.utils.registry import load_task
from training import Gate, Run, Runs, median, trained

pytestmark = pytest.mark.learning


def imitator(name: str, expert: object, seed: int, *overrides: str, evaluations: int = 1) -> Run:
    """Imitate ten episodes of an expert, whose own return is kept as `expert`."""
    torch.manual_seed(seed)
    task = load_task(f"RoboRenForce-Gym-{name}-GAILPPO")
    task.apply_overrides(list(overrides))
    data, worth = recorded(task.env_cfg, expert, seed)
    task.runner_cfg.algorithm.reward_terms[0].expert = data
    run = trained(task.runner_cfg, task.env_cfg, seed, evaluations)
    for point in run.curve:
        point["expert"] = worth
    return run


balancing = partial(imitator, "InvertedPendulum", LINEAR)


def like_experts(runs: Runs) -> None:
    """From ten episodes: InvertedPendulum's median is 80 % of the expert's, Pendulum's -400 of an expert above -200."""
    balanced, swung_up = runs["InvertedPendulum"], runs["Pendulum"]
    assert median(balanced) >= 0.8 * median(balanced, "expert"), runs
    assert median(swung_up, "expert") > -200.0 and median(swung_up) > -400.0, runs


GAIL = Gate(
    {
        "InvertedPendulum": lambda seed: balancing(seed, "max_iterations=32", evaluations=8),
        "Pendulum": lambda seed: imitator("Pendulum", SWING_UP, seed, evaluations=5),
    },
    like_experts,
)


def test_ten_episodes_suffice() -> None:
    judged = balancing(1, "max_iterations=32").last
    assert judged["expert"] == 1000.0
    assert judged["return"] >= 0.8 * judged["expert"]


@pytest.mark.long
def test_ten_episodes_suffice_for_three_seeds() -> None:
    GAIL.check(GAIL.measured())
