"""Location of episodes: their frames, and the files that hold them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from . import layout
from .arrow import REREAD, open_parquet, read_table
from .errors import fault
from .features import Feature

STAGING = ".recording"
"""Folder of complete episodes that are not yet merged into a dataset."""
_MAX_FILE_INDEX = 10**6


@dataclass(frozen=True)
class VideoTable:
    """Location of the frames of one video feature, by episode."""

    files: list[str]
    """Paths relative to the dataset."""
    file: np.ndarray
    """int `(E,)`: index into `files`."""
    start: np.ndarray
    """float64 `(E,)`: time in the file at which the episode starts, in seconds."""


@dataclass(frozen=True)
class EpisodeTable:
    """E episodes in the order of recording."""

    length: np.ndarray
    """int64 `(E,)`: frames."""
    first: np.ndarray
    """int64 `(E,)`: `index` of the first frame, counted over the whole dataset."""
    files: list[str]
    """Parquet files, relative to the dataset."""
    file: np.ndarray
    """int64 `(E,)`: index into `files`."""
    row: np.ndarray
    """int64 `(E,)`: row of the first frame in its file."""
    rows_of_file: np.ndarray
    """int64 `(F,)`: number of rows of each file."""
    tasks: list[tuple[str, ...]]
    """Instructions of each episode."""
    videos: dict[str, VideoTable]
    """Location of videos, by video feature."""
    sources: list[Path]
    """Metadata files that were read."""

    def __len__(self) -> int:
        return len(self.length)


def build_table(
    source: Path,
    length: Sequence[Any],
    files: Sequence[str],
    tasks: Sequence[Sequence[str]],
    videos: Mapping[str, tuple[Sequence[str], np.ndarray]],
    total_frames: int,
    sources: list[Path],
) -> EpisodeTable:
    """Check the lengths and compute where every episode starts.

    Args:
        source: Metadata file, for errors.
        length: Number of frames of each episode.
        files: Parquet file of each episode.
        tasks: Instructions of each episode.
        videos: Video feature -> file of each episode, and the seconds at which it starts there.
        total_frames: Number of frames in `info.json`.
        sources: Metadata files that were read.

    Raises:
        DatasetFileError: Names the episode.
    """
    for episode, frames in enumerate(length):
        if not isinstance(frames, int) or not 0 < frames <= total_frames:
            what = f"its length is {str(frames)[:40]}, expected 1 to {total_frames:,} (total_frames of info.json)"
            raise fault(source, what, episode=episode, fix=REREAD)
    lengths = np.asarray(length, np.int64)
    if lengths.sum() != total_frames:
        raise fault(source, f"the episodes have {lengths.sum():,} frames, info.json says {total_frames:,}", fix=REREAD)
    first = np.cumsum(lengths) - lengths
    names, file = _number(files)
    rows = np.bincount(file, weights=lengths, minlength=len(names)).astype(np.int64)
    # Files hold consecutive episodes, so an episode begins where the earlier ones of its file end.
    starts = np.zeros(len(lengths), np.int64)
    seen = np.zeros(len(names), np.int64)
    for episode, (number, frames) in enumerate(zip(file, lengths, strict=True)):
        starts[episode] = seen[number]
        seen[number] += frames
    tables = {}
    for key, (paths, seconds) in videos.items():
        video_names, video_file = _number(paths)
        tables[key] = VideoTable(video_names, video_file, seconds)
    return EpisodeTable(lengths, first, names, file, starts, rows, [tuple(entry) for entry in tasks], tables, sources)


def _number(paths: Sequence[str]) -> tuple[list[str], np.ndarray]:
    """Return distinct paths in the order of their first appearance, and the number of each."""
    numbers: dict[str, int] = {}
    indices = [numbers.setdefault(path, len(numbers)) for path in paths]
    return list(numbers), np.asarray(indices, np.int64)


def read_episodes_v30(
    root: Path, info_path: Path, info: dict[str, Any], features: dict[str, Feature], fps: float
) -> EpisodeTable:
    """Read `meta/episodes/*/*.parquet`."""
    videos = [key for key, feature in features.items() if feature.dtype == "video"]
    sources, rows = _read_rows(root, info["total_episodes"], videos)
    source = root / "meta" / "episodes"
    _require_order(source, rows)
    for name, values in rows.items():
        if name.endswith(("chunk_index", "file_index")):
            _require(source, name, values, lambda value: isinstance(value, int) and 0 <= value < _MAX_FILE_INDEX)
        elif name.endswith("timestamp"):
            _require(source, name, values, lambda value: isinstance(value, float) and 0.0 <= value < 1e9)
    _require(source, "tasks", rows["tasks"], _is_texts)

    def paths_of(template: str, prefix: str, **values: str) -> list[str]:
        pairs = list(zip(rows[f"{prefix}/chunk_index"], rows[f"{prefix}/file_index"], strict=True))
        paths = {
            (chunk, file): layout.fill(template, info_path, chunk_index=chunk, file_index=file, **values)
            for chunk, file in set(pairs)
        }
        return [paths[pair] for pair in pairs]

    tables = {}
    for key in videos:
        start = np.asarray(rows[f"videos/{key}/from_timestamp"], np.float64)
        seconds = np.asarray(rows[f"videos/{key}/to_timestamp"], np.float64) - start
        expected = np.asarray(rows["length"], np.float64) / fps
        short = seconds < expected - 0.5 / fps
        if short.any():
            episode = int(short.argmax())
            what = f"video '{key}' has {seconds[episode]:.4g} s of it, expected {expected[episode]:.4g} s"
            raise fault(source, what, episode=episode, fix="record the episode again")
        tables[key] = (paths_of(info["video_path"], f"videos/{key}", video_key=key), start)
    files = paths_of(info["data_path"], "data")
    return build_table(source, rows["length"], files, rows["tasks"], tables, info["total_frames"], sources)


def _read_rows(root: Path, total: int, videos: Sequence[str]) -> tuple[list[Path], dict[str, list[Any]]]:
    """Return the files, and their columns one after another, without those of statistics."""
    folder = root / "meta" / "episodes"
    paths = sorted(folder.glob("*/*.parquet"))
    if not paths:
        raise fault(folder, "there are no episodes", fix="finish the recording: `rrf data finalize`")
    columns = ["episode_index", "tasks", "length", "dataset_from_index", "dataset_to_index"]
    columns += ["data/chunk_index", "data/file_index"]
    for key in videos:
        columns += [f"videos/{key}/{name}" for name in ("chunk_index", "file_index", "from_timestamp", "to_timestamp")]
    rows: dict[str, list[Any]] = {name: [] for name in columns}
    sources: list[Path] = []
    for path in paths:
        if len(rows["length"]) == total and (root / STAGING).is_dir():
            break  # what follows was written by a merge that did not come to its end
        layout.resolve(root, path.relative_to(root).as_posix())
        if open_parquet(path).metadata.num_rows > total:
            raise fault(path, f"it has more rows than info.json has episodes ({total:,})", fix=REREAD)
        sources.append(path)
        for name, values in read_table(path, columns).items():
            rows[name] += values
    if len(rows["length"]) != total:
        what = f"there are {len(rows['length']):,} episodes, info.json says {total:,}"
        raise fault(folder, what, fix="finish an interrupted recording with `rrf data finalize`, or download it again")
    return sources, rows


def _require(source: Path, name: str, values: list[Any], holds: Any) -> None:
    for episode, value in enumerate(values):
        if not holds(value):
            raise fault(source, f"'{name}' is {str(value)[:60]!r}", episode=episode, fix=REREAD)


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)


def _require_order(source: Path, rows: dict[str, list[Any]]) -> None:
    """Check that episodes and their frames are numbered without gaps."""
    expected = 0
    for episode, (index, start, end, length) in enumerate(
        zip(
            rows["episode_index"],
            rows["dataset_from_index"],
            rows["dataset_to_index"],
            rows["length"],
            strict=True,
        )
    ):
        if index != episode:
            raise fault(source, f"episode_index is {index}, expected {episode}", episode=episode, fix=REREAD)
        if not isinstance(length, int) or start != expected or end != expected + length:
            what = f"it has frames {start} to {end} and length {str(length)[:40]}, expected to begin at {expected}"
            raise fault(source, what, episode=episode, fix=REREAD)
        expected = end


def read_episodes_v21(root: Path, info_path: Path, info: dict[str, Any], features: dict[str, Feature]) -> EpisodeTable:
    """Read `meta/episodes.jsonl`; every episode has a parquet file and a video per camera of its own."""
    source = root / layout.resolve(root, layout.EPISODES_V21).relative_to(root)
    rows = sorted(layout.read_json_lines(source), key=lambda row: str(row.get("episode_index")).zfill(20))
    if len(rows) > info["total_episodes"] and (root / STAGING).is_dir():
        rows = rows[: info["total_episodes"]]  # what follows was written by a merge that did not come to its end
    if len(rows) != info["total_episodes"]:
        raise fault(source, f"it has {len(rows):,} episodes, info.json says {info['total_episodes']:,}", fix=REREAD)
    for episode, row in enumerate(rows):
        if row.get("episode_index") != episode:
            raise fault(source, f"episode_index is {row.get('episode_index')}, expected {episode}", episode=episode)
    tasks = [row.get("tasks", []) for row in rows]
    _require(source, "tasks", tasks, _is_texts)

    def path_of(template: str, episode: int, **values: str) -> str:
        chunk = episode // info["chunks_size"]
        return layout.fill(template, info_path, episode_chunk=chunk, episode_index=episode, **values)

    videos = {
        key: (
            [path_of(info["video_path"], episode, video_key=key) for episode in range(len(rows))],
            np.zeros(len(rows)),
        )
        for key, feature in features.items()
        if feature.dtype == "video"
    }
    files = [path_of(info["data_path"], episode) for episode in range(len(rows))]
    lengths = [row.get("length") for row in rows]
    return build_table(source, lengths, files, tasks, videos, info["total_frames"], [source])
