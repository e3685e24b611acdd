"""Noisy positions, hidden velocities, a slow sensor: a policy on a belief balances, one without memory does not."""

from __future__ import annotations

import pytest
from training import Gate, Runs, curve_of_task, median, of_task

pytestmark = [pytest.mark.learning, pytest.mark.slow]

pytest.importorskip("RRF_gym_tasks", reason="RRF_gym is not installed")


def balances(runs: Runs) -> None:
    """On a belief PPO's median balances for at least 150 steps, without memory for at most 75."""
    assert median(runs["belief"]) >= 150.0 >= 2.0 * median(runs["no memory"]), runs


def swings_up_better(runs: Runs) -> None:
    """On a belief SAC returns at least 50 more than without memory."""
    assert median(runs["belief"]) > median(runs["no memory"]) + 50.0, runs


CARTPOLE = Gate(
    {
        name: of_task(f"CartPoleSensors-{algorithm}", "max_iterations=40", evaluations=4)
        for name, algorithm in (("belief", "BeliefPPO"), ("no memory", "PPO"))
    },
    balances,
    threshold=150.0,
)
PENDULUM = Gate(
    {
        name: of_task(f"PendulumSensors-{algorithm}", evaluations=4)
        for name, algorithm in (("belief", "BeliefSAC"), ("no memory", "SAC"))
    },
    swings_up_better,
    seeds=(1,),
)


def test_ppo_on_a_belief_begins_to_balance() -> None:
    found = curve_of_task("CartPoleSensors-BeliefPPO", 1, "max_iterations=20")[-1]
    assert found >= 80.0  # seeds 11 to 14: 111 to 247; without memory 45 after twice as many


@pytest.mark.long
def test_a_belief_stands_in_for_what_is_hidden_and_a_policy_without_memory_lacks_it() -> None:
    CARTPOLE.check(CARTPOLE.measured())


@pytest.mark.long
def test_sac_on_a_belief_beats_sac_without_memory() -> None:
    PENDULUM.check(PENDULUM.measured())
