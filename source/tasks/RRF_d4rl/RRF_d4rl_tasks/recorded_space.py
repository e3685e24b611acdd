"""Between the spaces of Gymnasium and the terms of learners: observation groups, actions in [-1, 1]."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from RoboRenForce.buffer import DatasetError
from RoboRenForce.envs.spec import ActionSpec, EnvSpec


@dataclass(frozen=True)
class RecordedSpaces:
    """The spaces that a data set states."""

    observation: spaces.Space[Any]
    action: spaces.Space[Any]
    env_spec: Any = None
    """Gymnasium's spec of the environment, where it has these spaces."""


def action_spec(space: spaces.Space[Any], source: str) -> ActionSpec:
    """The recorded action space.

    Raises:
        DatasetError: it is neither a Discrete nor a Box.
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


def recorded_actions(space: spaces.Space[Any], unit: np.ndarray) -> np.ndarray:
    """Actions in the range of `space` from those in [-1, 1], or indices of a Discrete."""
    if isinstance(space, spaces.Discrete):
        return unit.astype(np.int64) + int(space.start)
    if not isinstance(space, spaces.Box):
        raise TypeError(f"Actions of {space} can't be recorded.")
    low, high = space.low.astype(np.float64), space.high.astype(np.float64)
    if not (np.isfinite(low).all() and np.isfinite(high).all()):
        return unit.astype(space.dtype)
    values = low + (unit.astype(np.float64).reshape(len(unit), *space.shape) + 1.0) * (0.5 * (high - low))
    return values.astype(space.dtype).clip(space.low, space.high)


def observation_groups(space: spaces.Space[Any], observations: Any, group: str, source: str) -> dict[str, np.ndarray]:
    """Group -> `(L + 1, ...)` from recorded observations: a Box is `group`, a Dict one group for each key.

    Raises:
        DatasetError: the space is of another kind.
    """
    if isinstance(space, spaces.Box):
        return {group: _rows(np.asarray(observations))}
    if isinstance(space, spaces.Dict) and all(isinstance(part, spaces.Box) for part in space.spaces.values()):
        return {name: _rows(np.asarray(observations[name])) for name in space.spaces if name in observations}
    raise DatasetError(f"{source} has the observation space {space}: expected a Box, or a Dict of them.")


def spaces_to_record(spec: EnvSpec) -> RecordedSpaces:
    """The spaces to state for data of an environment: Gymnasium's own if they are those of its id, else the learner's.

    They differ where the environment was wrapped, masked or extended, or isn't one of Gymnasium's.
    """
    learner = _learner_spaces(spec)
    if spec.task not in gym.registry:
        return learner
    env = gym.make(spec.task)
    native = RecordedSpaces(env.observation_space, env.action_space, env.spec)
    env.close()
    return native if _same_sizes(native, learner) else learner


def _learner_spaces(spec: EnvSpec) -> RecordedSpaces:
    boxes = {}
    for name, shape in spec.obs_groups.items():
        picture = spec.obs_dtypes.get(name) == "uint8"
        boxes[name] = spaces.Box(0, 255, shape, np.uint8) if picture else spaces.Box(-np.inf, np.inf, shape, np.float32)
    observation = next(iter(boxes.values())) if len(boxes) == 1 else spaces.Dict(boxes)
    if spec.action.kind == "discrete":
        return RecordedSpaces(observation, spaces.Discrete(spec.action.dim))
    low = np.asarray(spec.action.low or (-np.inf,) * spec.action.dim, np.float32)
    high = np.asarray(spec.action.high or (np.inf,) * spec.action.dim, np.float32)
    return RecordedSpaces(observation, spaces.Box(low, high, dtype=np.float32))


def _same_sizes(native: RecordedSpaces, learner: RecordedSpaces) -> bool:
    for one, other in ((native.observation, learner.observation), (native.action, learner.action)):
        if isinstance(one, spaces.Dict) or isinstance(other, spaces.Dict):
            if not (isinstance(one, spaces.Dict) and isinstance(other, spaces.Dict)):
                return False
            if {name: part.shape for name, part in one.items()} != {name: part.shape for name, part in other.items()}:
                return False
        elif type(one) is not type(other) or one.shape != other.shape:
            return False
    return True


def as_recorded(observations: Mapping[str, np.ndarray], space: spaces.Space[Any]) -> Any:
    """Observations of one episode in the form of `space`: an array, or a dictionary of arrays."""
    return dict(observations) if isinstance(space, spaces.Dict) else next(iter(observations.values()))


def _rows(array: np.ndarray) -> np.ndarray:
    return array.reshape(len(array), -1) if array.ndim == 1 else array
