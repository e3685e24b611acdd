"""Checks of the frames of an episode: pure functions that return the problems, for readers and inspections."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np


class FrameProblem(NamedTuple):
    """One problem of an episode."""

    key: str
    frame: int
    """First frame with the problem."""
    what: str
    """Description: got and expected."""
    fix: str


def frame_problems(
    columns: Mapping[str, np.ndarray],
    *,
    episode: int,
    first: int,
    fps: float,
    tolerance_s: float,
    tasks: Mapping[int, str],
) -> Iterator[FrameProblem]:
    """Return contradictions to the metadata, and values that are not finite.

    Args:
        columns: Key -> `(L, *shape)` of one episode, including the standard columns.
        episode: Index of the episode.
        first: `index` of its first frame.
        fps: Frames per second.
        tolerance_s: Maximum deviation of a frame from its time, in seconds.
        tasks: Known task indices.
    """
    length = len(columns["frame_index"])
    counter = np.arange(length)
    for key, start, step in (("episode_index", episode, 0), ("frame_index", 0, 1), ("index", first, 1)):
        wrong = columns[key].reshape(length) != start + step * counter
        if wrong.any():
            frame = int(wrong.argmax())
            what = f"{key} is {int(columns[key].reshape(length)[frame])}, expected {start + step * frame}"
            yield FrameProblem(key, frame, what, "rows are lost or of another dataset: download or convert it again")
    seconds = columns["timestamp"].reshape(length).astype(np.float64)
    # Times are judged from the first one: trimmed episodes need not begin at 0.
    expected = seconds[0] + counter / fps
    wrong = ~(np.abs(seconds - expected) <= tolerance_s)
    if wrong.any():
        frame = int(wrong.argmax())
        what = f"timestamp is {seconds[frame]:.6g} s, expected {expected[frame]:.6g} s (frame / {fps:g} Hz)"
        yield FrameProblem("timestamp", frame, what, "record at a fixed rate, or set tolerance_s")
    known = np.isin(columns["task_index"].reshape(length), list(tasks))
    if not known.all():
        frame = int((~known).argmax())
        number = int(columns["task_index"].reshape(length)[frame])
        yield FrameProblem(
            "task_index", frame, f"task_index is {number}, and no task has that number", "repair meta/tasks"
        )
    for key, values in columns.items():
        if values.dtype.kind != "f" or key == "timestamp":
            continue
        rows = values.reshape(length, -1)
        bad = ~np.isfinite(rows).all(axis=1)
        if bad.any():
            frame, count = int(bad.argmax()), int(bad.sum())
            dimension = int((~np.isfinite(rows[frame])).argmax())
            what = f"'{key}' holds {rows[frame, dimension]} in dimension {dimension}"
            rest = f" (and in {count - 1:,} more frames)" if count > 1 else ""
            yield FrameProblem(
                key, frame, f"{what}{rest}, expected finite numbers", "leave the episode out or repair it"
            )
