"""Gymnasium's spaces in the terms of the environment contract.

Observations: a Box is the group `policy`, a Discrete the same one-hot, a Dict one group per key. Actions: a Box of
    finite bounds
is [-1, 1] for the learner and rescaled here, an unbounded one is passed through, a Discrete is an index.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from RoboRenForce.envs.spec import ActionSpec
from RoboRenForce.utils.errors import UserError

FLAT_GROUP = "policy"
"""Name of the only group where observations aren't a Dict."""


class UnsupportedSpaceError(UserError, TypeError):
    """An environment has observations or actions that learners can't take."""


@dataclass(frozen=True)
class _Group:
    name: str
    key: str | None
    """Key in a Dict observation; None where the observation is the group itself."""
    shape: tuple[int, ...]
    dtype: type[np.generic]
    start: int | None
    """First value of a Discrete observation, which becomes one-hot; None for a Box."""

    def write(self, row: np.ndarray, value: Any) -> None:
        """Put one observation into `row`, of shape `shape`."""
        if self.start is None:
            row[...] = value
        else:
            row[:] = 0
            row[int(value) - self.start] = 1


class ObsLayout:
    """How the observations of an environment become arrays, one per group."""

    def __init__(
        self,
        space: gym.Space[Any],
        env_id: str,
        hidden: Sequence[int] = (),
        names: Mapping[str, str] | None = None,
    ) -> None:
        """Read an observation space.

        Args:
            space: of one environment.
            env_id: for error messages.
            hidden: indices of the flat group that the learner doesn't see.
            names: key of a Dict observation -> group, where they differ.
        """
        named = space.spaces if isinstance(space, spaces.Dict) else {None: space}
        self._groups = [_group(key, part, env_id, names or {}) for key, part in named.items()]
        self._flat = self._groups[0] if named.keys() == {None} else None
        self._kept = _kept(self._groups[0], self._flat is not None, hidden, env_id) if hidden else None

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each group as the learner sees it."""
        shapes = {group.name: group.shape for group in self._groups}
        if self._kept is not None:
            shapes[FLAT_GROUP] = (len(self._kept),)
        return shapes

    @property
    def dtypes(self) -> dict[str, str]:
        """Groups that aren't float32."""
        return {group.name: "uint8" for group in self._groups if group.dtype is np.uint8}

    def buffers(self, num_envs: int) -> dict[str, np.ndarray]:
        """Fresh arrays `(num_envs, *shape)`, before anything is hidden."""
        return {group.name: np.zeros((num_envs, *group.shape), group.dtype) for group in self._groups}

    def write(self, buffers: dict[str, np.ndarray], row: int, obs: Any) -> None:
        """Put the observation of one environment into its row."""
        if self._flat is not None and self._flat.start is None:
            buffers[FLAT_GROUP][row] = obs  # the fast path of most tasks
            return
        for group in self._groups:
            group.write(buffers[group.name][row], obs if group.key is None else obs[group.key])

    def write_rows(self, buffers: dict[str, np.ndarray], rows: np.ndarray, obs: Any) -> None:
        """Put a batch of observations, `(len(rows), ...)` per group, into `rows`, int `(K,)`."""
        for group in self._groups:
            batch = obs if group.key is None else obs[group.key]
            buffer = buffers[group.name]
            if group.start is None:
                buffer[rows] = batch.reshape(len(rows), *group.shape)
            else:
                buffer[rows] = 0
                buffer[rows, np.asarray(batch).reshape(-1) - group.start] = 1

    def visible(self, buffers: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        """What the learner sees of `buffers`; the same arrays where nothing is hidden."""
        if self._kept is None:
            return buffers
        return {**buffers, FLAT_GROUP: buffers[FLAT_GROUP][:, self._kept]}


class ActionMap:
    """How the learner's actions become those of the simulator."""

    def __init__(self, space: gym.Space[Any], env_id: str, rescale: bool) -> None:
        self._space = space
        if isinstance(space, spaces.Discrete):
            self.spec = ActionSpec("discrete", int(space.n))
            return
        if (
            not isinstance(space, spaces.Box)
            or not np.issubdtype(space.dtype, np.floating)
            or not math.prod(space.shape)
        ):
            raise UnsupportedSpaceError(
                f"{env_id} has the action space {space}: Discrete and non-empty Box of floats are supported. "
                f"Wrap the environment so that it has one of them (GymEnvCfg.wrappers)."
            )
        dim = math.prod(space.shape)
        low, high = space.low.astype(np.float64).reshape(dim), space.high.astype(np.float64).reshape(dim)
        self._low, self._high = low, high
        self._shape = space.shape
        self._space_low, self._space_high = space.low.reshape(dim), space.high.reshape(dim)
        self._is_unit = bool((low == -1).all() and (high == 1).all())
        self._rescale = rescale and bool(np.isfinite(low).all() and np.isfinite(high).all())
        if self._rescale:
            self.spec = ActionSpec("continuous", dim, (-1.0,) * dim, (1.0,) * dim)
        elif np.isfinite(low).all() and np.isfinite(high).all():
            self.spec = ActionSpec("continuous", dim, tuple(low.tolist()), tuple(high.tolist()))
        else:
            self.spec = ActionSpec("continuous", dim)

    def to_simulator(self, actions: torch.Tensor) -> Sequence[Any] | np.ndarray:
        """One action per row, for `env.step`; `actions` is `(num_envs, *spec.shape)` and stays as it is."""
        if self.spec.kind == "discrete":
            start = int(self._space.start)  # pyright: ignore[reportAttributeAccessIssue]
            return [index + start for index in actions.tolist()]
        values = actions.detach().cpu().numpy()
        if self._rescale and not self._is_unit:
            # In float64: the bounds themselves must come out exactly.
            unit = np.clip(values.astype(np.float64), -1.0, 1.0)
            values = self._low + (unit + 1.0) * (0.5 * (self._high - self._low))
        values = values.astype(self._space.dtype).clip(self._space_low, self._space_high)
        return values.reshape(len(values), *self._shape)


def _group(key: str | None, space: gym.Space[Any], env_id: str, names: Mapping[str, str]) -> _Group:
    name = FLAT_GROUP if key is None else names.get(key, key)
    if isinstance(space, spaces.Discrete):
        return _Group(name, key, (int(space.n),), np.float32, int(space.start))
    if isinstance(space, spaces.Box) and math.prod(space.shape):
        image = space.dtype == np.uint8 and len(space.shape) >= 2
        return _Group(name, key, space.shape or (1,), np.uint8 if image else np.float32, None)
    where = "the observation space" if key is None else f"the observation '{key}' of type"
    raise UnsupportedSpaceError(
        f"{env_id} has {where} {space}: Discrete, non-empty Box and Dict of these are supported. "
        f"Wrap the environment so that it has one of them (GymEnvCfg.wrappers), for example with "
        f"gymnasium.wrappers.FlattenObservation."
    )


def _kept(group: _Group, flat: bool, hidden: Sequence[int], env_id: str) -> np.ndarray:
    if not flat or len(group.shape) != 1:
        raise UserError(f"GymEnvCfg.obs_mask hides numbers of one flat observation, and that of {env_id} isn't one.")
    size = group.shape[0]
    wrong = [index for index in hidden if not -size <= index < size]
    kept = np.setdiff1d(np.arange(size), np.asarray(hidden) % size)
    if wrong or not len(kept):
        raise UserError(
            f"GymEnvCfg.obs_mask is {list(hidden)}, and {env_id} observes {size} numbers: name indices from 0 to "
            f"{size - 1} and leave at least one visible."
        )
    return kept
