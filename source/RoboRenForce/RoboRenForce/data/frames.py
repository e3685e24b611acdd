"""Columns of episodes, read by row groups into a cache with a budget: files may be larger than memory."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from . import layout
from .arrow import REREAD, BadColumn, open_parquet, read_columns, to_numpy
from .checks import frame_problems
from .errors import DatasetFileError, fault
from .features import STANDARD
from .lru import LRUCache
from .metadata import DatasetMetadata

Columns = dict[str, np.ndarray]
"""Key -> `(L, *shape)` of one episode."""

_MAX_ROW_GROUP = 2**33
"""Maximum size of a row group in bytes; a larger one has no random access, or a damaged footer, and is refused."""
_OPEN_FILES = 64


def _size_of(columns: Columns) -> int:
    return sum(values.nbytes for values in columns.values())


def _size_of_pictures(column: Any) -> int:
    return int(column.nbytes)


class FrameReader:
    """Reader of a dataset's parquet files: numbers, text and encoded pictures.

    Args:
        metadata: Metadata of the dataset.
        keys: Numbers and text to read besides the standard columns.
        budget: Bytes of numbers that stay in memory, and as many bytes of encoded pictures.
        tolerance_s: Maximum deviation of a frame from its time, in seconds.
        check: True to raise an error if the frames contradict the metadata or contain NaN.
    """

    def __init__(
        self,
        metadata: DatasetMetadata,
        keys: Sequence[str],
        *,
        budget: int = 2**28,
        tolerance_s: float = 1e-4,
        check: bool = True,
    ) -> None:
        self.metadata = metadata
        self.keys = list(dict.fromkeys([*STANDARD, *keys]))
        self._tolerance, self._check = tolerance_s, check
        self._files: LRUCache[tuple[Path, Any, np.ndarray]] = LRUCache(_OPEN_FILES)
        self._episodes: LRUCache[Columns] = LRUCache(budget, _size_of)
        self._pictures: LRUCache[Any] = LRUCache(budget, _size_of_pictures)

    def episode(self, episode: int) -> Columns:
        """Return the columns of an episode.

        Raises:
            DatasetFileError: Names file, episode and frame.
        """
        columns = self._episodes.get(episode)
        if columns is not None:
            return columns
        table = self.metadata.episodes
        number = int(table.file[episode])
        path, file, bounds = self._open(number)
        start = int(table.row[episode])
        groups = _groups_of(bounds, start, start + int(table.length[episode]))
        self._require_size(path, file, groups)
        arrow_table = read_columns(path, file, groups, self.keys)
        read_from, read_to = int(bounds[groups[0]]), int(bounds[groups[-1] + 1])
        # A row group may hold many episodes: they are decoded once and all kept, as far as the budget goes.
        whole = np.flatnonzero(
            (table.file == number) & (table.row >= read_from) & (table.row + table.length <= read_to)
        )
        for other in whole.tolist():
            if other != episode:
                with contextlib.suppress(DatasetFileError):  # said when that episode is asked for
                    self._keep(path, arrow_table, other, read_from)
        return self._keep(path, arrow_table, episode, read_from)

    def _keep(self, path: Path, table: Any, episode: int, read_from: int) -> Columns:
        """Decode one episode out of the rows that were read, and cache it."""
        episodes = self.metadata.episodes
        length = int(episodes.length[episode])
        rows = table.slice(int(episodes.row[episode]) - read_from, length)
        columns: Columns = {}
        for key in self.keys:
            try:
                columns[key] = to_numpy(rows.column(key), key, self.metadata.features[key])
            except BadColumn as error:
                raise fault(path, str(error), episode=episode, frame=error.row, fix=REREAD) from None
        if self._check:
            problems = frame_problems(
                columns,
                episode=episode,
                first=int(episodes.first[episode]),
                fps=self.metadata.fps,
                tolerance_s=self._tolerance,
                tasks=self.metadata.tasks,
            )
            for problem in problems:
                raise fault(path, problem.what, episode=episode, frame=problem.frame, fix=problem.fix)
        # Copies, so that forgetting an episode frees its memory though others were read with it.
        return self._episodes.put(episode, {key: np.array(values) for key, values in columns.items()})

    def pictures(self, key: str, episode: int, frames: Sequence[int]) -> list[bytes]:
        """Return the encoded pictures of an `image` feature.

        Args:
            key: Feature.
            episode: Index of the episode.
            frames: Indices within the episode.

        Raises:
            DatasetFileError: Names file, episode and frame.
        """
        table = self.metadata.episodes
        number, start = int(table.file[episode]), int(table.row[episode])
        path, file, bounds = self._open(number)
        pictures = []
        for frame in frames:
            group = int(np.searchsorted(bounds, start + frame, side="right")) - 1
            column = self._pictures.get((number, group, key))
            if column is None:
                column = self._pictures.put((number, group, key), self._picture_column(path, file, group, key))
            encoded = column[start + frame - int(bounds[group])].as_py()
            if not encoded:
                what = f"camera '{key}' has no picture"
                raise fault(path, what, episode=episode, frame=frame, fix="leave the episode out, or record it again")
            pictures.append(encoded)
        return pictures

    def _picture_column(self, path: Path, file: Any, group: int, key: str) -> Any:
        """Return the bytes of one camera in one row group, as an arrow array."""
        metadata = file.metadata.row_group(group)
        for index in range(metadata.num_columns):
            column = metadata.column(index)
            if column.path_in_schema.startswith(key) and column.total_uncompressed_size > _MAX_ROW_GROUP:
                raise fault(path, f"row group {group} claims {column.total_uncompressed_size:,} bytes of '{key}'")
        array = read_columns(path, file, [group], [key]).column(key).combine_chunks()
        array = array.chunk(0) if hasattr(array, "chunk") else array
        names = [field.name for field in array.type] if hasattr(array, "field") else []
        if "bytes" not in names:
            what = f"camera '{key}' holds {array.type}, expected encoded pictures (a struct with 'bytes')"
            raise fault(path, what, fix=REREAD)
        return array.field("bytes")

    def _open(self, number: int) -> tuple[Path, Any, np.ndarray]:
        """Return path, open file, and the first row of each row group (and the end of the last)."""
        entry = self._files.get(number)
        if entry is None:
            table = self.metadata.episodes
            path = layout.resolve(self.metadata.root, table.files[number], self.metadata.root / layout.INFO)
            file = open_parquet(path)
            expected = int(table.rows_of_file[number])
            if file.metadata.num_rows != expected:
                what = f"it has {file.metadata.num_rows:,} frames, its episodes have {expected:,}"
                raise fault(path, what, fix=REREAD)
            sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
            entry = self._files.put(number, (path, file, np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])))
        return entry

    def _require_size(self, path: Path, file: Any, groups: Sequence[int]) -> None:
        per_row = sum(
            math.prod(feature.shape) * feature.numpy_dtype.itemsize
            for key in self.keys
            if (feature := self.metadata.features[key]).is_number
        )
        for group in groups:
            rows = file.metadata.row_group(group).num_rows
            if rows * per_row > _MAX_ROW_GROUP:
                what = f"row group {group} has {rows:,} rows, {rows * per_row / 2**30:,.1f} GiB"
                raise fault(path, what, fix="write it with smaller row groups")


def _groups_of(bounds: np.ndarray, start: int, stop: int) -> range:
    """Return the row groups that hold the rows from `start` up to `stop`."""
    first = int(np.searchsorted(bounds, start, side="right")) - 1
    last = int(np.searchsorted(bounds, stop, side="left"))
    return range(first, last)
