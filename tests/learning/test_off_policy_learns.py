"""SAC, TD3 and DSAC-T solve the pendulum: the median of three seeds, evaluated deterministically over ten episodes."""

from __future__ import annotations

import statistics

import pytest
from training import returns

pytestmark = [pytest.mark.learning, pytest.mark.slow]

pytest.importorskip("RRF_gym_tasks", reason="RRF_gym is not installed")


@pytest.mark.parametrize(
    ("task", "gate", "floor"),
    [
        ("RoboRenForce-Gym-Pendulum-SAC", -200.0, -300.0),
        ("RoboRenForce-Gym-Pendulum-TD3", -220.0, -400.0),
        ("RoboRenForce-Gym-Pendulum-DSACT", -200.0, -300.0),
    ],
)
def test_the_median_seed_passes_the_gate(task: str, gate: float, floor: float):
    found = returns(task)
    assert statistics.median(found) >= gate, found
    assert found[0] >= floor, found
