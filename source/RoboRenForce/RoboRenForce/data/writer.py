"""Record a dataset in LeRobot's format, v3.0 or v2.1.

    with LeRobotWriter.create("data/blocks", fps=10, features={
        "observation.state": {"dtype": "float32", "shape": [7]},
        "action": {"dtype": "float32", "shape": [7]},
        "observation.images.front": {"dtype": "video", "shape": [224, 224, 3]},
    }) as writer:
        for frame in episode:
            writer.add_frame(frame, task="put the red block on the blue plate")
        writer.save_episode()

`save_episode` puts the episode on disk as files of its own, below `.recording`; `finalize`, which leaving the block
does, merges them into the dataset. After a crash `LeRobotWriter.resume` (or `rrf data finalize`) finds every saved
episode.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from ..utils.errors import UserError, did_you_mean
from ..utils.run_dir import write_text_atomically
from . import layout
from .arrow import parquet
from .episode_files import append_v21, require_appendable
from .episodes import STAGING
from .features import STANDARD, Feature, parse_features
from .merge import DatasetSummary, EpisodePart, append_v30
from .metadata import V21, V30, DatasetMetadata, FormatVersion, read_metadata
from .pictures import encode_png
from .recorded_values import arrow_table, checked_value
from .statistics import FeatureStatistics, PictureStatistics, RunningStatistics, parse_statistics
from .totals import merged_statistics
from .video_writer import VideoCodec, VideoEncoder, video_info

_HEADER = "dataset.json"
_EPISODE = "episode.json"
_TABLE = "frames.parquet"
_STATISTICS = "statistics.json"
"""Of the dataset before a merge, which replaces them before the episodes count."""
_PICTURE_ROWS = 16
"""Number of rows of a row group with pictures, all of which are read for a random one."""


class LeRobotWriter:
    """Append episodes to a dataset; use `create` or `resume`.

    Args:
        root: Folder of the dataset.
        fps: Frames per second.
        features: Key -> feature, without the standard ones.
        robot_type: Type of robot, for readers of the data.
        codec: Codec of videos.
        version: Version of the format.
    """

    def __init__(
        self,
        root: Path,
        fps: float,
        features: Mapping[str, Feature],
        robot_type: str | None,
        codec: VideoCodec,
        version: FormatVersion,
    ) -> None:
        self.root, self.fps, self.robot_type = root, fps, robot_type
        self.codec: VideoCodec = codec
        self.version: FormatVersion = version
        self.features = {key: feature for key, feature in features.items() if key not in STANDARD}
        self._staging = root / STAGING
        self._dataset: DatasetMetadata | None = read_metadata(root) if (root / layout.INFO).is_file() else None
        self._tasks: dict[str, int] = {}
        self.saved_frames = 0
        """Number of frames of all saved episodes, earlier recordings included."""
        self.saved_episodes = 0
        """Number of saved episodes, earlier recordings included."""
        if self._dataset is not None:
            self._tasks = {text: number for number, text in self._dataset.tasks.items()}
            self.saved_episodes, self.saved_frames = len(self._dataset.episodes), self._dataset.total_frames
        for folder in self._staged():
            entry = layout.read_json(folder / _EPISODE)
            for text in entry["tasks"]:
                self._tasks.setdefault(text, len(self._tasks))
            self.saved_frames += entry["length"]
            self.saved_episodes += 1
        self._begin()

    @classmethod
    def create(
        cls,
        root: str | Path,
        *,
        fps: float,
        features: Mapping[str, Any],
        robot_type: str | None = None,
        codec: VideoCodec = "libsvtav1",
        version: FormatVersion = V30,
    ) -> Self:
        """Create a dataset in a folder that does not exist or is empty.

        Args:
            root: Folder.
            fps: Frames per second, the same for all episodes.
            features: Key -> `{"dtype", "shape", "names"}`; dtype is a number type, `string`, `image` or `video`.
            robot_type: Type of robot, for readers of the data.
            codec: Codec of videos.
            version: `v3.0`: large files of many episodes; `v2.1`: a file per episode, for programs that read no other.

        Raises:
            UserError: The folder is not empty, a feature can't be recorded, or there is no such version.
        """
        root = Path(root)
        if version not in (V30, V21):
            raise UserError(f"version is '{version}', expected {V30} or {V21}.")
        if root.exists() and (not root.is_dir() or any(root.iterdir())):
            raise UserError(
                f"'{root}' is not empty: choose a new folder, or append to it (--resume, or LeRobotWriter.resume)."
            )
        if not 0 < fps <= 1e5:
            raise UserError(f"fps is {fps}, expected a positive number.")
        named = {key: {"names": None, **_plain(feature)} for key, feature in features.items()}
        for key in STANDARD.keys() & named.keys():
            raise UserError(f"Feature '{key}' is written by the recorder itself: leave it out.")
        parsed = parse_features(root / layout.INFO, named | {key: entry.to_json() for key, entry in STANDARD.items()})
        for key, feature in parsed.items():
            if feature.dtype == "video":
                height, width = feature.picture_size
                if height % 2 or width % 2:
                    raise UserError(
                        f"Video '{key}' has {height} x {width} pixels: both must be even, or use dtype=image."
                    )
                parsed[key] = Feature(
                    feature.dtype, feature.shape, feature.names, video_info(codec, (height, width), fps)
                )
            if feature.is_camera and 3 not in (feature.shape[0], feature.shape[2]):
                raise UserError(f"Camera '{key}' has the shape {list(feature.shape)}, expected three colours.")
        (root / STAGING).mkdir(parents=True)
        header = {"fps": fps, "robot_type": robot_type, "codec": codec, "version": version}
        header["features"] = {key: feature.to_json() for key, feature in parsed.items()}
        write_text_atomically(root / STAGING / _HEADER, json.dumps(header))
        return cls(root, fps, parsed, robot_type, codec, version)

    @classmethod
    def resume(cls, root: str | Path) -> Self:
        """Continue recording in the version of the dataset, also after a crash: every saved episode is still there.

        Raises:
            DatasetFileError: There is neither a recording nor a dataset of v3.0 or v2.1.
        """
        root = Path(root)
        path = root / STAGING / _HEADER
        if path.is_file():
            header = layout.read_json(path)
            features = parse_features(path, header["features"])
            version = header.get("version", V30)  # recordings of before v2.1 was written don't say it
            return cls(root, header["fps"], features, header["robot_type"], header["codec"], version)
        metadata = read_metadata(root)
        if metadata.version == V21:
            require_appendable(metadata)
        codecs = {feature.info.get("video.codec") for feature in metadata.features.values()}
        codec: VideoCodec = "libx264" if "h264" in codecs else "libsvtav1"
        return cls(root, metadata.fps, metadata.features, metadata.robot_type, codec, metadata.version)

    # ------------------------------------------------------------------------------------------- one episode

    def add_frame(self, frame: Mapping[str, Any], task: str) -> None:
        """Append a frame to the current episode; a refused frame leaves it as it was.

        Args:
            frame: Every feature but the standard ones: numbers of the declared shape, pictures RGB uint8
                `(height, width, 3)`, text.
            task: Instruction of the frame.

        Raises:
            UserError: Names the key, what it got and what it expected.
        """
        place = f"Episode {self.saved_episodes}, frame {self._length}"
        for key in frame.keys() - self.features.keys():
            raise UserError(f"{place}: there is no feature '{key}': {did_you_mean(key, self.features)}")
        for key in self.features.keys() - frame.keys():
            raise UserError(f"{place}: feature '{key}' is missing; every frame has all features.")
        if not isinstance(task, str) or not task.strip():
            raise UserError(f"{place}: the task is {task!r}, expected an instruction.")
        values = {key: checked_value(place, key, feature, frame[key]) for key, feature in self.features.items()}
        for key, value in values.items():
            self._append(key, value)
        self._frame_tasks.append(task)

    def _append(self, key: str, value: Any) -> None:
        feature = self.features[key]
        if feature.is_camera:
            self._pictures.setdefault(key, PictureStatistics()).update(value)
        if feature.dtype == "video":
            if key not in self._encoders:
                self._partial.mkdir(parents=True, exist_ok=True)
                path = self._partial / f"{key}.mp4"
                self._encoders[key] = VideoEncoder(path, self.fps, feature.picture_size, self.codec)
            self._encoders[key].add(value)
        else:
            self._columns[key].append(encode_png(value) if feature.dtype == "image" else value)

    def save_episode(self) -> None:
        """Write the current episode to disk; a crash does not lose it afterwards.

        Raises:
            UserError: It has no frames.
        """
        if not self._length:
            raise UserError(f"Episode {self.saved_episodes} has no frames: call add_frame first.")
        self._partial.mkdir(parents=True, exist_ok=True)
        for encoder in self._encoders.values():
            encoder.close()
        tasks = list(dict.fromkeys(self._frame_tasks))
        for text in tasks:
            self._tasks.setdefault(text, len(self._tasks))
        columns, features = self._all_columns(), self.features | STANDARD
        statistics = {key: entry.result() for key, entry in self._pictures.items()}
        for key, values in columns.items():
            if values.dtype != object:
                running = RunningStatistics(values.shape[1:] or (1,))
                running.update(values.reshape(len(values), *(values.shape[1:] or (1,))))
                statistics[key] = running.result()
        has_pictures = any(feature.dtype == "image" for feature in self.features.values())
        rows = _PICTURE_ROWS if has_pictures else self._length
        table = arrow_table(features, columns)
        parquet().write_table(table, self._partial / _TABLE, compression="snappy", row_group_size=rows)
        entry = {"length": self._length, "tasks": tasks}
        entry["statistics"] = {key: statistic.to_json() for key, statistic in statistics.items()}
        write_text_atomically(self._partial / _EPISODE, json.dumps(entry))
        os.replace(self._partial, self._staging / f"episode-{self.saved_episodes:09d}")
        self.saved_frames += self._length
        self.saved_episodes += 1
        self._begin()

    def clear_episode(self) -> None:
        """Discard the current episode, for example a failed one."""
        for encoder in self._encoders.values():
            encoder.close()
        self._begin()

    def _begin(self) -> None:
        self._partial = self._staging / ".partial"
        shutil.rmtree(self._partial, ignore_errors=True)
        self._frame_tasks: list[str] = []
        self._columns: dict[str, list[Any]] = {
            key: [] for key, feature in self.features.items() if feature.dtype != "video"
        }
        self._pictures: dict[str, PictureStatistics] = {}
        self._encoders: dict[str, VideoEncoder] = {}

    @property
    def _length(self) -> int:
        return len(self._frame_tasks)

    def _all_columns(self) -> dict[str, np.ndarray]:
        """Return recorded and standard columns of the current episode."""
        columns: dict[str, np.ndarray] = {}
        for key, values in self._columns.items():
            if self.features[key].is_number:
                columns[key] = np.stack(values)
            else:
                columns[key] = np.empty(len(values), object)
                columns[key][:] = values
        counter = np.arange(self._length, dtype=np.int64)
        columns["timestamp"] = (counter / self.fps).astype(np.float32)
        columns["frame_index"] = counter
        columns["episode_index"] = np.full(self._length, self.saved_episodes, np.int64)
        columns["index"] = self.saved_frames + counter
        columns["task_index"] = np.asarray([self._tasks[text] for text in self._frame_tasks], np.int64)
        return columns

    # ------------------------------------------------------------------------------------------- the dataset

    def _staged(self) -> list[Path]:
        """Return folders of saved episodes that the dataset does not have yet; removes those that it has."""
        done = 0 if self._dataset is None else len(self._dataset.episodes)
        folders = []
        for folder in sorted(self._staging.glob("episode-*")):
            if int(folder.name.removeprefix("episode-")) < done:
                shutil.rmtree(folder)
            else:
                folders.append(folder)
        return folders

    def finalize(self) -> DatasetMetadata:
        """Merge the saved episodes into the dataset and return its metadata; an unfinished episode is dropped.

        Recording may continue: the next `finalize` appends.

        Raises:
            UserError: There is no episode at all.
        """
        self.clear_episode()
        staged = self._staged()
        if staged:
            self._merge(staged)
        elif self._dataset is None:
            raise UserError(f"'{self.root}' has no episodes: save one before the dataset is finalized.")
        shutil.rmtree(self._staging, ignore_errors=True)
        self._dataset = read_metadata(self.root)
        return self._dataset

    def _merge(self, folders: Sequence[Path]) -> None:
        features, dataset = self.features | STANDARD, self._dataset
        parts = [self._part(folder, features) for folder in folders]
        summary = DatasetSummary(
            features=features,
            fps=self.fps,
            robot_type=self.robot_type,
            tasks={number: text for text, number in self._tasks.items()},
            episodes=self.saved_episodes,
            frames=self.saved_frames,
        )
        if self.version == V21:
            append_v21(self.root, parts, summary, dataset)
        else:
            statistics = merged_statistics(features, dataset, self._statistics_before(), parts)
            append_v30(self.root, parts, summary, statistics, dataset)

    def _statistics_before(self) -> Mapping[str, FeatureStatistics]:
        """Those of the dataset, also after a merge that replaced them and did not come to its end."""
        if self._dataset is None:
            return {}
        path = self._staging / _STATISTICS
        if path.is_file():
            return parse_statistics(path, layout.read_json(path), self._dataset.features)
        statistics = self._dataset.statistics
        write_text_atomically(path, json.dumps({key: entry.to_json() for key, entry in statistics.items()}))
        return statistics

    def _part(self, folder: Path, features: Mapping[str, Feature]) -> EpisodePart:
        entry = layout.read_json(folder / _EPISODE)
        return EpisodePart(
            table=folder / _TABLE,
            videos={key: folder / f"{key}.mp4" for key, feature in features.items() if feature.dtype == "video"},
            length=entry["length"],
            tasks=entry["tasks"],
            statistics=parse_statistics(folder / _EPISODE, entry["statistics"], features),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None or self._staged():
            self.finalize()


def _plain(feature: Any) -> dict[str, Any]:
    return feature.to_json() if isinstance(feature, Feature) else dict(feature)
