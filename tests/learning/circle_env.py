"""A point mass in the plane that nothing rewards: what it does is what a discriminator has seen of circles."""

from __future__ import annotations

import math
from typing import Any

import torch
from RoboRenForce.buffer import DatasetCfg, DatasetLoader, EpisodeArrays, TransitionDataset
from RoboRenForce.configclass import Cfg, configclass
from RoboRenForce.envs import ActionSpec, EnvSpec, VecEnv
from RoboRenForce.envs.vec_env import StepReturn
from tensordict import TensorDict

RADIUS, SPEED, STEP = 1.0, 1.0, 0.1
"""Of the circle in m and m/s, counterclockwise; seconds per step."""
LENGTH = 100
PUSH = 3.0
"""Acceleration of an action of 1 in m/s^2; the circle needs a third of it."""
ACTION = ActionSpec("continuous", 2, (-1.0, -1.0), (1.0, 1.0))


class CircleEnv(VecEnv):
    """Groups `policy` and `amp` (4,): place and velocity. A share of episodes starts on the circle, others at rest."""

    def __init__(self, cfg: CircleEnvCfg) -> None:
        self.cfg, self.device = cfg, torch.device(cfg.device)
        groups = {"policy": (4,), "amp": (4,)}
        self.spec = EnvSpec("Circle", cfg.num_envs, groups, ACTION, LENGTH, ("final_observations",))
        self.reset(seed=cfg.seed)

    def reset(self, *, seed: int | None = None) -> tuple[TensorDict, dict[str, Any]]:
        if seed is not None:
            self._generator = torch.Generator().manual_seed(seed)
        self._state = self._first()
        self._episode_length_buf = torch.zeros(self.num_envs, dtype=torch.int64)
        return self.get_observations(), {}

    def get_observations(self) -> TensorDict:
        return TensorDict({"policy": self._state.clone(), "amp": self._state.clone()}, batch_size=[self.num_envs])

    def step(self, actions: torch.Tensor) -> StepReturn:
        place, velocity = self._state.split(2, dim=1)
        velocity = velocity + STEP * PUSH * actions.clamp(-1, 1)
        self._state = torch.cat([(place + STEP * velocity).clamp(-5, 5), velocity], dim=1)
        self._episode_length_buf = self._episode_length_buf + 1
        final, done = self.get_observations(), self._episode_length_buf >= LENGTH
        self._episode_length_buf = torch.where(done, 0, self._episode_length_buf)
        self._state = torch.where(done.unsqueeze(1), self._first(), self._state)
        extras = {"terminated": torch.zeros_like(done), "time_outs": done, "log": {}, "final_observations": final}
        return self.get_observations(), torch.zeros(self.num_envs), done.long(), extras

    def _first(self) -> torch.Tensor:
        chance, *drawn = torch.rand(4, self.num_envs, generator=self._generator)
        anywhere = torch.stack([*(3.0 * RADIUS * (draw - 0.5) for draw in drawn[:2])], dim=1)
        resting = torch.cat([anywhere, torch.zeros_like(anywhere)], dim=1)
        return torch.where((chance < self.cfg.motion_share).unsqueeze(1), circling(2 * math.pi * drawn[2]), resting)


def circling(angle: torch.Tensor) -> torch.Tensor:
    """State `(N, 4)` at an angle of the circle, by the integration of the environment: velocity, then place."""
    ahead = angle - 0.5 * STEP * SPEED / RADIUS
    place = RADIUS * torch.stack([angle.cos(), angle.sin()], dim=1)
    return torch.cat([place, SPEED * torch.stack([-ahead.sin(), ahead.cos()], dim=1)], dim=1)


class CircleMotion(DatasetLoader):
    """One round, recorded at the rate of the environment."""

    def read(self) -> TransitionDataset:
        """See `DatasetLoader.read`."""
        count = round(2 * math.pi * RADIUS / SPEED / STEP)
        states = circling(torch.arange(count + 1) * STEP * SPEED / RADIUS).numpy()
        ended = torch.arange(count).numpy() == count - 1
        nothing = torch.zeros(count, 2).numpy()
        episode = EpisodeArrays("round", {"amp": states}, nothing, nothing[:, 0], 0 * ended, ended)
        return TransitionDataset.from_episodes([episode], source="a circle", action=ACTION)


@configclass
class CircleMotionCfg(DatasetCfg):
    """Options of `CircleMotion`."""

    class_type: type = CircleMotion


@configclass
class CircleEnvCfg(Cfg):
    """Options of `CircleEnv`."""

    class_type: type = CircleEnv
    num_envs: int = 64
    seed: int = 0
    device: str = "cpu"
    motion_share: float = 0.7
