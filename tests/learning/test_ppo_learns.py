"""PPO reaches a threshold on small problems: the median of three seeds, evaluated deterministically over ten episodes.

Each seed trains in a process of its own, two at a time, with the registered configuration of its task.
"""

from __future__ import annotations

import statistics

import pytest
from training import returns

pytestmark = [pytest.mark.learning, pytest.mark.slow]

pytest.importorskip("RRF_gym_tasks", reason="RRF_gym is not installed")


@pytest.mark.parametrize(
    ("task", "gate", "floor"),
    [
        ("RoboRenForce-Gym-CartPole-PPO", 475.0, 300.0),
        ("RoboRenForce-Gym-Pendulum-PPO", -300.0, -600.0),
        ("RoboRenForce-Gym-InvertedPendulum-PPO", 900.0, 500.0),
        ("RoboRenForce-Gym-CartPoleMasked-PPORNN", 400.0, 200.0),
    ],
)
def test_the_median_seed_passes_the_gate(task: str, gate: float, floor: float):
    found = returns(task)
    assert statistics.median(found) >= gate, found
    assert found[0] >= floor, found


def test_without_memory_hidden_velocities_can_not_be_balanced():
    """The task that the GRU solves is one: an MLP, with the same observations, stays low."""
    found = returns("RoboRenForce-Gym-CartPoleMasked-PPO")
    assert statistics.median(found) <= 200.0, found
