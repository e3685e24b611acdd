"""Pendulum without its velocity: SAC can't, SAC-Seq and SAC-Trans can. 40,000 environment steps, three seeds each.

The best known mean return is about -150, and hanging still about -1200.
"""

from __future__ import annotations

import statistics

import pytest
from training import returns

pytestmark = [pytest.mark.learning, pytest.mark.slow]

pytest.importorskip("RRF_gym_tasks", reason="RRF_gym is not installed")


@pytest.mark.parametrize("algorithm", ["SACSeq", "SACTrans"])
def test_a_memory_stands_in_for_the_velocity(algorithm: str):
    found = returns(f"RoboRenForce-Gym-PendulumMasked-{algorithm}")
    assert statistics.median(found) >= -300.0, found


def test_without_a_memory_the_velocity_is_missed():
    found = returns("RoboRenForce-Gym-PendulumMasked-SAC")
    assert statistics.median(found) <= -700.0, found
