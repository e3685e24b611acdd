"""Conversion between Gymnasium's spaces and those of learners: observation groups, actions in [-1, 1]."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from RoboRenForce.buffer import DatasetError
from RoboRenForce.buffer.dataset_checks import (
    as_array,
    fault,
    one_a_row,
    require_finite,
    require_memory,
    require_shape,
)
from RoboRenForce.envs.spec import ActionSpec, EnvSpec


@dataclass(frozen=True)
class RecordedSpaces:
    """Spaces of a data set."""

    observation: spaces.Space[Any]
    action: spaces.Space[Any]
    played: ActionSpec
    """Actions of the environment as learners choose them, and as episodes hold them."""
    env_spec: Any = None
    """Gymnasium's spec of the environment, if it has these spaces."""


def action_spec(space: spaces.Space[Any], source: str) -> ActionSpec:
    """Return the learner's spec of the recorded action space.

    Raises:
        DatasetError: It is neither a Discrete nor a Box.
    """
    if isinstance(space, spaces.Discrete):
        return ActionSpec("discrete", int(space.n))
    if not isinstance(space, spaces.Box):
        raise DatasetError(f"{source} has the action space {space}: expected a Box or a Discrete.")
    dim = int(np.prod(space.shape))
    low, high = space.low.reshape(-1).astype(np.float64), space.high.reshape(-1).astype(np.float64)
    if not (np.isfinite(low).all() and np.isfinite(high).all()):
        return ActionSpec("continuous", dim)
    return ActionSpec("continuous", dim, tuple(low.tolist()), tuple(high.tolist()))


def recorded_actions(recorded: RecordedSpaces, played: np.ndarray) -> np.ndarray:
    """Convert an episode's actions to `recorded.action`: in the range of a Box, from `start` on of a Discrete."""
    space, spec = recorded.action, recorded.played
    if isinstance(space, spaces.Discrete):
        return played.astype(np.int64) + int(space.start)
    if not isinstance(space, spaces.Box):
        raise TypeError(f"Actions of {space} can't be recorded.")
    values = played.astype(np.float64).reshape(len(played), *space.shape)
    low, high = space.low.astype(np.float64), space.high.astype(np.float64)
    if spec.low is None or spec.high is None or not (np.isfinite(low).all() and np.isfinite(high).all()):
        return values.astype(space.dtype)
    first, last = (np.asarray(bound, np.float64).reshape(space.shape) for bound in (spec.low, spec.high))
    values = low + (values - first) / (last - first) * (high - low)
    return values.astype(space.dtype).clip(space.low, space.high)


def observation_groups(
    space: spaces.Space[Any], observations: Any, group: str, source: str, key: str
) -> dict[str, np.ndarray]:
    """Return group -> `(L + 1, ...)` from recorded observations: one group per key of a Dict, else `group`.

    Raises:
        DatasetError: They aren't of that space.
    """
    if isinstance(space, spaces.Dict):
        return {
            name: _observed(part, observations[name], source, f"{key}/{name}") for name, part in space.spaces.items()
        }
    return {group: _observed(space, observations, source, key)}


def require_observable(space: spaces.Space[Any], source: str) -> None:
    """Check that learners can take such observations.

    Raises:
        DatasetError: It is neither a Box, nor a Discrete, nor a Dict of these.
    """
    parts = space.spaces.values() if isinstance(space, spaces.Dict) else (space,)
    if not parts or not all(isinstance(part, spaces.Box | spaces.Discrete) for part in parts):
        raise DatasetError(
            f"{source} has the observation space {space}: expected a Box, a Discrete, or a Dict of these."
        )


def learner_actions(space: spaces.Space[Any], actions: Any, source: str, key: str) -> np.ndarray:
    """Return recorded actions `(L, A)` in the range of a Box, or indices `(L,)` of a Discrete, counted from 0.

    Raises:
        DatasetError: They aren't of that space.
    """
    actions = as_array(source, key, actions)
    if isinstance(space, spaces.Discrete):
        return _indices(space, actions, source, key)
    return _of_shape(space, actions, source, key).reshape(len(actions), -1)


def _observed(space: spaces.Space[Any], values: Any, source: str, key: str) -> np.ndarray:
    """Return the observations of one part of the space; those of a Discrete become one-hot, as in environments."""
    values = as_array(source, key, values)
    if not isinstance(space, spaces.Discrete):
        return _of_shape(space, values, source, key)
    size = int(space.n)
    require_memory(source, key, 4 * len(values) * size)
    rows = np.zeros((len(values), size), np.float32)
    rows[np.arange(len(values)), _indices(space, values, source, key)] = 1.0
    return rows


def _of_shape(space: spaces.Space[Any], values: np.ndarray, source: str, key: str) -> np.ndarray:
    values = one_a_row(values, space.shape or ())
    require_shape(source, key, values, space.shape or ())
    return values


def _indices(space: spaces.Discrete, values: np.ndarray, source: str, key: str) -> np.ndarray:
    """Return int64 `(M,)` counted from 0, for values counted from `space.start`."""
    values = one_a_row(values)
    require_shape(source, key, values, ())
    require_finite(source, key, values)
    first, last = int(space.start), int(space.start + space.n) - 1
    wrong = (values < first) | (values > last) | (values != np.floor(values))
    if wrong.any():
        row = int(wrong.argmax())
        raise fault(source, key, row, f"it is {values[row]}, expected an integer from {first} to {last}")
    return values.astype(np.int64) - first


def spaces_to_record(
    spec: EnvSpec, kwargs: Mapping[str, Any] | None = None, *, wrapped: bool = False
) -> RecordedSpaces:
    """Return the spaces for data of an environment: Gymnasium's own if they fit its id, else the learner's.

    They differ if the environment was wrapped, masked or extended, or isn't one of Gymnasium's.

    Args:
        spec: Spec of the recorded environment.
        kwargs: Arguments with which Gymnasium made it.
        wrapped: True if there were wrappers around it, so that Gymnasium can't make it again.
    """
    learner = _learner_spaces(spec)
    if spec.task not in gym.registry:
        return learner
    env = gym.make(spec.task, **(kwargs or {}))
    same_observation = _sizes(env.observation_space) == _sizes(learner.observation)
    same_action = _sizes(env.action_space) == _sizes(learner.action)
    native = RecordedSpaces(
        env.observation_space if same_observation else learner.observation,
        env.action_space if same_action else learner.action,
        spec.action,
        _stated(env.spec) if same_observation and same_action and not wrapped else None,
    )
    env.close()
    return native


def _stated(env_spec: Any) -> Any:
    """Return the spec of an environment if it can be written as text; its class may be registered itself."""
    try:
        env_spec.to_json()
    except (TypeError, ValueError):
        return None
    return env_spec


def _learner_spaces(spec: EnvSpec) -> RecordedSpaces:
    boxes = {}
    for name, shape in spec.obs_groups.items():
        picture = spec.obs_dtypes.get(name) == "uint8"
        boxes[name] = spaces.Box(0, 255, shape, np.uint8) if picture else spaces.Box(-np.inf, np.inf, shape, np.float32)
    observation = next(iter(boxes.values())) if len(boxes) == 1 else spaces.Dict(boxes)
    if spec.action.kind == "discrete":
        return RecordedSpaces(observation, spaces.Discrete(spec.action.dim), spec.action)
    low = np.asarray(spec.action.low or (-np.inf,) * spec.action.dim, np.float32)
    high = np.asarray(spec.action.high or (np.inf,) * spec.action.dim, np.float32)
    return RecordedSpaces(observation, spaces.Box(low, high, dtype=np.float32), spec.action)


def _sizes(space: spaces.Space[Any]) -> Any:
    """Return what two spaces must share so that elements of one can be stored as the other, up to bounds."""
    if isinstance(space, spaces.Dict):
        return {name: _sizes(part) for name, part in space.items()}
    return type(space), space.n if isinstance(space, spaces.Discrete) else space.shape


def as_recorded(observations: Mapping[str, np.ndarray], space: spaces.Space[Any]) -> Any:
    """Return the observations of one episode in the form of `space`: an array, or a dictionary of arrays."""
    return dict(observations) if isinstance(space, spaces.Dict) else next(iter(observations.values()))
