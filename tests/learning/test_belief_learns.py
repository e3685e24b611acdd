"""Noisy positions, hidden velocities, a slow sensor: a policy on a belief balances, one without memory does not."""

from __future__ import annotations

import statistics

import pytest
from training import curve_of_task

pytestmark = [pytest.mark.learning, pytest.mark.slow]

pytest.importorskip("RRF_gym_tasks", reason="RRF_gym is not installed")


def test_ppo_on_a_belief_begins_to_balance() -> None:
    found = curve_of_task("CartPoleSensors-BeliefPPO", 1, "max_iterations=20")[-1]
    assert found >= 80.0  # seeds 11 to 14: 111 to 247; without memory 45 after twice as many


@pytest.mark.long
def test_a_belief_stands_in_for_what_is_hidden_and_a_policy_without_memory_lacks_it() -> None:
    tasks = ("CartPoleSensors-BeliefPPO", "CartPoleSensors-PPO")
    found, without = ([curve_of_task(task, seed, "max_iterations=40")[-1] for seed in (1, 2, 3)] for task in tasks)
    assert statistics.median(found) >= 150.0 >= 2.0 * statistics.median(without), (found, without)


@pytest.mark.long
def test_sac_on_a_belief_beats_sac_without_memory() -> None:
    found, without = (curve_of_task(task, 1)[-1] for task in ("PendulumSensors-BeliefSAC", "PendulumSensors-SAC"))
    assert found > without + 50.0, (found, without)  # seed 11: -434 and -615
