"""Files of rows in D4RL's layout: one array per key, episodes one after another.

    observations (M, D)   actions (M, A)   rewards (M,)   terminals (M,)   [timeouts (M,)]   [next_observations (M, D)]

Columns may also be `(M, 1)`. Without `timeouts` the longest episode has to be known. Files that are written here also
have the attributes `action_low` and `action_high` `(A,)`; without them actions are in [-1, 1].
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from gymnasium import spaces
from RoboRenForce.buffer import DatasetError, EpisodeArrays, TransitionDataset
from RoboRenForce.buffer.dataset import ROW_KEYS, require_row_keys
from RoboRenForce.buffer.dataset_checks import require_keys
from RoboRenForce.envs.spec import ActionSpec
from RoboRenForce.utils.errors import UserError

from .hdf5_file import Hdf5File
from .recorded_space import RecordedSpaces, action_spec, recorded_actions

_BOUNDS = ("action_low", "action_high")


def read_rows(path: Path, *, group: str, max_episode_length: int | None = None) -> TransitionDataset:
    """Read and check a file.

    Args:
        path: File.
        group: Observation group for the observations.
        max_episode_length: Maximum length; longer episodes are an error. Without `timeouts`, episodes were cut after as
            many steps.

    Raises:
        DatasetError: Names file, key and row.
    """
    if not path.is_file():
        raise DatasetError(f"There is no file '{path}': record one with scripts/data/collect_dataset.py, see --help.")
    with Hdf5File(path) as file:
        present = file.names()
        require_row_keys(str(path), present, max_episode_length)
        arrays = {key: file.array(key) for key in (*ROW_KEYS, "next_observations") if key in present}
        bounds = {name: value for name in _BOUNDS if (value := file.attribute(name)) is not None}
    action = None
    if bounds:
        require_keys(str(path), _BOUNDS, bounds)
        low, high = (tuple(bounds[name].tolist()) for name in _BOUNDS)
        action = ActionSpec("continuous", len(low), low, high)
    return TransitionDataset.from_rows(
        arrays, source=str(path), action=action, group=group, max_episode_length=max_episode_length
    )


def write_rows(path: Path, episodes: Sequence[EpisodeArrays], recorded: RecordedSpaces, notes: dict[str, str]) -> None:
    """Write episodes as rows, with their true successors.

    Args:
        path: New file.
        episodes: Episodes with actions as they were played.
        recorded: Spaces of the data.
        notes: Further attributes of the file.

    Raises:
        UserError: The file exists or can't be written, or the data doesn't fit this layout.
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
        "actions": [recorded_actions(recorded, episode.actions) for episode in episodes],
        "rewards": [episode.rewards for episode in episodes],
        "terminals": [episode.terminations for episode in episodes],
        "timeouts": [episode.truncations for episode in episodes],
    }
    action = action_spec(recorded.action, str(path))
    attributes: dict[str, Any] = dict(notes)
    if action.low is not None and action.high is not None:
        attributes |= {"action_low": np.asarray(action.low), "action_high": np.asarray(action.high)}
    unfinished = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with h5py.File(unfinished, "w") as file:
            for key, parts in rows.items():
                file.create_dataset(key, data=np.concatenate(parts), compression="gzip", compression_opts=1)
            file.attrs.update(attributes)
        unfinished.replace(path)
    except (OSError, RuntimeError) as error:  # HDF5 reports some failing writes as the second
        with suppress(OSError):
            unfinished.unlink()
        raise UserError(f"'{path}' can't be written: {error}; choose another --output.") from error
