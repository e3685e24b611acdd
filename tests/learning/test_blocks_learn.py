"""The leaders of SAPG and EPO reach a threshold on the pendulum, with the registered configuration or a shorter one."""

from __future__ import annotations

import statistics

import pytest
from training import curve_of_task

pytestmark = [pytest.mark.learning, pytest.mark.slow]

pytest.importorskip("RRF_gym_tasks", reason="RRF_gym is not installed")


def test_a_leader_that_learns_from_its_followers_swings_up() -> None:
    """Doing nothing: -1,200. The gate is far above that and below what 25 iterations reached: -154, -182, -217."""
    assert curve_of_task("Pendulum-SAPGPPO", 1, "max_iterations=25")[-1] >= -450.0


@pytest.mark.long
@pytest.mark.parametrize("algorithm", ["SAPGPPO", "EPO"])
def test_the_median_of_three_seeds_passes_the_gate(algorithm: str) -> None:
    found = [curve_of_task(f"Pendulum-{algorithm}", seed, "max_iterations=50")[-1] for seed in (1, 2, 3)]
    assert statistics.median(found) >= -250.0, found
