"""TD-MPC2 swings the pendulum up by planning, after half of the steps that SAC's gate takes."""

from __future__ import annotations

import pytest
from training import Gate, Runs, curve_of_task, median, of_task

pytestmark = [pytest.mark.learning, pytest.mark.slow]

pytest.importorskip("RRF_gym_tasks", reason="RRF_gym is not installed")


def swings_up(runs: Runs) -> None:
    """After 10,000 transitions TD-MPC2's median is -250 or better and no seed below -450; TD-MPC's median is -500."""
    assert median(runs["TD-MPC2"]) >= -250.0, runs
    assert min(run.last["return"] for run in runs["TD-MPC2"]) >= -450.0, runs
    assert median(runs["TD-MPC"]) >= -500.0, runs


PLANNING = Gate(
    {name: of_task(f"Pendulum-{name.replace('-', '')}", evaluations=10) for name in ("TD-MPC2", "TD-MPC")},
    swings_up,
    threshold=-250.0,
)


def test_a_shortened_run_passes_the_gate() -> None:
    """With half the planner and half the batch; seeds 11 to 13: -497 to -318, hanging still is worth -1,200."""
    planner = ("algorithm.planner.iterations=2", "algorithm.planner.num_samples=32")
    found = curve_of_task("Pendulum-TDMPC2", 1, "max_iterations=2", "algorithm.batch_size=64", *planner)[-1]
    assert found >= -700.0


@pytest.mark.long
def test_the_median_of_whole_runs_passes_the_gate() -> None:
    PLANNING.check(PLANNING.measured())
