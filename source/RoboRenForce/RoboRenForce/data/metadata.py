"""Metadata of a LeRobot dataset, v3.0 or v2.1: features, tasks, episodes, statistics.

`read_metadata` checks all claims of the files before anything is allocated for them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from . import layout
from .arrow import REREAD, open_parquet, read_table
from .episodes import STAGING, EpisodeTable, read_episodes_v21, read_episodes_v30
from .errors import DatasetFileError, fault, no_folder
from .features import Feature, parse_features
from .statistics import FeatureStatistics, aggregate, parse_statistics

FormatVersion = Literal["v3.0", "v2.1"]

V30: FormatVersion = "v3.0"
V21: FormatVersion = "v2.1"
_VERSIONS: dict[str, FormatVersion] = {"v3.0": V30, "v2.1": V21, "v2.0": V21}
"""Readable versions, and the version whose rules apply; v2.0 only lacks the statistics of episodes."""
_MAX_FRAMES = 2**40


@dataclass(frozen=True)
class DatasetMetadata:
    """Validated metadata of a dataset."""

    root: Path
    version: FormatVersion
    """Version whose rules apply: `v2.1` for v2.0 too."""
    fps: float
    robot_type: str | None
    features: dict[str, Feature]
    tasks: dict[int, str]
    """`task_index` -> instruction."""
    episodes: EpisodeTable
    statistics: dict[str, FeatureStatistics]
    """Statistics by feature; those that the recorder did not store are absent."""
    total_frames: int
    chunks_size: int
    """Most files (v3.0) or episodes (v2.1) of a folder."""

    @property
    def cameras(self) -> list[str]:
        """Names of image and video features."""
        return [key for key, feature in self.features.items() if feature.is_camera]

    @property
    def files(self) -> list[Path]:
        """Return all files that hold episodes."""
        videos = [name for table in self.episodes.videos.values() for name in table.files]
        return [*self.episodes.sources, *(self.root / name for name in [*self.episodes.files, *videos])]

    def __str__(self) -> str:
        hours = self.total_frames / self.fps / 3600
        return (
            f"{self.root}: LeRobot {self.version}, {len(self.episodes):,} episodes, {self.total_frames:,} frames at "
            f"{self.fps:g} Hz ({hours:.3g} h), {len(self.tasks)} tasks, cameras: {', '.join(self.cameras) or 'none'}"
        )


def read_metadata(root: str | Path) -> DatasetMetadata:
    """Read and check the metadata of the dataset in a folder.

    Raises:
        DatasetFileError: It is no dataset, damaged, or of a version that is not supported.
    """
    root = Path(root)
    info_path = root / layout.INFO
    if not info_path.is_file():
        raise _no_dataset(root)
    info = _checked_info(layout.resolve(root, layout.INFO))
    features = parse_features(info_path, info.get("features"))
    version, fps = _VERSIONS[info["codebase_version"]], float(info["fps"])
    if version == V30:
        episodes = read_episodes_v30(root, info_path, info, features, fps)
        tasks = _tasks_v30(layout.resolve(root, layout.TASKS))
    else:
        episodes = read_episodes_v21(root, info_path, info, features)
        tasks = _tasks_v21(layout.resolve(root, layout.TASKS_V21))
    statistics = _statistics(root, features, len(episodes))
    robot = info.get("robot_type")
    return DatasetMetadata(
        root=root,
        version=version,
        fps=fps,
        robot_type=robot if isinstance(robot, str) else None,
        features=features,
        tasks=tasks,
        episodes=episodes,
        statistics=statistics,
        total_frames=info["total_frames"],
        chunks_size=info["chunks_size"],
    )


def _no_dataset(root: Path) -> DatasetFileError:
    if (root / STAGING).is_dir():
        return fault(root, "its recording was not finished", fix=f"run `rrf data finalize {root}` to keep its episodes")
    if not root.is_dir():
        return no_folder(root, "the folder of a LeRobot dataset, the one with meta/ in it")
    inside = sorted(path.parent.parent.name for path in root.glob(f"*/{layout.INFO}"))[:5]
    hint = f"it holds datasets in {', '.join(inside)}: name one" if inside else "name the folder with meta/ in it"
    return fault(root, f"it is no LeRobot dataset: {layout.INFO} is missing", fix=hint)


def _checked_info(path: Path) -> dict[str, Any]:
    info = layout.read_json(path)
    if not isinstance(info, dict):
        raise fault(path, f"it holds {type(info).__name__}, expected an object")
    version = info.get("codebase_version")
    if version not in _VERSIONS:
        what = f"codebase_version is {str(version)[:40]!r}, expected {', '.join(_VERSIONS)}"
        old = str(version).startswith(("v0.", "v1.", "v2."))
        release = "that wrote it" if old else f"that writes {V30}, or read it with a newer RoboRenForce"
        raise fault(path, what, fix=f"convert the dataset with the LeRobot release {release}")
    for name, most in (("total_episodes", _MAX_FRAMES), ("total_frames", _MAX_FRAMES), ("chunks_size", 10**9)):
        value = info.setdefault(name, 1000) if name == "chunks_size" else info.get(name)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= most:
            raise fault(path, f"'{name}' is {str(value)[:40]}, expected a positive integer")
    if info["total_episodes"] > info["total_frames"]:
        raise fault(path, f"{info['total_episodes']:,} episodes can't have {info['total_frames']:,} frames in all")
    fps = info.get("fps")
    if not isinstance(fps, int | float) or isinstance(fps, bool) or not math.isfinite(fps) or not 0 < fps <= 1e5:
        raise fault(path, f"'fps' is {str(fps)[:40]}, expected a positive number")
    is_v30 = _VERSIONS[version] == V30
    data, videos = (layout.DATA, layout.VIDEOS) if is_v30 else (layout.DATA_V21, layout.VIDEOS_V21)
    for name, default in (("data_path", data), ("video_path", videos)):
        info[name] = default if info.get(name) is None else info[name]
        if not isinstance(info[name], str):
            raise fault(path, f"'{name}' is {type(info[name]).__name__}, expected a path template")
    return info


def _tasks_v30(path: Path) -> dict[int, str]:
    """Read the tasks; pandas stores the text as an unnamed index, other writers name it `task`."""
    names = open_parquet(path).schema_arrow.names
    text = next((name for name in ("__index_level_0__", "task") if name in names), "__index_level_0__")
    columns = read_table(path, ["task_index", text])
    return _checked_tasks(path, zip(columns["task_index"], columns[text], strict=True))


def _tasks_v21(path: Path) -> dict[int, str]:
    return _checked_tasks(path, [(row.get("task_index"), row.get("task")) for row in layout.read_json_lines(path)])


def _checked_tasks(path: Path, pairs: Any) -> dict[int, str]:
    tasks: dict[int, str] = {}
    for index, text in pairs:
        if not isinstance(index, int) or not isinstance(text, str) or index in tasks:
            what = f"it has task_index {str(index)[:40]} with the text {str(text)[:80]!r}"
            raise fault(path, f"{what}, expected distinct integers with one text each", fix=REREAD)
        tasks[index] = text
    return tasks


def _statistics(root: Path, features: dict[str, Feature], episodes: int) -> dict[str, FeatureStatistics]:
    """Return `stats.json`, or the merged statistics of the episodes of v2.1, or nothing."""
    path = root / layout.STATS
    if path.is_file():
        return parse_statistics(path, layout.read_json(layout.resolve(root, layout.STATS)), features)
    path = root / layout.STATS_V21
    if not path.is_file():
        return {}
    layout.resolve(root, layout.STATS_V21)
    parts: dict[str, list[FeatureStatistics]] = {}
    # What follows was written by a merge that did not come to its end.
    for row in layout.read_json_lines(path)[:episodes]:
        for key, statistics in parse_statistics(path, row.get("stats", {}), features).items():
            parts.setdefault(key, []).append(statistics)
    return {key: aggregate(entries) for key, entries in parts.items()}
