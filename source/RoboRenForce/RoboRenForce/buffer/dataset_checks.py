"""Validation of recorded data before training; every error names file, key and row.

Rows count from 0. Data of episodes has keys such as `episode_3/rewards`, and the row is one of that episode.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch

from ..envs.spec import ActionSpec
from ..utils.errors import UserError, did_you_mean
from .records import free_bytes

ACTION_TOLERANCE = 1e-3
"""Tolerated excess of an action over its bounds due to rounding, as a share of their distance."""
_SAME_OBSERVATION = 1e-4


class DatasetError(UserError, ValueError):
    """Error about a data set that can't be found, can't be read or contradicts itself."""


def fault(source: str, key: str, row: int | None, what: str) -> DatasetError:
    """Build the error for one place of a data set."""
    where = f"key '{key}'" + ("" if row is None else f", row {row:,}")
    return DatasetError(f"{source}, {where}: {what}")


def require_keys(source: str, keys: Iterable[str], present: Iterable[str]) -> None:
    """Check that all of `keys` are present."""
    present = list(present)
    for key in keys:
        if key not in present:
            near = did_you_mean(key, present)
            raise fault(source, key, None, f"it is missing; it needs {', '.join(keys)}, and {near}")


def require_rows(source: str, arrays: Mapping[str, np.ndarray], reference: str) -> None:
    """Check that every array has as many rows as `reference`, and at least one."""
    rows = len(arrays[reference])
    if not rows:
        raise fault(source, reference, None, "it has no rows; record at least one episode")
    for key, array in arrays.items():
        if len(array) != rows:
            found = f"it has {len(array):,} rows and '{reference}' has {rows:,}; record one of each a step"
            raise fault(source, key, min(len(array), rows), found)


def require_shape(source: str, key: str, array: np.ndarray, shape: tuple[int, ...]) -> None:
    """Check that every row of `array` has `shape`."""
    if array.shape[1:] != shape:
        raise fault(source, key, None, f"its rows have the shape {array.shape[1:]}, expected {shape}")


def require_finite(source: str, key: str, array: np.ndarray) -> None:
    """Check that all numbers are finite, in float32 too."""
    if not is_real(array.dtype):
        raise fault(source, key, None, f"it holds {array.dtype}, expected numbers")
    if array.dtype.kind != "f":
        return
    with np.errstate(over="ignore", invalid="ignore"):
        finite = np.isfinite(array.astype(np.float32))  # what a learner will see: 1e300 becomes infinite
    bad = ~finite.all(axis=tuple(range(1, array.ndim)))
    if bad.any():
        row = int(bad.argmax())
        value = array[row][~finite[row]].reshape(-1)[0]
        rest = int(bad.sum()) - 1
        more = f" (and {rest:,} more such rows)" if rest else ""
        raise fault(source, key, row, f"it holds {value}{more}, expected finite numbers; record the data anew")


def is_real(dtype: np.dtype[Any]) -> bool:
    """Return True for booleans, integers and floats; False for text, objects, compounds and complex numbers."""
    return dtype.kind in "biuf"


def require_memory(source: str, key: str, needed: int) -> None:
    """Check that `needed` bytes can still be allocated on the host."""
    free = free_bytes(torch.device("cpu"))
    if free is not None and needed > free:
        raise fault(
            source,
            key,
            None,
            f"it needs {needed / 2**30:,.1f} GiB of memory, and {free / 2**30:,.1f} GiB are free; use less data, or a "
            "machine with more memory",
        )


def one_a_row(array: np.ndarray, shape: tuple[int, ...] = ()) -> np.ndarray:
    """Squeeze `(M, 1)` to `(M,)` for rows of `shape`; other arrays stay as they are."""
    if array.shape[1:] in ((), (1,)) and shape in ((), (1,)):
        return array.reshape(len(array), *shape)
    return array


def vectors(observations: np.ndarray) -> np.ndarray:
    """Turn scalar observations into vectors of length one."""
    return observations[:, None] if observations.ndim == 1 else observations


def flags(source: str, key: str, array: np.ndarray) -> np.ndarray:
    """Convert flags, possibly stored as numbers or as `(M, 1)`, to bool `(M,)`."""
    array = one_a_row(array)
    require_shape(source, key, array, ())
    require_finite(source, key, array)
    if array.dtype == np.bool_:
        return array
    wrong = (array != 0) & (array != 1)
    if wrong.any():
        row = int(wrong.argmax())
        raise fault(source, key, row, f"it is {array[row]}, expected 0 or 1")
    return array.astype(np.bool_)


def as_learned(recorded: ActionSpec) -> ActionSpec:
    """Return the learner's action space for the recorded one: bounds become [-1, 1], see `unit_actions`."""
    if recorded.kind == "discrete":
        return recorded
    return ActionSpec("continuous", recorded.dim, (-1.0,) * recorded.dim, (1.0,) * recorded.dim)


def unit_actions(source: str, key: str, array: np.ndarray, action: ActionSpec) -> np.ndarray:
    """Scale recorded actions to the learner's: `(M, A)` in [-1, 1], or indices `(M,)`.

    Args:
        source: For errors.
        key: For errors.
        array: Recorded actions, in the range of `action`; scalar actions are `(M,)` or `(M, 1)`.
        action: Recorded action space.
    """
    array = one_a_row(array, action.shape)
    require_shape(source, key, array, action.shape)
    require_finite(source, key, array)
    if action.kind == "discrete":
        wrong = (array < 0) | (array >= action.dim) | (array != np.floor(array))
        if wrong.any():
            row = int(wrong.argmax())
            raise fault(source, key, row, f"the action is {array[row]}, expected an integer from 0 to {action.dim - 1}")
        return array.astype(np.int64)
    low, high = _bounds(source, key, action)
    unit = (array - low) / (high - low) * 2.0 - 1.0
    wrong = (np.abs(unit) > 1.0 + 2.0 * ACTION_TOLERANCE).any(axis=1)
    if wrong.any():
        row = int(wrong.argmax())
        column = int(np.abs(unit[row]).argmax())
        raise fault(
            source,
            key,
            row,
            f"action {column} is {array[row, column]:.6g}, expected {low[column]:.6g} to {high[column]:.6g} "
            f"({int(wrong.sum()):,} rows of {len(array):,} lie outside); state the true bounds of the actions",
        )
    return unit.clip(-1.0, 1.0)


def _bounds(source: str, key: str, action: ActionSpec) -> tuple[np.ndarray, np.ndarray]:
    """Return lower and upper bounds `(A,)` between which actions can be scaled."""
    if action.low is None or action.high is None:
        raise fault(
            source, key, None, "its action space has no finite bounds, and offline learners need actions in [-1, 1]"
        )
    low, high = np.asarray(action.low, np.float64), np.asarray(action.high, np.float64)
    if not len(low) == len(high) == action.dim:
        raise fault(source, key, None, f"it has {len(low)} lower and {len(high)} upper bounds, expected {action.dim}")
    # The largest float32 is how spaces write "unbounded".
    wrong = ~((np.maximum(-low, high) < np.finfo(np.float32).max) & (low < high))
    if wrong.any():
        column = int(wrong.argmax())
        raise fault(
            source,
            key,
            None,
            f"the bounds of action {column} are {low[column]:.6g} and {high[column]:.6g}, expected two finite numbers, "
            "the lower one first; state the true bounds of the actions",
        )
    return low, high


def require_successors(source: str, key: str, obs: np.ndarray, next_obs: np.ndarray, ends: np.ndarray) -> None:
    """Check that recorded successors equal the next row's observations unless an episode ends, bool `ends` `(M,)`."""
    same = np.isclose(next_obs[:-1], obs[1:], rtol=_SAME_OBSERVATION, atol=_SAME_OBSERVATION)
    differs = ~same.all(axis=tuple(range(1, obs.ndim))) & ~ends[:-1]
    if differs.any():
        row = int(differs.argmax())
        raise fault(
            source,
            key,
            row,
            f"the successor is not the observation of row {row + 1:,}, and neither 'terminals' nor 'timeouts' marks "
            f"the end of an episode in row {row:,}; mark it, or repair the successor",
        )


def require_horizon(source: str, key: str, lengths: np.ndarray, starts: np.ndarray, horizon: int | None) -> None:
    """Check that no episode is longer than `horizon`; `lengths` and first rows `starts` are int `(E,)`."""
    if horizon is None or not (lengths > horizon).any():
        return
    episode = int((lengths > horizon).argmax())
    row = int(starts[episode]) + horizon - 1
    raise fault(
        source,
        key,
        row,
        f"the episode that begins in row {int(starts[episode]):,} has {int(lengths[episode]):,} steps, and at most "
        f"{horizon:,} are possible: an end is not marked; mark time-outs in '{key}', or set "
        "dataset.max_episode_length=null",
    )


def as_array(source: str, key: str, value: Any) -> np.ndarray:
    """Convert to an array with at least one dimension."""
    array = np.asarray(value)
    if array.ndim == 0:
        raise fault(source, key, None, "it is a single value, expected one row per step")
    return array
