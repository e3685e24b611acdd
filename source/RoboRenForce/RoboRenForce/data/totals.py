"""Statistics of whole datasets, in one pass over the numbers, without videos."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain

import numpy as np

from .arrow import open_parquet, read_columns, to_numpy
from .dataset import LeRobotDataset, LeRobotDatasetCfg
from .features import Feature
from .frames import Columns, FrameReader
from .merge import EpisodePart
from .metadata import DatasetMetadata
from .permutation import permute
from .statistics import FeatureStatistics, PictureStatistics, RunningStatistics, aggregate


def number_statistics(features: Mapping[str, Feature], columns: Iterable[Columns]) -> dict[str, FeatureStatistics]:
    """Return the statistics of all number features over the columns of episodes."""
    running = {key: RunningStatistics(feature.shape) for key, feature in features.items() if feature.is_number}
    for episode in columns:
        for key, entry in running.items():
            entry.update(episode[key].reshape(-1, *features[key].shape))
    return {key: entry.result() for key, entry in running.items() if entry.count}


def columns_of(metadata: DatasetMetadata, *, check: bool = True) -> Iterator[Columns]:
    """Yield the numbers of every episode, one after another."""
    keys = [key for key, feature in metadata.features.items() if feature.is_number]
    reader = FrameReader(metadata, keys, check=check)
    for episode in range(len(metadata.episodes)):
        yield reader.episode(episode)


def merged_statistics(
    features: Mapping[str, Feature],
    dataset: DatasetMetadata | None,
    before: Mapping[str, FeatureStatistics],
    parts: Sequence[EpisodePart],
) -> dict[str, FeatureStatistics]:
    """Return the statistics of a dataset and the episodes that are appended to it.

    Those of numbers are computed over all frames; those of cameras are merged from the recorder's counts and `before`,
    the statistics of the dataset alone.
    """
    recorded = [] if dataset is None else columns_of(dataset)
    result = number_statistics(features, chain(recorded, _columns_of_parts(features, parts)))
    for key, feature in features.items():
        entries = [part.statistics[key] for part in parts if feature.is_camera and key in part.statistics]
        if entries and key in before:
            entries.append(before[key])
        if entries:
            result[key] = aggregate(entries)
    return result


def _columns_of_parts(features: Mapping[str, Feature], parts: Sequence[EpisodePart]) -> Iterator[Columns]:
    numbers = [key for key, feature in features.items() if feature.is_number]
    for part in parts:
        file = open_parquet(part.table)
        table = read_columns(part.table, file, range(file.num_row_groups), numbers)
        yield {key: to_numpy(table.column(key), key, features[key]) for key in numbers}


def dataset_statistics(root: str, *, camera_frames: int = 1000) -> dict[str, FeatureStatistics]:
    """Recompute the statistics of a dataset: numbers over all frames, cameras over some random ones.

    Args:
        root: Folder of the dataset.
        camera_frames: Number of frames of every camera to decode.

    Raises:
        DatasetFileError: Names file, episode and frame of unreadable data.
    """
    dataset = LeRobotDataset(LeRobotDatasetCfg(data_root=root))
    result = number_statistics(dataset.metadata.features, columns_of(dataset.metadata))
    cameras = {camera: PictureStatistics() for camera in dataset.cameras}
    count = min(camera_frames, len(dataset)) if cameras else 0
    # In order, because neighbours in a video are cheaper to decode than frames at random.
    for index in np.sort(permute(np.arange(count), len(dataset), 0, 0)).tolist():
        item = dataset[index]
        for camera, entry in cameras.items():
            entry.update(item[camera].numpy())
    return result | {camera: entry.result() for camera, entry in cameras.items() if entry.count}
