"""The error for recorded data: file, episode, frame; what, got, expected, fix."""

from __future__ import annotations

from pathlib import Path

from ..utils.errors import UserError


class DatasetFileError(UserError, ValueError):
    """A recorded dataset is absent, damaged, of another format, or contradicts itself."""


def fault(
    path: str | Path, what: str, *, episode: int | None = None, frame: int | None = None, fix: str = ""
) -> DatasetFileError:
    """Return the error for one place of a dataset, as one sentence.

    Args:
        path: the file.
        what: what is wrong there: got and expected.
        episode: its index, if it is about one.
        frame: its index within the episode.
        fix: what repairs it, in the imperative.
    """
    place = f"'{path}'"
    if episode is not None:
        place += f", episode {episode}"
    if frame is not None:
        place += f", frame {frame}"
    return DatasetFileError(f"{place}: {what}{f'; {fix}' if fix else ''}.")
