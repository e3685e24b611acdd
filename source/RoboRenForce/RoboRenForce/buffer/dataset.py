"""Recorded transitions, from which an offline learner draws its batches.

A `TransitionDataset` is made of whole episodes (Minari) or of rows in the order of recording (D4RL). With an episode of
three steps that was cut, and one of two that terminated, `from_rows` sees

    row              0    1    2    3    4
    observations    a0   a1   a2   b0   b1
    terminals        0    0    0    0    1
    timeouts         0    0    1    0    0
    successor       a1   a2   ?    b1   -        ? unknown without `next_observations`: the row is left out
    next action     x1   x2   ?    y1   -        - never read, because a termination isn't bootstrapped

The action in the successor state is unknown where an episode was cut; see `DatasetBuffer`. Every end has to be marked,
except in the very last row: recording stopped there, which cuts the episode.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import numpy as np
import torch
from torch import Tensor

from ..configclass import Cfg, Range, configclass
from ..envs.spec import ActionSpec, EnvSpec
from ..utils.errors import did_you_mean
from .dataset_checks import (
    DatasetError,
    as_array,
    as_learned,
    fault,
    flags,
    one_a_row,
    require_finite,
    require_horizon,
    require_keys,
    require_rows,
    require_shape,
    require_successors,
    unit_actions,
    vectors,
)
from .dataset_episodes import EpisodeArrays, checked_episode, require_marked_end
from .transition import default_dtype

FLAT_GROUP = "policy"
"""Observation group of data sets whose observations are one array."""
ROW_KEYS = ("observations", "actions", "rewards", "terminals", "timeouts")
"""Keys of a file of rows; `next_observations` is optional, and `timeouts` if the longest episode is known."""

RewardMode = Literal["none", "normalize_by_return_range", "shift"]


@dataclass(frozen=True)
class TransitionDataset:
    """M validated transitions in the order of recording, on the CPU."""

    source: str
    """Origin of the data, for messages."""
    obs: dict[str, Tensor]
    """Group -> `(M, ...)`."""
    action: Tensor
    """`(M, A)` in [-1, 1], or indices `(M,)`."""
    reward: Tensor
    """`(M,)`."""
    terminated: Tensor
    """bool `(M,)`: the episode terminated, nothing is bootstrapped."""
    truncated: Tensor
    """bool `(M,)`: the episode was cut after this step; never where it terminated."""
    next_obs: dict[str, Tensor]
    """Group -> `(M, ...)`: true successors, the final observation where an episode ends.

    If a file of rows doesn't record the observation after a termination, it is the observation itself.
    """
    next_action: Tensor
    """`(M, A)` or `(M,)`: action in the successor state; 0 where there is none."""
    next_action_known: Tensor
    """bool `(M,)`: False where the episode was cut. True where it terminated: no value depends on the action there."""
    episode_returns: Tensor
    """`(E,)`: undiscounted returns of the complete episodes, as recorded."""
    action_spec: ActionSpec
    """Space of `action`: [-1, 1], or indices."""

    def __len__(self) -> int:
        return self.reward.shape[0]

    def __str__(self) -> str:
        groups = ", ".join(f"{name}{list(rows.shape[1:])}" for name, rows in self.obs.items())
        returns = self.episode_returns
        played = f"return {returns.mean():,.1f} in {len(returns):,} episodes" if len(returns) else "no whole episode"
        actions = list(self.action.shape[1:])
        return f"{self.source}: {len(self):,} transitions | obs {groups} | actions {actions} | {played}"

    @classmethod
    def from_episodes(
        cls,
        episodes: Iterable[EpisodeArrays],
        *,
        source: str,
        action: ActionSpec,
        max_episode_length: int | None = None,
    ) -> TransitionDataset:
        """Validate and concatenate whole episodes.

        Args:
            episodes: Episodes in the order of recording.
            source: File or data set, for messages.
            action: Recorded action space; bounded actions are mapped to [-1, 1].
            max_episode_length: Maximum length; longer episodes are an error.

        Raises:
            DatasetError: Names source, key and row.
        """
        checked = [checked_episode(episode, source, max_episode_length) for episode in episodes]
        if not checked:
            raise DatasetError(f"{source} has no episodes: record at least one.")
        first, whole = checked[0], checked if checked[-1].ended else checked[:-1]
        for episode in checked[:-1]:
            require_marked_end(source, episode)
        for episode in checked:
            require_keys(
                source,
                [f"{episode.key}/observations/{name}" for name in first.observations],
                [f"{episode.key}/observations/{name}" for name in episode.observations],
            )
            for name, rows in episode.observations.items():
                require_shape(source, f"{episode.key}/observations/{name}", rows, first.observations[name].shape[1:])
        actions = [unit_actions(source, f"{episode.key}/actions", episode.actions, action) for episode in checked]
        joined = {name: [episode.observations[name] for episode in checked] for name in first.observations}
        return cls._build(
            source=source,
            recorded=action,
            obs={name: np.concatenate([rows[:-1] for rows in parts]) for name, parts in joined.items()},
            next_obs={name: np.concatenate([rows[1:] for rows in parts]) for name, parts in joined.items()},
            action=np.concatenate(actions),
            reward=np.concatenate([episode.rewards for episode in checked]),
            terminated=np.concatenate([episode.terminations for episode in checked]),
            truncated=np.concatenate([episode.truncations for episode in checked]),
            returns=np.asarray([episode.rewards.sum(dtype=np.float64) for episode in whole]),
        )

    @classmethod
    def from_rows(
        cls,
        arrays: Mapping[str, np.ndarray],
        *,
        source: str,
        action: ActionSpec | None = None,
        group: str = FLAT_GROUP,
        max_episode_length: int | None = None,
    ) -> TransitionDataset:
        """Validate rows of D4RL's layout (`ROW_KEYS`).

        Args:
            arrays: Key -> `(M, ...)`; other keys are ignored.
            source: File, for messages.
            action: Recorded action space; None: [-1, 1], as in D4RL.
            group: Observation group for `observations`.
            max_episode_length: Maximum length; longer episodes are an error, because an end is not marked. Without
                `timeouts`, episodes were cut after as many steps.

        Raises:
            DatasetError: Names source, key and row.
        """
        require_row_keys(source, arrays, max_episode_length)
        wanted = [key for key in (*ROW_KEYS, "next_observations") if key in arrays]
        rows = {key: as_array(source, key, arrays[key]) for key in wanted}
        require_rows(source, rows, "observations")
        for key in wanted:
            require_finite(source, key, rows[key])
        obs, reward = vectors(rows["observations"]), one_a_row(rows["rewards"])
        require_shape(source, "rewards", reward, ())
        terminated = flags(source, "terminals", rows["terminals"])
        if "timeouts" in rows:
            truncated = flags(source, "timeouts", rows["timeouts"]) & ~terminated
        else:
            truncated = _time_outs(terminated, max_episode_length or len(obs))
        if action is None:
            dim = int(np.prod(rows["actions"].shape[1:]))
            action = ActionSpec("continuous", dim, (-1.0,) * dim, (1.0,) * dim)
        unit = unit_actions(source, "actions", rows["actions"], action)
        ends = terminated | truncated
        returns = _returns(reward, ends, source, max_episode_length)
        known = np.ones(len(obs), np.bool_)
        if "next_observations" in rows:
            next_obs = vectors(rows["next_observations"])
            require_shape(source, "next_observations", next_obs, obs.shape[1:])
            require_successors(source, "next_observations", obs, next_obs, ends)
        else:
            next_obs = np.concatenate([obs[1:], obs[-1:]])
            next_obs[terminated] = obs[terminated]
            known = ~truncated
            known[-1] = terminated[-1]
        dataset = cls._build(
            source, action, {group: obs}, {group: next_obs}, unit, reward, terminated, truncated, returns
        )
        if not known.any():
            raise fault(source, "next_observations", None, "it is missing, and no row has a successor without it")
        return dataset if known.all() else dataset.select(torch.from_numpy(known))

    @classmethod
    def _build(
        cls,
        source: str,
        recorded: ActionSpec,
        obs: dict[str, np.ndarray],
        next_obs: dict[str, np.ndarray],
        action: np.ndarray,
        reward: np.ndarray,
        terminated: np.ndarray,
        truncated: np.ndarray,
        returns: np.ndarray,
    ) -> TransitionDataset:
        truncated[-1] |= not terminated[-1]  # where recording stopped
        ends = terminated | truncated
        next_action = np.concatenate([action[1:], np.zeros_like(action[:1])])
        next_action[ends] = 0
        return cls(
            source=source,
            obs={name: _observed(rows) for name, rows in obs.items()},
            action=_tensor(action),
            reward=_tensor(reward.astype(np.float64)),
            terminated=_tensor(terminated),
            truncated=_tensor(truncated),
            next_obs={name: _observed(rows) for name, rows in next_obs.items()},
            next_action=_tensor(next_action),
            next_action_known=_tensor(~truncated),
            episode_returns=_tensor(returns),
            action_spec=as_learned(recorded),
        )

    def spec(self, task: str | None = None, *, max_episode_length: int = 0) -> EnvSpec:
        """Return the spec of one environment as far as the data defines it.

        Args:
            task: Name of the task; None: the origin of the data.
            max_episode_length: Steps after which episodes are cut, which the data doesn't contain; 0: unknown.
        """
        return EnvSpec(
            task=task or self.source,
            num_envs=1,
            obs_groups={name: tuple(rows.shape[1:]) for name, rows in self.obs.items()},
            action=self.action_spec,
            max_episode_length=max_episode_length,
            obs_dtypes={
                name: str(rows.dtype).removeprefix("torch.")
                for name, rows in self.obs.items()
                if not rows.is_floating_point()
            },
        )

    def select(self, rows: Tensor) -> TransitionDataset:
        """Return the transitions of `rows`, bool `(M,)` or int64 `(K,)`; the returns stay those of all."""
        picked: dict[str, Any] = {
            name: value[rows]
            for name, value in vars(self).items()
            if isinstance(value, Tensor) and name != "episode_returns"
        }
        for name in ("obs", "next_obs"):
            picked[name] = {group: tensor[rows] for group, tensor in vars(self)[name].items()}
        return replace(self, **picked)

    def with_rewards(self, mode: RewardMode, *, target_range: float = 1000.0, shift: float = -1.0) -> TransitionDataset:
        """Return the data with changed rewards; `episode_returns` stay as recorded.

        Args:
            mode: `none`; `normalize_by_return_range` scales so that best and worst episode are `target_range` apart, as
                is usual for locomotion; `shift` adds `shift`, as is usual for AntMaze.
            target_range: See `mode`.
            shift: See `mode`.
        """
        if mode == "none":
            return self
        if mode == "shift":
            return replace(self, reward=self.reward + shift)
        returns = self.episode_returns
        spread = float(returns.max() - returns.min()) if len(returns) else 0.0
        if spread <= 0.0:
            raise DatasetError(
                f"{self.source} has {len(returns)} whole episodes, whose returns don't differ: "
                "reward_mode=normalize_by_return_range has nothing to scale by, use reward_mode=none."
            )
        return replace(self, reward=self.reward * (target_range / spread))

    def require_fit(self, spec: EnvSpec) -> None:
        """Check that the data fits the environment `spec`.

        Raises:
            DatasetError: Groups, shapes or actions differ.
        """
        found = []
        groups = {name: tuple(rows.shape[1:]) for name, rows in self.obs.items()}
        for name in sorted({*groups, *spec.obs_groups}):
            here, there = groups.get(name), spec.obs_groups.get(name)
            if here != (None if there is None else tuple(there)):
                found.append(f"observation group '{name}' is {here} in the data and {there} in the environment")
        if tuple(self.action.shape[1:]) != tuple(spec.action.shape) or self.action.is_floating_point() != (
            spec.action.kind == "continuous"
        ):
            kind = "continuous" if self.action.is_floating_point() else "discrete"
            found.append(
                f"actions are {kind} {tuple(self.action.shape[1:])} in the data and {spec.action.kind} "
                f"{tuple(spec.action.shape)} in the environment"
            )
        elif spec.action.kind == "discrete" and int(self.action.max()) >= spec.action.dim:
            found.append(
                f"actions go up to {int(self.action.max())} in the data, and the environment has {spec.action.dim}"
            )
        if found:
            raise DatasetError(
                f"{self.source} was not recorded in {spec.task}: {'; '.join(found)}. Choose other data, or the task of "
                "this data."
            )


def require_row_keys(source: str, present: Iterable[str], max_episode_length: int | None) -> None:
    """Check that all keys of `TransitionDataset.from_rows` are present."""
    present = list(present)
    if [key for key in ROW_KEYS if key not in present] != ["timeouts"]:
        require_keys(source, ROW_KEYS, present)
    elif max_episode_length is None:
        what = f"it is missing, and {did_you_mean('timeouts', present)}; mark the rows where episodes were cut, or set"
        raise fault(source, "timeouts", None, f"{what} dataset.max_episode_length to the steps after which they were")


def _time_outs(terminated: np.ndarray, horizon: int) -> np.ndarray:
    """Mark rows, bool `(M,)`, at which unmarked episodes have lasted `horizon` steps."""
    row = np.arange(len(terminated))
    first = np.maximum.accumulate(np.where(np.concatenate([[False], terminated[:-1]]), row, 0))
    return ((row - first + 1) % horizon == 0) & ~terminated


def _returns(reward: np.ndarray, ends: np.ndarray, source: str, max_episode_length: int | None) -> np.ndarray:
    """Return the returns `(E,)` of the complete episodes; also checks the lengths of all."""
    last = ends.nonzero()[0]
    starts = np.concatenate([[0], last + 1])
    lengths = np.diff(np.concatenate([starts, [len(reward)]]))
    require_horizon(source, "timeouts", lengths, starts, max_episode_length)
    sums = np.concatenate([[0.0], np.cumsum(reward, dtype=np.float64)])
    return sums[last + 1] - sums[starts[: len(last)]]


def _observed(rows: np.ndarray) -> Tensor:
    """Convert observations: images keep their bytes, everything else becomes float."""
    image = rows.dtype == np.uint8 and rows.ndim > 2
    return _tensor(rows if image or rows.dtype.kind == "f" else rows.astype(np.float32))


def _tensor(array: np.ndarray) -> Tensor:
    """Copy to a tensor in native byte order; floats get torch's default dtype, images and indices keep theirs."""
    dtype = np.dtype(np.float64) if array.dtype == np.longdouble else array.dtype.newbyteorder("=")
    tensor = torch.from_numpy(np.array(array, dtype=dtype))
    return tensor.to(default_dtype(torch.float32)) if tensor.is_floating_point() else tensor


class DatasetLoader(ABC):
    """Loader of the data that its configuration names; built by `DatasetCfg.build`."""

    def __init__(self, cfg: DatasetCfg) -> None:
        self.cfg = cfg

    @abstractmethod
    def read(self) -> TransitionDataset:
        """Return the data as recorded."""

    def load(self) -> TransitionDataset:
        """Return the data with the configured rewards."""
        cfg = self.cfg
        return self.read().with_rewards(cfg.reward_mode, target_range=cfg.return_range, shift=cfg.reward_shift)


@configclass
class DatasetCfg(Cfg):
    """Base of the data configurations of an offline run; `class_type` reads the data."""

    class_type: type = DatasetLoader

    reward_mode: RewardMode = "none"
    """Change of the recorded rewards.

    `normalize_by_return_range`: scale them so that best and worst episode are `return_range` apart; `shift`: add
    `reward_shift`.
    """
    return_range: Annotated[float, Range(gt=0)] = 1000.0
    """Range of returns for `reward_mode=normalize_by_return_range`."""
    reward_shift: float = -1.0
    """Constant for `reward_mode=shift`."""
    max_episode_length: Annotated[int, Range(ge=1)] | None = None
    """Maximum length of episodes; longer ones are an error (an end is not marked). None: any length."""

    def build(self, *args: Any, **runtime: Any) -> TransitionDataset:
        """Validate the configuration, then read and validate the data.

        Raises:
            DatasetError: Names file, key and row.
        """
        loader: DatasetLoader = super().build(*args, **runtime)
        return loader.load()
