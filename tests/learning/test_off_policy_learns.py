"""SAC, TD3 and DSAC-T solve the pendulum; hanging still is worth about -1,200, the best known policy about -150."""

from __future__ import annotations

import statistics

import pytest
from training import curve_of_task, final_returns

pytestmark = [pytest.mark.learning, pytest.mark.slow]

pytest.importorskip("RRF_gym_tasks", reason="RRF_gym is not installed")


@pytest.mark.parametrize(
    ("task", "iterations", "gate"),
    [  # with seeds 11 to 18
        ("Pendulum-SAC", 12, -500.0),  # -133 to -97; single evaluations of the next eight iterations fall to -443
        ("Pendulum-TD3", 17, -500.0),  # -136 to -98, with a fall to -202 before
        ("Pendulum-DSACT", 24, -500.0),  # -155 to -114, with a fall to -380 later
    ],
)
def test_a_shortened_run_passes_the_gate(task: str, iterations: int, gate: float) -> None:
    assert curve_of_task(task, 1, f"max_iterations={iterations}")[-1] >= gate


@pytest.mark.long
@pytest.mark.parametrize(
    ("task", "gate", "floor"),
    [("Pendulum-SAC", -200.0, -450.0), ("Pendulum-TD3", -220.0, -450.0), ("Pendulum-DSACT", -200.0, -450.0)],
)
def test_the_median_of_whole_runs_passes_the_gate(task: str, gate: float, floor: float) -> None:
    found = final_returns(task)
    assert statistics.median(found) >= gate, found
    assert found[0] >= floor, found
