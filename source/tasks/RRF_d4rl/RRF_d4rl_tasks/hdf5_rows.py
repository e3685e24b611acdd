"""Files of rows in D4RL's layout: one array per key, episodes one after another.

    observations (M, D)   actions (M, A)   rewards (M,)   terminals (M,)   timeouts (M,)   [next_observations (M, D)]

Files that are written here also have the attributes `action_low` and `action_high` `(A,)`; without them actions are in
[-1, 1].
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from gymnasium import spaces
from RoboRenForce.buffer import DatasetError, EpisodeArrays, TransitionDataset
from RoboRenForce.envs.spec import ActionSpec
from RoboRenForce.utils.errors import UserError

from .recorded_space import RecordedSpaces, action_spec, recorded_actions


def read_rows(path: Path, *, group: str, max_episode_length: int | None = None) -> TransitionDataset:
    """Read and check a file.

    Args:
        path: of the file.
        group: observation group that the observations become.
        max_episode_length: longer episodes are an error.

    Raises:
        DatasetError: names file, key and row.
    """
    if not path.is_file():
        raise DatasetError(f"There is no file '{path}': record one with scripts/data/collect_dataset.py, see --help.")
    try:
        with h5py.File(path, "r") as file:
            arrays = {str(key): value[()] for key, value in file.items() if isinstance(value, h5py.Dataset)}
            bounds = [file.attrs.get(name) for name in ("action_low", "action_high")]
    except OSError as error:
        raise DatasetError(f"'{path}' can't be read as HDF5: {error}; record or download it anew.") from error
    action = None
    if bounds[0] is not None and bounds[1] is not None:
        low, high = (tuple(np.asarray(bound, np.float64).reshape(-1).tolist()) for bound in bounds)
        action = ActionSpec("continuous", len(low), low, high)
    return TransitionDataset.from_rows(
        arrays, source=str(path), action=action, group=group, max_episode_length=max_episode_length
    )


def write_rows(path: Path, episodes: Sequence[EpisodeArrays], recorded: RecordedSpaces, notes: dict[str, str]) -> None:
    """Write episodes as rows, with their true successors.

    Args:
        path: of the new file.
        episodes: with actions in [-1, 1].
        recorded: spaces to state.
        notes: further attributes of the file.

    Raises:
        UserError: the file exists, or the data doesn't fit this layout.
    """
    if path.exists():
        raise UserError(f"'{path}' exists already: choose another --output, or remove it.")
    groups = list(episodes[0].observations)
    if len(groups) > 1 or not isinstance(recorded.action, spaces.Box):
        raise UserError(
            f"Files of rows hold one observation group and continuous actions, and this data has the groups {groups} "
            f"and {recorded.action}: record it as a Minari data set, with an --output such as 'name/mixed-v0'."
        )
    rows = {
        "observations": [episode.observations[groups[0]][:-1] for episode in episodes],
        "next_observations": [episode.observations[groups[0]][1:] for episode in episodes],
        "actions": [recorded_actions(recorded.action, episode.actions) for episode in episodes],
        "rewards": [episode.rewards for episode in episodes],
        "terminals": [episode.terminations for episode in episodes],
        "timeouts": [episode.truncations for episode in episodes],
    }
    action = action_spec(recorded.action, str(path))
    attributes: dict[str, Any] = dict(notes)
    if action.low is not None and action.high is not None:
        attributes |= {"action_low": np.asarray(action.low), "action_high": np.asarray(action.high)}
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + ".part")
    with h5py.File(unfinished, "w") as file:
        for key, parts in rows.items():
            file.create_dataset(key, data=np.concatenate(parts), compression="gzip", compression_opts=1)
        file.attrs.update(attributes)
    unfinished.replace(path)
