"""Checks of the values that a Gymnasium environment returns, against its declaration.

NumPy broadcasts and casts silently: one number fills a whole observation, floats in [0, 1] become a black image. So
every reset and the first steps of each copy are checked before anything is written. Deviations that Gymnasium's own
checker only warns about stay allowed: floats of another width, and floats that leave their Box.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from RoboRenForce.utils.errors import EnvContractError

CHECKED_STEPS = 50
"""Number of steps of each copy that are checked, with the resets between them; later ones are called directly."""

_NUMERIC = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)

Step = Callable[[Any], Any]
"""From an action to what `step` returns."""


class ReturnCheck:
    """Check that raises an `EnvContractError` naming the environment, the returned value, the declaration and a fix."""

    def __init__(self, env: gym.Env[Any, Any], name: str) -> None:
        self._space = env.observation_space
        self._name = name

    def reset(self, returned: Any) -> tuple[Any, dict[str, Any]]:
        """Check the result of `reset` and return it."""
        if not isinstance(returned, tuple) or len(returned) != 2 or not isinstance(returned[1], dict):
            bare = observation_fault(self._space, returned) is None
            got = f"{described(returned)}, only the observation as in the old Gym" if bare else described(returned)
            raise self._error("reset", got, "(observation, info) with a dict as info", "return both")
        self._observation(returned[0], "reset")
        return returned

    def step(self, returned: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Check the result of `step` and return it."""
        expected = "(observation, reward, terminated, truncated, info)"
        if not isinstance(returned, tuple) or len(returned) != 5:
            old = isinstance(returned, tuple) and len(returned) == 4
            got = "4 values as in the old Gym (observation, reward, done, info)" if old else described(returned)
            raise self._error("step", got, expected, "tell terminations and time-outs apart" if old else "return five")
        obs, reward, terminated, truncated, info = returned
        self._observation(obs, "step")
        if _shape(reward) != () or _kind(reward) not in "biuf":
            raise self._error("step", f"the reward {described(reward)}", "one number", "return float(reward)")
        for flag, value in (("terminated", terminated), ("truncated", truncated)):
            if _shape(value) != () or _kind(value) != "b":
                raise self._error("step", f"{flag} {described(value)}", "a bool", f"return bool({flag})")
        if not isinstance(info, dict):
            raise self._error("step", f"info {described(info)}", "a dict", "return {} if there is nothing to say")
        return returned

    def first(self, step: Step, then: Callable[[Step], None]) -> Step:
        """Return `step` with its first results checked; afterwards `then` is called with the bare `step`."""
        left = CHECKED_STEPS

        def checked(action: Any) -> Any:
            nonlocal left
            left -= 1
            if left == 0:
                then(step)
            return self.step(step(action))

        return checked

    def _observation(self, obs: Any, call: str) -> None:
        fault = observation_fault(self._space, obs)
        if fault is not None:
            raise self._error(call, *fault)

    def _error(self, call: str, got: str, expected: str, fix: str) -> EnvContractError:
        return EnvContractError(f"{self._name}: {call} returned {got}, expected {expected}; {fix}.")


def observation_fault(space: gym.Space[Any], obs: Any, what: str = "the observation") -> tuple[str, str, str] | None:
    """Return what was got, what was expected and a fix; None if `obs` is an observation of `space`."""
    fix = "return what observation_space declares, or declare what is returned"
    if isinstance(space, spaces.Dict):
        if not isinstance(obs, Mapping) or obs.keys() != space.spaces.keys():
            return f"{what} {described(obs)}", f"a dict with the keys {list(space.spaces)}", fix
        parts = (observation_fault(part, obs[key], f"the observation '{key}'") for key, part in space.spaces.items())
        return next((fault for fault in parts if fault is not None), None)
    if not isinstance(space, _NUMERIC):
        return None  # below a wrapper that makes something else of it
    if _shape(obs) != space.shape or _kind(obs) not in "biuf":
        return f"{what} {described(obs)}", str(space), fix
    if _is_whole(space) and _kind(obs) == "f":
        return f"{what} as floats ({described(obs)})", f"integers of {space}", fix
    if _leaves(space, np.asarray(obs)):
        return f"{what} with values from {np.min(obs)} to {np.max(obs)}", f"values of {space}", fix
    return None


def described(value: Any) -> str:
    """Format a value for an error message."""
    if isinstance(value, Mapping):
        return f"as a dict with the keys {list(value)}"
    if isinstance(value, tuple):
        return f"as a tuple of {len(value)} ({', '.join(type(part).__name__ for part in value)})"
    if value is None or isinstance(value, str):
        return f"as {value!r}"
    if (shape := _shape(value)) is None:
        return f"as {type(value).__name__} whose parts form no array"
    return f"of shape {shape} and type {np.asarray(value).dtype}" if shape else f"as {value} ({type(value).__name__})"


def _leaves(space: gym.Space[Any], value: np.ndarray) -> bool:
    """Return True if values are outside of their space by more than rounding and noise explain.

    Integers are inside or not. For floats it is only certain for images: pixels of 0..255 leave a Box of [0, 1] by more
    than its width.
    """
    if isinstance(space, spaces.Discrete):
        return not space.start <= value < space.start + space.n
    if not isinstance(space, spaces.Box) or (value.dtype == np.uint8 and space.dtype == np.uint8 and _is_full(space)):
        return False
    if _is_whole(space):
        return bool(np.any((value < space.low) | (value > space.high)))
    if len(space.shape) != 3 or not space.is_bounded():
        return False
    width = space.high - space.low
    return bool(np.any((value < space.low - width) | (value > space.high + width)))


def _is_full(space: spaces.Box) -> bool:
    return bool((space.low == 0).all() and (space.high == 255).all())


def _is_whole(space: gym.Space[Any]) -> bool:
    return space.dtype is not None and space.dtype.kind in "biu"


def _shape(value: Any) -> tuple[int, ...] | None:
    """Return the shape of `value`; None if its parts form no array."""
    try:
        return tuple(np.shape(value))
    except ValueError:
        return None


def _kind(value: Any) -> str:
    """Return NumPy's letter for the kind of numbers; `O` for anything else."""
    return "O" if _shape(value) is None else np.asarray(value).dtype.kind
