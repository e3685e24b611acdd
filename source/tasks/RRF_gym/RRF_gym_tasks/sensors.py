"""Sensors of two rates in front of a Gymnasium environment with a flat observation, for policies that have to filter.

policy     fast sensors: some numbers of the observation with noise, at every step
slow       slow sensors: the same numbers without noise, at every `period`-th step, held in between
arrival    1 at the steps at which the slow sensors are read, -1 elsewhere
full       the whole observation, for a critic or as the hidden state of a belief
"""

from __future__ import annotations

from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from gymnasium import spaces


class TwoRateSensors(gym.Wrapper[Any, Any, Any, Any]):
    """Observe some numbers of the observation by fast noisy and by slow exact sensors; subclasses say which."""

    fast: ClassVar[tuple[int, ...]]
    """Numbers of the observation that have a fast sensor."""
    noise: ClassVar[tuple[float, ...]]
    """Standard deviation of each fast sensor."""
    slow: ClassVar[tuple[int, ...]]
    """Numbers of the observation that have a slow sensor."""
    period: ClassVar[int]
    """Steps from one reading of the slow sensors to the next."""

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        full = int(np.prod(env.observation_space.shape or ()))
        sizes = {"policy": len(self.fast), "slow": len(self.slow), "arrival": 1, "full": full}
        self.observation_space = spaces.Dict(
            {name: spaces.Box(-np.inf, np.inf, (width,), np.float32) for name, width in sizes.items()}
        )
        self._step = 0
        self._held = np.zeros(len(self.slow), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode, at which all sensors are read."""
        obs, info = self.env.reset(seed=seed, options=options)
        self._step = 0
        return self._read(obs), info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Take a step and read the sensors."""
        obs, reward, terminated, truncated, info = self.env.step(action)
        self._step += 1
        return self._read(obs), reward, terminated, truncated, info

    def _read(self, obs: Any) -> dict[str, np.ndarray]:
        full = np.asarray(obs, np.float32)
        arrived = self._step % self.period == 0
        if arrived:
            self._held = full[list(self.slow)]
        # Noise from the environment's own generator, which is seeded and saved with it.
        noise = np.asarray(self.noise) * self.env.unwrapped.np_random.standard_normal(len(self.fast))
        fast = full[list(self.fast)] + noise
        arrival = np.asarray([1.0 if arrived else -1.0], np.float32)
        return {"policy": fast.astype(np.float32), "slow": self._held, "arrival": arrival, "full": full}


class CartPoleSensors(TwoRateSensors):
    """Noisy positions of cart and pole, and now and then the exact angle of the pole; velocities are hidden."""

    fast, noise, slow, period = (0, 2), (0.1, 0.1), (2,), 5


class PendulumSensors(TwoRateSensors):
    """Noisy cosine and sine of the angle, and now and then the exact ones; the velocity is hidden."""

    fast, noise, slow, period = (0, 1), (0.1, 0.1), (0, 1), 5
