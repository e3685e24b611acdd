"""TD-MPC2 swings the pendulum up by planning, after a tenth of the steps that SAC's gate takes or a little more."""

from __future__ import annotations

import statistics

import pytest
from training import curve_of_task, final_returns

pytestmark = [pytest.mark.learning, pytest.mark.slow]

pytest.importorskip("RRF_gym_tasks", reason="RRF_gym is not installed")


def test_a_shortened_run_passes_the_gate() -> None:
    """With half the planner and half the batch; seeds 11 to 13: -497 to -318, hanging still is worth -1,200."""
    planner = ("algorithm.planner.iterations=2", "algorithm.planner.num_samples=32")
    found = curve_of_task("Pendulum-TDMPC2", 1, "max_iterations=2", "algorithm.batch_size=64", *planner)[-1]
    assert found >= -700.0


@pytest.mark.long
def test_the_median_of_whole_runs_passes_the_gate() -> None:
    found = final_returns("Pendulum-TDMPC2")
    assert statistics.median(found) >= -250.0, found
    assert found[0] >= -450.0, found


@pytest.mark.long
def test_tdmpc_learns_too() -> None:
    assert curve_of_task("Pendulum-TDMPC", 1)[-1] >= -500.0
