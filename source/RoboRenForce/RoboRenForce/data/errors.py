"""Errors about recorded data: file, episode, frame; what, got, expected, fix."""

from __future__ import annotations

from pathlib import Path

from ..utils.errors import UserError


class DatasetFileError(UserError, ValueError):
    """A recorded dataset is absent, damaged, of another format, or contradicts itself."""


def fault(
    path: str | Path, what: str, *, episode: int | None = None, frame: int | None = None, fix: str = ""
) -> DatasetFileError:
    """Build the error for one place of a dataset, as one sentence.

    Args:
        path: File.
        what: Description of the problem: got and expected.
        episode: Index of the episode, if it is about one.
        frame: Index within the episode.
        fix: Repair, in the imperative.
    """
    place = f"'{path}'"
    if episode is not None:
        place += f", episode {episode}"
    if frame is not None:
        place += f", frame {frame}"
    return DatasetFileError(f"{place}: {what}{f'; {fix}' if fix else ''}.")


def no_folder(path: str | Path, expected: str) -> DatasetFileError:
    """Build the error about a path that is absent, or a file, where the folder `expected` should be."""
    what = "it is a file, expected a folder" if Path(path).exists() else "there is no such folder"
    return fault(path, what, fix=f"name {expected}")
