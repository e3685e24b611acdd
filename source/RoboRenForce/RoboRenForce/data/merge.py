"""Merging of episodes, a parquet file and a video per camera each, into the large files of a v3.0 dataset.

Nothing that exists is changed before `meta/info.json`, the last file, is replaced: until then an interrupted merge can
simply be repeated.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..utils.run_dir import replacing, write_text_atomically
from . import layout
from .arrow import arrow, open_parquet, parquet, read_columns
from .errors import fault
from .features import Feature
from .metadata import V30, DatasetMetadata, FormatVersion
from .statistics import FeatureStatistics
from .video_writer import VideoJoiner

CHUNK_SIZE = 1000
"""Maximum number of files in a folder."""
DATA_MB, VIDEO_MB = 100, 200
"""Sizes of files after which the next one begins."""


@dataclass(frozen=True)
class EpisodePart:
    """A complete episode on disk."""

    table: Path
    """Parquet file of all columns but videos; `index`, `episode_index` and `task_index` are those of the dataset."""
    videos: dict[str, Path]
    """Video files, by video feature."""
    length: int
    tasks: list[str]
    statistics: dict[str, FeatureStatistics]

    def open_table(self) -> Any:
        """Open the parquet file.

        Raises:
            DatasetFileError: It is damaged, or has another number of frames.
        """
        file = open_parquet(self.table)
        if file.metadata.num_rows != self.length:
            raise fault(self.table, f"it has {file.metadata.num_rows:,} frames, expected {self.length:,}")
        return file

    def require_frames(self, video: Path, frames: int, episode: int) -> None:
        """Check the number of frames of a video.

        Raises:
            DatasetFileError: It is not that of the episode.
        """
        if frames != self.length:
            what = f"it has {frames:,} frames, the episode has {self.length:,}"
            raise fault(video, what, episode=episode, fix="leave the episode out, or record it again")


@dataclass(frozen=True)
class DatasetSummary:
    """A whole dataset once its new episodes are in it: what `info.json` and the list of tasks say."""

    features: Mapping[str, Feature]
    """All of them, the standard ones too."""
    fps: float
    robot_type: str | None
    tasks: Mapping[int, str]
    """`task_index` -> instruction."""
    episodes: int
    frames: int

    @property
    def videos(self) -> list[str]:
        """Names of video features."""
        return [key for key, feature in self.features.items() if feature.dtype == "video"]


def append_v30(
    root: Path,
    parts: Iterable[EpisodePart],
    summary: DatasetSummary,
    statistics: Mapping[str, FeatureStatistics],
    dataset: DatasetMetadata | None = None,
) -> None:
    """Append episodes to a dataset of v3.0.

    Args:
        root: Folder of the dataset.
        parts: New episodes.
        summary: The dataset with them.
        statistics: Statistics of the dataset with them.
        dataset: The dataset before; None: there is none yet.

    Raises:
        DatasetFileError: A part has another number of frames than it says.
    """
    remove_unfinished(root, dataset.files if dataset else [])
    episodes, frames = (len(dataset.episodes), dataset.total_frames) if dataset else (0, 0)
    merger = EpisodeMerger(root, summary.features, summary.fps, first_episode=episodes, first_frame=frames)
    for part in parts:
        merger.append(part)
    merger.close()
    write_tasks(root, summary.tasks)
    write_statistics(root, statistics)
    write_info(
        root,
        summary,
        V30,
        chunks_size=CHUNK_SIZE,
        data_files_size_in_mb=DATA_MB,
        video_files_size_in_mb=VIDEO_MB,
        data_path=layout.DATA,
        video_path=layout.VIDEOS if summary.videos else None,
    )


@dataclass
class _FileIndex:
    """Location of the next file of a kind."""

    chunk: int = 0
    file: int = -1

    def advance(self) -> None:
        self.file += 1
        if self.file == CHUNK_SIZE:
            self.chunk, self.file = self.chunk + 1, 0

    @property
    def values(self) -> dict[str, int]:
        return {"chunk_index": self.chunk, "file_index": self.file}


class EpisodeMerger:
    """Append episodes to a dataset; `close` completes its files and returns the rows of the episodes.

    Args:
        root: Folder of the dataset.
        features: Features of the dataset.
        fps: Frames per second.
        first_episode: Index of the first appended episode.
        first_frame: Index of its first frame.
    """

    def __init__(
        self, root: Path, features: Mapping[str, Feature], fps: float, *, first_episode: int = 0, first_frame: int = 0
    ) -> None:
        self.root, self.features, self.fps = root, features, fps
        self._episode, self._frame = first_episode, first_frame
        self._videos: dict[str, VideoJoiner | None] = {
            key: None for key, feature in features.items() if feature.dtype == "video"
        }
        self._indices = {name: _last_file(root, _folder(name)) for name in ("data", "meta/episodes", *self._videos)}
        self._writer: Any = None
        self._written = 0
        self.rows: list[dict[str, Any]] = []
        """Rows of `meta/episodes`, one per episode."""

    def append(self, part: EpisodePart) -> None:
        """Append one episode.

        Raises:
            DatasetFileError: Its video has another number of frames than its table.
        """
        row: dict[str, Any] = {"episode_index": self._episode, "tasks": part.tasks, "length": part.length}
        row |= self._append_table(part)
        row |= {"dataset_from_index": self._frame, "dataset_to_index": self._frame + part.length}
        for key in self._videos:
            row |= self._append_video(key, part)
        for key, statistics in part.statistics.items():
            row |= {f"stats/{key}/{name}": value for name, value in statistics.to_json().items()}
        self.rows.append(row)
        self._episode += 1
        self._frame += part.length

    def _append_table(self, part: EpisodePart) -> dict[str, Any]:
        index, file = self._indices["data"], part.open_table()
        size = part.table.stat().st_size
        if self._writer is None or self._written + size > DATA_MB * 2**20:
            self._close_table()
            index.advance()
            path = self.root / layout.fill(layout.DATA, self.root, **index.values)
            path.parent.mkdir(parents=True, exist_ok=True)
            self._writer = parquet().ParquetWriter(path, file.schema_arrow, compression="snappy")
        # Row groups stay as they are: small ones are what makes pictures readable at random.
        for group in range(file.num_row_groups):
            table = read_columns(part.table, file, [group], self._writer.schema.names)
            self._writer.write_table(table.cast(self._writer.schema))
        self._written += size
        return {f"data/{name}": value for name, value in index.values.items()}

    def _append_video(self, key: str, part: EpisodePart) -> dict[str, Any]:
        index, joiner, path = self._indices[key], self._videos[key], part.videos[key]
        size = path.stat().st_size
        if joiner is None or joiner.size + size > VIDEO_MB * 2**20 or not joiner.fits(path):
            if joiner is not None:
                joiner.close()
            index.advance()
            target = layout.fill(layout.VIDEOS, self.root, video_key=key, **index.values)
            joiner = self._videos[key] = VideoJoiner(self.root / target, self.fps)
        start, end, frames = joiner.append(path)
        part.require_frames(path, frames, self._episode)
        row = {f"videos/{key}/{name}": value for name, value in index.values.items()}
        return row | {f"videos/{key}/from_timestamp": start, f"videos/{key}/to_timestamp": end}

    def _close_table(self) -> None:
        if self._writer is not None:
            self._writer.close()
        self._writer, self._written = None, 0

    def close(self) -> None:
        """Complete the large files and write the episodes' rows."""
        self._close_table()
        for key, joiner in self._videos.items():
            if joiner is not None:
                joiner.close()
            self._videos[key] = None
        if not self.rows:
            return
        index = self._indices["meta/episodes"]
        index.advance()
        for row in self.rows:
            row |= {f"meta/episodes/{name}": value for name, value in index.values.items()}
        path = self.root / layout.fill(layout.EPISODES, self.root, **index.values)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_parquet(path, arrow().Table.from_pylist(self.rows))


def _folder(name: str) -> str:
    return name if name in ("data", "meta/episodes") else f"videos/{name}"


def _last_file(root: Path, folder: str) -> _FileIndex:
    """Return the last existing file of a kind; an interrupted merge's are overwritten, see `remove_unfinished`."""
    found = sorted((root / folder).glob("chunk-*/file-*.*"))
    if not found:
        return _FileIndex()
    return _FileIndex(int(found[-1].parent.name.removeprefix("chunk-")), int(found[-1].stem.removeprefix("file-")))


def write_parquet(path: Path, table: Any) -> None:
    """Write a small table atomically."""
    with replacing(path) as file:
        parquet().write_table(table, file, compression="snappy")


def write_tasks(root: Path, tasks: Mapping[int, str]) -> None:
    """Write `meta/tasks.parquet`; pandas, and so LeRobot, expects the texts as the index of the table."""
    pa = arrow()
    table = pa.table({"task_index": pa.array(list(tasks), pa.int64()), "__index_level_0__": list(tasks.values())})
    columns = [
        {"name": "task_index", "field_name": "task_index", "pandas_type": "int64", "numpy_type": "int64"},
        {"name": None, "field_name": "__index_level_0__", "pandas_type": "unicode", "numpy_type": "object"},
    ]
    pandas = {
        "index_columns": ["__index_level_0__"],
        "column_indexes": [{"name": None, "field_name": None, "pandas_type": "unicode", "numpy_type": "object"}],
        "columns": [column | {"metadata": None} for column in columns],
        "pandas_version": "2.2.0",
    }
    write_parquet(root / layout.TASKS, table.replace_schema_metadata({"pandas": json.dumps(pandas)}))


def write_statistics(root: Path, statistics: Mapping[str, FeatureStatistics]) -> None:
    """Replace `meta/stats.json`."""
    data = {key: entry.to_json() for key, entry in statistics.items()}
    write_text_atomically(root / layout.STATS, json.dumps(data, indent=4))


def write_info(root: Path, summary: DatasetSummary, version: FormatVersion, **entries: Any) -> None:
    """Replace `meta/info.json`, which adds the episodes to the dataset.

    Args:
        root: Folder of the dataset.
        summary: The dataset with them.
        version: Version of the format.
        entries: Entries that other versions do not have, or have other values of.
    """
    info = {
        "codebase_version": version,
        "robot_type": summary.robot_type,
        "total_episodes": summary.episodes,
        "total_frames": summary.frames,
        "total_tasks": len(summary.tasks),
        "fps": int(summary.fps) if float(summary.fps).is_integer() else summary.fps,
        "splits": {"train": f"0:{summary.episodes}"},
        **entries,
        "features": {key: feature.to_json() for key, feature in summary.features.items()},
    }
    write_text_atomically(root / layout.INFO, json.dumps(info, indent=4))


def remove_unfinished(root: Path, kept: Iterable[Path]) -> None:
    """Remove the files of an interrupted merge; `kept` are those of the dataset."""
    keep = {os.path.abspath(path) for path in kept}
    for pattern in (
        "data/chunk-*/file-*.parquet",
        "videos/*/chunk-*/file-*.mp4",
        "meta/episodes/chunk-*/file-*.parquet",
    ):
        for path in root.glob(pattern):
            if os.path.abspath(path) not in keep:
                path.unlink()
