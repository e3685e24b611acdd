"""Spec of recorded data for a VLA policy: cameras, dimensions, statistics, instructions."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ...components.vla_preprocessing import IMAGES, STATE
from ...components.vla_spec import STATISTICS, VectorSpec, VLASpec
from ...data.dataset import LeRobotDataset
from ...data.features import Feature
from ...data.metadata import DatasetMetadata
from ...data.mixture import MixtureDataset
from ...data.statistics import FeatureStatistics, aggregate
from ...utils.errors import SpecMismatch, UserError

ACTION = "action"


def spec_of_data(parts: DatasetMetadata | Sequence[DatasetMetadata], cameras: Collection[str] = ()) -> VLASpec:
    """Describe a data set, or a mixture of several.

    Args:
        parts: Metadata. In a mixture vectors have the dimensions of the longest, and the statistics of a dimension are
            those of the data sets that have it; cameras are those of any.
        cameras: Names without `observation.images.`, in the order of the policy; empty: all.

    Raises:
        UserError: statistics or the action are missing.
        SpecMismatch: a camera is in no data set.
    """
    parts = [parts] if isinstance(parts, DatasetMetadata) else list(parts)
    there = list(dict.fromkeys(key.removeprefix(IMAGES) for part in parts for key in part.cameras))
    for camera in cameras:
        if camera not in there:
            raise SpecMismatch(
                f"The policy reads the camera '{camera}', and the data has {', '.join(there) or 'none'}."
            )
    return VLASpec(
        cameras=tuple(cameras or there),
        state=_vector(parts, STATE),
        action=_vector(parts, ACTION),
        instructions=tuple(dict.fromkeys(text for part in parts for text in part.tasks.values())),
    )


def spec_of_dataset(dataset: LeRobotDataset | MixtureDataset) -> VLASpec:
    """Describe what is read of an open data set or mixture, under the names of its batches."""
    spec = spec_of_data([part.metadata for part in dataset.datasets])
    return replace(spec, cameras=tuple(key.removeprefix(IMAGES) for key in dataset.cameras))


def _vector(parts: Sequence[DatasetMetadata], key: str) -> VectorSpec:
    having = [part for part in parts if key in part.features]
    if not having and key == ACTION:
        raise UserError(f"'{parts[0].root}' has no feature '{key}', which a policy could learn.")
    if not having:
        return VectorSpec(0)
    for part in having:
        shape = part.features[key].shape
        if len(shape) != 1:
            raise UserError(f"'{key}' in '{part.root}' has the shape {list(shape)}, expected a vector [D].")
        if key not in part.statistics:
            raise UserError(
                f"'{part.root}' has no statistics of '{key}': run scripts/data/dataset_stats.py {part.root} --write."
            )
    longest = max(having, key=lambda part: part.features[key].shape[0])
    dim = longest.features[key].shape[0]
    columns = [
        aggregate(_column(part.statistics[key], number) for part in having if number < part.features[key].shape[0])
        for number in range(dim)
    ]
    return VectorSpec(dim, _names(longest.features[key]), _joined(columns))


def _column(statistics: FeatureStatistics, number: int) -> FeatureStatistics:
    arrays = {name: getattr(statistics, name)[number] for name in ("min", "max", "mean", "std")}
    quantiles = {name: values[number] for name, values in statistics.quantiles.items()}
    return FeatureStatistics(**arrays, count=statistics.count, quantiles=quantiles)


def _joined(columns: Iterable[FeatureStatistics]) -> dict[str, tuple[float, ...]]:
    rows = [{**vars(column), **column.quantiles} for column in columns]
    known = [name for name in STATISTICS if all(name in row for row in rows)]
    return {name: tuple(float(np.asarray(row[name])) for row in rows) for name in known}


def _names(feature: Feature) -> tuple[str, ...]:
    """Names of the dimensions: recorders write a list, or a mapping of such lists."""
    names: Any = feature.names
    if isinstance(names, dict):
        names = [name for group in names.values() for name in (group if isinstance(group, list) else [group])]
    fits = isinstance(names, list) and len(names) == feature.shape[0] and all(isinstance(name, str) for name in names)
    return tuple(names) if fits else ()
