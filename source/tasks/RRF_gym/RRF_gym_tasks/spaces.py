"""Conversion of Gymnasium's spaces to the environment contract.

Observations: a Box is the group `policy`, a Discrete the same one-hot, a Dict one group per key. Actions: a Box of
finite bounds is [-1, 1] for the learner and rescaled here, an unbounded one is passed through, a Discrete is an index.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from RoboRenForce.envs.simulator_interface import ActionInterface
from RoboRenForce.envs.spec import ActionSpec
from RoboRenForce.utils.errors import EnvContractError, UserError

from .returned_values import described

FLAT_GROUP = "policy"
"""Name of the only group if observations aren't a Dict."""


class UnsupportedSpaceError(UserError, TypeError):
    """An environment has observations or actions that learners can't take."""


@dataclass(frozen=True)
class _Group:
    name: str
    key: str | None
    """Key in a Dict observation; None if the observation is the group itself."""
    shape: tuple[int, ...]
    dtype: type[np.generic]
    space: gym.Space[Any]
    env_id: str
    start: int | None
    """First value of a Discrete observation, which becomes one-hot; None for a Box."""

    @property
    def source(self) -> dict[str, Any]:
        """Description of how the group is made, as plain data."""
        if self.start is None:
            return {"key": self.key, "space": "box"}
        return {"key": self.key, "space": "discrete", "n": self.shape[0], "start": self.start}

    def writer(self, target: np.ndarray) -> Callable[[int, Any], None]:
        """Return a function that writes one observation into its row of `target`, `(num_envs, *shape)`.

        It never broadcasts: comparing the shapes costs no more than looking up the array for every row did.
        """
        start, size, shape = self.start, self.shape[0], self.space.shape

        def write(row: int, value: Any) -> None:
            try:
                fits = value.shape == shape
            except AttributeError:  # a list or a number
                fits = np.shape(value) == shape
            if not fits:
                raise self._error(value)
            target[row] = value

        def write_one_hot(row: int, value: Any) -> None:
            index = int(value) - start
            if not 0 <= index < size:
                raise self._error(value)
            target[row] = 0
            target[row, index] = 1

        return write if start is None else write_one_hot

    def write_rows(self, target: np.ndarray, rows: np.ndarray, batch: np.ndarray) -> None:
        """Write a batch of observations into `rows` of `target`."""
        if self.start is None:
            target[rows] = batch.reshape(len(rows), *self.shape)
            return
        index = np.asarray(batch).reshape(len(rows)) - self.start
        if index.min() < 0 or index.max() >= self.shape[0]:
            raise self._error(batch)
        target[rows] = 0
        target[rows, index] = 1

    def _error(self, value: Any) -> EnvContractError:
        name = "the observation" if self.key is None else f"the observation '{self.key}'"
        return EnvContractError(
            f"{self.env_id} returned {name} {described(value)}, expected one of {self.space}; return what "
            f"observation_space declares."
        )


class ObsLayout:
    """Conversion of an environment's observations to arrays, one per group."""

    def __init__(
        self,
        space: gym.Space[Any],
        env_id: str,
        hidden: Sequence[int] = (),
        names: Mapping[str, str] | None = None,
        unmasked: str | None = None,
    ) -> None:
        """Read an observation space.

        Args:
            space: Observation space of one environment.
            env_id: Id for error messages.
            hidden: Indices of the flat group that are hidden from the learner.
            names: Key of a Dict observation -> group, where they differ.
            unmasked: Another group, which holds the flat observation with nothing hidden.
        """
        named = space.spaces if isinstance(space, spaces.Dict) else {None: space}
        self._groups = [_group(key, part, env_id, names or {}) for key, part in named.items()]
        self._flat = self._groups[0] if named.keys() == {None} else None
        self._kept = _kept(self._groups[0], self._flat is not None, hidden, env_id) if hidden else None
        self._unmasked = unmasked
        if unmasked is not None and (self._kept is None or unmasked == FLAT_GROUP):
            raise UserError(
                f"GymEnvCfg.unmasked_group is '{unmasked}', which repeats what obs_mask hides from '{FLAT_GROUP}': set "
                "obs_mask, and choose another name."
            )

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of each group as the learner sees it."""
        shapes = {group.name: group.shape for group in self._groups}
        if self._kept is not None:
            shapes[FLAT_GROUP] = (len(self._kept),)
            if self._unmasked is not None:
                shapes[self._unmasked] = self._groups[0].shape
        return shapes

    @property
    def dtypes(self) -> dict[str, str]:
        """Return the groups that aren't float32."""
        return {group.name: "uint8" for group in self._groups if group.dtype is np.uint8}

    @property
    def sources(self) -> dict[str, dict[str, Any]]:
        """Return how each group is made of the simulator's observation, see `VecEnv.simulator_interface`.

        The observation itself, or the entry of a Dict under `key`; one-hot from `start` if it is a Discrete; flattened
        row by row, of which the indices `keep` are kept.
        """
        kept = None if self._kept is None else self._kept.tolist()
        sources = {group.name: {"source": {**group.source, "keep": kept}} for group in self._groups}
        if self._unmasked is not None:
            sources[self._unmasked] = {"source": {**self._groups[0].source, "keep": None}}
        return sources

    def buffers(self, num_envs: int) -> dict[str, np.ndarray]:
        """Allocate arrays `(num_envs, *shape)`, without hiding anything."""
        return {group.name: np.zeros((num_envs, *group.shape), group.dtype) for group in self._groups}

    def writer(self, buffers: dict[str, np.ndarray]) -> Callable[[int, Any], None]:
        """Return a function that writes the observation of one environment into its row."""
        if self._flat is not None:
            return self._flat.writer(buffers[FLAT_GROUP])  # the fast path of most tasks
        writers = [(group.key, group.writer(buffers[group.name])) for group in self._groups]

        def write(row: int, obs: Any) -> None:
            for key, write_part in writers:
                write_part(row, obs[key])

        return write

    def write_rows(self, buffers: dict[str, np.ndarray], rows: np.ndarray, obs: Any) -> None:
        """Write a batch of observations, `(len(rows), ...)` per group, into `rows`, int `(K,)`."""
        for group in self._groups:
            group.write_rows(buffers[group.name], rows, obs if group.key is None else obs[group.key])

    def visible(self, buffers: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        """Return the learner's part of `buffers`; the same arrays if nothing is hidden."""
        if self._kept is None:
            return buffers
        masked = {**buffers, FLAT_GROUP: buffers[FLAT_GROUP][:, self._kept]}
        return masked if self._unmasked is None else {**masked, self._unmasked: buffers[FLAT_GROUP]}


class ActionMap:
    """Conversion of the learner's actions to those of the simulator."""

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

    @property
    def interface(self) -> ActionInterface:
        """Return the conversion of `to_simulator` as data."""
        interface = ActionInterface.of(self.spec)
        if self.spec.kind == "discrete":
            start = int(self._space.start)  # pyright: ignore[reportAttributeAccessIssue]
            return replace(interface, start=start)
        scaled = {}
        if self._rescale:
            scale = 0.5 * (self._high - self._low)
            scaled = {
                "clip_low": self.spec.low,
                "clip_high": self.spec.high,
                "scale": tuple(scale.tolist()),
                "offset": tuple((self._low + scale).tolist()),
            }
        return replace(
            interface,
            shape=tuple(self._shape),
            dtype=str(self._space.dtype),
            low=tuple(self._low.tolist()),
            high=tuple(self._high.tolist()),
            **scaled,
        )

    def to_simulator(self, actions: torch.Tensor) -> Sequence[Any] | np.ndarray:
        """Return one action per row, for `env.step`; `actions` is `(num_envs, *spec.shape)` and is not changed."""
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
        return _Group(name, key, (int(space.n),), np.float32, space, env_id, int(space.start))
    if isinstance(space, spaces.Box) and math.prod(space.shape):
        image = space.dtype == np.uint8 and len(space.shape) >= 2
        return _Group(name, key, space.shape or (1,), np.uint8 if image else np.float32, space, env_id, None)
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
    wrong = [index for index in hidden if not 0 <= index < size]
    kept = np.setdiff1d(np.arange(size), hidden)
    if wrong or not len(kept):
        raise UserError(
            f"GymEnvCfg.obs_mask is {list(hidden)}, and {env_id} observes {size} numbers: name indices from 0 to "
            f"{size - 1} and leave at least one visible."
        )
    return kept
