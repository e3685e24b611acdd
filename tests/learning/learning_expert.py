"""Scripted experts, and their recorded episodes as the data of an imitation learner."""

from __future__ import annotations

from typing import Any

import torch
from RoboRenForce.buffer import DatasetCfg, DatasetLoader, TransitionDataset
from RoboRenForce.configclass import configclass
from RoboRenForce.runners.recording import Behavior, record_episodes
from torch import Tensor


class Linear(Behavior):
    """InvertedPendulum by state feedback, with noise: a policy that samples could not look like it otherwise."""

    def act(self, obs: Any) -> Tensor:
        state = obs["policy"]
        action = state @ state.new_tensor([[0.5], [10.0], [1.0], [2.0]]) / 3.0
        return (action + 0.1 * torch.randn_like(action)).clamp(-1.0, 1.0)


class SwingUp(Behavior):
    """Pendulum by its energy until it is nearly upright, then by state feedback; with noise."""

    def act(self, obs: Any) -> Tensor:
        cos, sin, speed = obs["policy"].unbind(-1)
        angle = torch.atan2(sin, cos)
        energy = speed.square() / 6.0 + 5.0 * (cos - 1.0)
        pump = torch.where(energy.abs() < 0.2, 0.0, -2.0 * torch.sign(energy) * torch.sign(speed + 1e-3))
        hold = -(12.0 * angle + 3.0 * speed)
        torque = torch.where((cos > 0.85) & (energy > -2.0), hold, pump)
        return (torque / 2.0 + 0.1 * torch.randn_like(torque)).clamp(-1.0, 1.0).unsqueeze(-1)


LINEAR, SWING_UP = Linear(), SwingUp()
_RECORDED: dict[str, TransitionDataset] = {}


class Recorded(DatasetLoader):
    """Data of this process."""

    def read(self) -> TransitionDataset:
        return _RECORDED[self.cfg.source]


@configclass
class RecordedCfg(DatasetCfg):
    """Name of a recording."""

    class_type: type = Recorded
    source: str = ""


def recorded(env_cfg: Any, expert: Any, seed: int, episodes: int = 10) -> tuple[RecordedCfg, float]:
    """Record whole episodes; returns the data and their mean return."""
    env = env_cfg.replace(num_envs=episodes, seed=seed).build()
    taped = record_episodes(env, expert, episodes, seed=seed)
    name = f"{type(expert).__name__}-{seed}"
    _RECORDED[name] = TransitionDataset.from_episodes(taped, source=name, action=env.spec.action)
    return RecordedCfg(source=name), sum(float(tape.rewards.sum()) for tape in taped) / len(taped)
