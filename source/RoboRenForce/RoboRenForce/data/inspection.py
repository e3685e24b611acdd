"""Inspection of a dataset: collects all problems, where a reader stops at the first error."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from .checks import frame_problems
from .dataset import LeRobotDataset, LeRobotDatasetCfg
from .errors import DatasetFileError, fault
from .features import STANDARD
from .frames import Columns, FrameReader
from .metadata import DatasetMetadata
from .permutation import permute
from .statistics import QUANTILES, FeatureStatistics, RunningStatistics

_MOST_FINDINGS = 100
_BINS = 40
_EXPLODING = 20.0
"""Distance of an outlier, in ranges of the middle 98 % of the values."""
_FAR, _FAR_AT_REST = 100.0, 1000.0
"""Distance of an outlier from the median, in ranges of the middle 80 % of the values, and at least."""


@dataclass(frozen=True)
class Finding:
    """One problem or remark."""

    severity: Literal["error", "warning"]
    text: str
    """One sentence: where, what, what to do."""


@dataclass(frozen=True)
class Sample:
    """A frame to show."""

    camera: str
    episode: int
    frame: int
    task: str
    image: np.ndarray
    """`(H, W, 3)` uint8."""


@dataclass
class Inspection:
    """Result of an inspection."""

    metadata: DatasetMetadata
    findings: list[Finding] = field(default_factory=list)
    statistics: dict[str, FeatureStatistics] = field(default_factory=dict)
    """Statistics of the readable frames, by number feature."""
    histograms: dict[str, np.ndarray] = field(default_factory=dict)
    """Number feature -> int64 `(D, 40)` over [minimum, maximum] of each dimension."""
    samples: list[Sample] = field(default_factory=list)

    @property
    def errors(self) -> list[Finding]:
        """Problems at which a reader would stop."""
        return [finding for finding in self.findings if finding.severity == "error"]

    def add(self, severity: Literal["error", "warning"], text: str) -> None:
        """Add a finding once; after the hundredth they are only counted by the last one."""
        finding = Finding(severity, text)
        if finding not in self.findings and len(self.findings) < _MOST_FINDINGS:
            self.findings.append(finding)


def inspect_dataset(root: str, *, frames: int = 12) -> Inspection:
    """Read all numbers and some frames of a dataset.

    Args:
        root: Folder of the dataset.
        frames: Number of frames of every camera to decode and show.

    Raises:
        DatasetFileError: Its metadata can't be read, so there is nothing to inspect.
    """
    dataset = LeRobotDataset(LeRobotDatasetCfg(data_root=root))
    inspection = Inspection(dataset.metadata)
    _look_at_numbers(inspection)
    _look_at_statistics(inspection)
    _look_at_episodes(inspection)
    _look_at_cameras(inspection, dataset, frames)
    return inspection


def _look_at_numbers(inspection: Inspection) -> None:
    """Check numbers in two passes: contradictions, NaN and statistics, then histograms and exploding values."""
    running: dict[str, RunningStatistics] = {}
    for episode, columns in _readable(inspection, report=True):
        for problem in frame_problems(
            columns,
            episode=episode,
            first=int(inspection.metadata.episodes.first[episode]),
            fps=inspection.metadata.fps,
            tolerance_s=1e-4,
            tasks=inspection.metadata.tasks,
        ):
            path = inspection.metadata.root / _file_of(inspection.metadata, episode)
            inspection.add(
                "error", str(fault(path, problem.what, episode=episode, frame=problem.frame, fix=problem.fix))
            )
        for key, values in _vectors(columns).items():
            rows = values[np.isfinite(values).all(axis=1)]
            running.setdefault(key, RunningStatistics(values.shape[1:])).update(rows)
    inspection.statistics = {key: entry.result() for key, entry in running.items() if entry.count}
    for key, entry in inspection.statistics.items():
        constant = np.flatnonzero(entry.max == entry.min)
        if len(constant):
            listed = ", ".join(f"{dim} ({entry.min[dim]:g})" for dim in constant[:8].tolist())
            inspection.add(
                "warning", f"'{key}' never changes in dimension {listed}; a normalizer needs a floor for it."
            )
    _second_pass(inspection)


def _second_pass(inspection: Inspection) -> None:
    limits = {key: _usual_range(entry) for key, entry in inspection.statistics.items()}
    exploding = {key: _Exploding(entry) for key, entry in inspection.statistics.items()}
    for episode, columns in _readable(inspection, report=False):
        for key, values in _vectors(columns).items():
            entry = inspection.statistics.get(key)
            if entry is None:
                continue
            histogram = inspection.histograms.setdefault(key, np.zeros((values.shape[1], _BINS), np.int64))
            for dim in range(values.shape[1]):
                finite = values[np.isfinite(values[:, dim]), dim]
                histogram[dim] += _counts(finite, float(entry.min[dim]), float(entry.max[dim]))
            exploding[key].look(episode, values, *limits[key])
    for key, found in exploding.items():
        for dim, (_, value, episode, frame) in sorted(found.worst.items()):
            q = {name: f"{values[dim]:.4g}" for name, values in inspection.statistics[key].quantiles.items()}
            where = f"Episode {episode}, frame {frame}"
            what = f"'{key}' is {value:.4g} in dimension {dim}, the worst of {found.frames[dim]:,} such frames"
            usual = f"80 % of its values are {q['q10']} to {q['q90']}"
            inspection.add("warning", f"{where}: {what}, and {usual}; clip it, or leave it out.")


class _Exploding:
    """Values of one feature outside their usual range.

    Args:
        entry: Statistics of the feature.
    """

    def __init__(self, entry: FeatureStatistics) -> None:
        self._median = entry.quantiles["q50"]
        self.worst: dict[int, tuple[float, float, int, int]] = {}
        """Dimension -> distance from the median, value, episode and frame of the farthest."""
        self.frames: dict[int, int] = {}
        """Dimension -> number of frames."""

    def look(self, episode: int, values: np.ndarray, low: np.ndarray, high: np.ndarray) -> None:
        """Count the values `(L, D)` outside [low, high]; infinite ones were reported already."""
        outside = ((values < low) | (values > high)) & np.isfinite(values)
        for dim in np.flatnonzero(outside.any(axis=0)).tolist():
            distance = np.where(outside[:, dim], np.abs(values[:, dim] - self._median[dim]), -1.0)
            frame = int(distance.argmax())
            found = float(distance[frame]), float(values[frame, dim]), episode, frame
            self.worst[dim] = max(self.worst.get(dim, found), found, key=lambda entry: entry[0])
            self.frames[dim] = self.frames.get(dim, 0) + int(outside[:, dim].sum())


def _usual_range(entry: FeatureStatistics) -> tuple[np.ndarray, np.ndarray]:
    """Return the bounds beyond which values explode, by dimension: the narrower of two.

    The middle 98 % give the first, which finds few bad frames in small numbers, but more than one in a hundred hide in
    it. Up to one in ten do not change the second: the median, and the middle 80 %.
    """
    quantiles = entry.quantiles
    low, high = quantiles["q01"], quantiles["q99"]
    # A dimension that hardly ever moves, such as a gripper, has no range to compare with.
    margin = np.where(high > low, _EXPLODING * (high - low), np.inf)
    # One that is at rest nine tenths of the time has none here: the others of the feature tell its order, or a floor.
    spread = float((quantiles["q90"] - quantiles["q10"]).max())
    far = max(_FAR * spread, _FAR_AT_REST)
    return np.maximum(low - margin, quantiles["q50"] - far), np.minimum(high + margin, quantiles["q50"] + far)


def _counts(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Return the histogram of values in [low, high], int64 `(40,)`."""
    if not high > low:
        counts = np.zeros(_BINS, np.int64)
        counts[_BINS // 2] = len(values)
        return counts
    return np.histogram(values.astype(np.float64), bins=_BINS, range=(low, high))[0]


def _readable(inspection: Inspection, *, report: bool) -> Iterator[tuple[int, Columns]]:
    """Yield the columns of every readable episode."""
    metadata = inspection.metadata
    keys = [key for key, feature in metadata.features.items() if feature.is_number]
    reader = FrameReader(metadata, keys, check=False)
    for episode in range(len(metadata.episodes)):
        try:
            yield episode, reader.episode(episode)
        except DatasetFileError as error:
            if report:
                inspection.add("error", str(error))


def _vectors(columns: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return recorded numbers as `(L, D)`, without booleans and counters."""
    return {
        key: values.reshape(len(values), -1)
        for key, values in columns.items()
        if key not in STANDARD and values.dtype.kind in "fiu"
    }


def _look_at_statistics(inspection: Inspection) -> None:
    """Compare the stored statistics with those of the frames."""
    metadata = inspection.metadata
    fix = f"run scripts/data/dataset_stats.py {metadata.root} --write"
    for key, feature in metadata.features.items():
        if key in STANDARD or feature.dtype == "string":
            continue
        stored, found = metadata.statistics.get(key), inspection.statistics.get(key)
        if stored is None:
            inspection.add("warning", f"'{key}' has no statistics in {metadata.root}/meta; {fix}.")
            continue
        if set(stored.quantiles) != set(QUANTILES):
            inspection.add("warning", f"'{key}' has no quantiles in {metadata.root}/meta; {fix}.")
        if found is None or feature.is_camera:
            continue
        scale = np.maximum(np.abs(found.max - found.min), 1e-6)
        for name in ("min", "max", "mean"):
            differs = np.abs(getattr(stored, name).reshape(-1) - getattr(found, name)) > 0.01 * scale
            if len(stored.mean.shape) == 1 and differs.any():
                dim = int(differs.argmax())
                there, here = getattr(stored, name).reshape(-1)[dim], getattr(found, name)[dim]
                what = (
                    f"'{name}' of '{key}' is stored as {there:.4g} in dimension {dim}, and the frames have {here:.4g}"
                )
                inspection.add("warning", f"{what}; {fix}.")


def _look_at_episodes(inspection: Inspection) -> None:
    lengths = inspection.metadata.episodes.length
    short = np.flatnonzero(lengths < 0.1 * np.median(lengths))
    if len(short):
        listed = ", ".join(map(str, short[:8].tolist()))
        what = (
            f"{len(short)} episodes are shorter than a tenth of the median of {np.median(lengths):g} frames: {listed}"
        )
        inspection.add("warning", f"{what}; were they broken off?")
    if any(not text.strip() for text in inspection.metadata.tasks.values()):
        inspection.add(
            "warning", "A task has no text, and a policy that reads instructions gets nothing; repair meta/tasks."
        )


def _look_at_cameras(inspection: Inspection, dataset: LeRobotDataset, frames: int) -> None:
    """Decode some random frames, and the last frame of every video file, which an interrupted copy lacks."""
    metadata = inspection.metadata
    count = min(frames, len(dataset))
    chosen = np.sort(permute(np.arange(count), len(dataset), 0, 0)).tolist()
    for camera in dataset.cameras:
        # What is wrong with numbers is known by now, and says nothing about the camera.
        alone = LeRobotDataset(dataset.cfg.replace(cameras=[camera]), check=False)
        ends = _last_frames(metadata, camera)
        broken: set[int] = set()
        for index in [*chosen, *(index for index in ends if index not in chosen)]:
            try:
                item = alone[index]
            except DatasetFileError as error:
                file = _video_of(metadata, camera, index)
                if file is None or file not in broken:  # what a cut video lacks is said once
                    inspection.add("error", str(error))
                if file is not None:
                    broken.add(file)
                continue
            sample = Sample(
                camera, int(item["episode_index"]), int(item["frame_index"]), item["task"], item[camera].numpy()
            )
            if sample.image.std() < 1.0:
                where = f"Episode {sample.episode}, frame {sample.frame}"
                inspection.add("warning", f"{where}: camera '{camera}' shows one colour; was it covered or off?")
            if index in chosen:
                inspection.samples.append(sample)


def _last_frames(metadata: DatasetMetadata, camera: str) -> list[int]:
    """Return the last frame of each video file of a camera, counted over the dataset."""
    table = metadata.episodes.videos.get(camera)
    if table is None:
        return []
    lasts = {int(file): episode for episode, file in enumerate(table.file)}
    return [int(metadata.episodes.first[e] + metadata.episodes.length[e] - 1) for e in lasts.values()]


def _video_of(metadata: DatasetMetadata, camera: str, index: int) -> int | None:
    """Return the number of the video file with a frame, counted over the dataset; None for single pictures."""
    table = metadata.episodes.videos.get(camera)
    episode = int(np.searchsorted(metadata.episodes.first, index, side="right")) - 1
    return None if table is None else int(table.file[episode])


def _file_of(metadata: DatasetMetadata, episode: int) -> str:
    return metadata.episodes.files[int(metadata.episodes.file[episode])]
