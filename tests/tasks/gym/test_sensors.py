"""Sensors of two rates: what is read when, and that a saved environment goes on with the same noise."""

from __future__ import annotations

import pytest
import torch
from RoboRenForce.utils.registry import load_task

pytest.importorskip("RRF_gym_tasks")

pytestmark = pytest.mark.contract


@pytest.mark.parametrize(("task", "seen"), [("PendulumSensors-SAC", [0, 1]), ("CartPoleSensors-PPO", [2])])
def test_slow_sensors_are_exact_when_they_arrive_and_held_in_between(task: str, seen: list[int]):
    env = load_task(f"RoboRenForce-Gym-{task}").env_cfg.replace(num_envs=3, seed=4).build()
    obs, held, since = env.get_observations(), torch.zeros(3, len(seen)), torch.zeros(3, dtype=torch.int64)
    for _ in range(40):
        arrived = since % 5 == 0
        assert torch.equal(obs["arrival"].squeeze(1), torch.where(arrived, 1.0, -1.0))
        held = torch.where(arrived.unsqueeze(1), obs["full"][:, seen], held)
        assert torch.equal(obs["slow"], held)
        assert not torch.equal(obs["policy"][:, -1], obs["full"][:, seen[-1]])
        action = torch.zeros(3, 1) if task.startswith("Pendulum") else torch.ones(3, dtype=torch.int64)
        obs, _, dones, _ = env.step(action)
        since = torch.where(dones != 0, 0, since + 1)
    env.close()


def test_a_saved_environment_goes_on_with_the_same_noise():
    cfg = load_task("RoboRenForce-Gym-CartPoleSensors-BeliefPPO").env_cfg.replace(num_envs=2)
    env, again = cfg.build(), cfg.replace(seed=9).build()
    action = torch.ones(2, dtype=torch.int64)
    for _ in range(3):
        env.step(action)
    again.load_state_dict(env.state_dict())
    for _ in range(12):
        first, second = env.step(action)[0], again.step(action)[0]
        for name in first.keys():  # noqa: SIM118 - iterating a TensorDict yields its rows
            assert torch.equal(first[name], second[name]), name
