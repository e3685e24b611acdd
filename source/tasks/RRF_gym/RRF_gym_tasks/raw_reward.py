"""Rewards of the environment itself, below the user's wrappers."""

from __future__ import annotations

from typing import Any

import gymnasium as gym

from .returned_values import ReturnCheck, Step


class RawReward(gym.Wrapper[Any, Any, Any, Any]):
    """Sum the environment's rewards since the last `take`; evaluations report these.

    It is the innermost wrapper, so a wrapper that skips frames, scales or replaces rewards doesn't affect its sum, and
    it hides invalid returns of the environment from the wrappers.
    """

    def __init__(self, env: gym.Env[Any, Any], name: str) -> None:
        super().__init__(env)
        check = ReturnCheck(env, name)
        self._total = 0.0
        self._reset_check = check.reset
        self._bare_step = check.first(env.step, self._step_directly)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """See `gymnasium.Env.reset`."""
        return self._reset_check(self.env.reset(seed=seed, options=options))

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """See `gymnasium.Env.step`."""
        returned = self._bare_step(action)
        self._total += float(returned[1])
        return returned

    def take(self) -> float:
        """Return the sum so far and reset it."""
        total, self._total = self._total, 0.0
        return total

    def _step_directly(self, step: Step) -> None:
        self._bare_step = step
