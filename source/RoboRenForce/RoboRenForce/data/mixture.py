"""Several datasets as one: with other cameras, other dimensions, and sampling weights.

Every key of a batch has one shape. Vectors are padded with zeros at their end, cameras that a dataset lacks are black,
and masks mark real data:

- `<key>_dim_mask` bool `(B, D)`: dimensions of a vector that the dataset has;
- `<camera>_is_present` bool `(B,)`;
- `dataset_index` int64 `(B,)`;
- `present_cameras`, a list of B tuples of keys: the same as `<camera>_is_present`, for who must not wait for a device.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Self

import numpy as np
import torch
from typing_extensions import override

from ..configclass import Cfg, Range, configclass
from ..utils.errors import UserError, did_you_mean
from .dataset import IMAGES, Batch, DemonstrationsCfg, LeRobotDataset, LeRobotDatasetCfg
from .features import STANDARD
from .metadata import read_metadata
from .selection import Split


class MixtureDataset(torch.utils.data.Dataset[Batch]):
    """Frames of several datasets, counted one dataset after another."""

    spec = None
    """It says nothing about an environment, see `Samples.spec`."""

    def __init__(self, cfg: MixtureDatasetCfg) -> None:
        if not cfg.parts:
            raise UserError("A mixture needs at least one dataset: give 'parts'.")
        self.cfg = cfg
        self.datasets: list[LeRobotDataset] = [
            part.dataset.replace(image_size=part.dataset.image_size or cfg.image_size).build() for part in cfg.parts
        ]
        self.lengths = [len(dataset) for dataset in self.datasets]
        weights = [part.weight for part in cfg.parts if part.weight is not None]
        if 0 < len(weights) < len(cfg.parts):
            raise UserError("Some parts of the mixture have a weight and some have none: give one to all, or to none.")
        self.weights: list[float] | None = weights or None
        """Sampling weight of each dataset; None: in proportion to its frames."""
        self._names = [_renaming(part, dataset) for part, dataset in zip(cfg.parts, self.datasets, strict=True)]
        self.shapes, self._dtypes = self._common_shapes()
        """Key -> shape of one sample, over all datasets."""
        self.cameras = [key for key in self.shapes if self._is_camera(key)]
        self._present = [
            tuple(names[camera] for camera in dataset.cameras)
            for dataset, names in zip(self.datasets, self._names, strict=True)
        ]
        self._starts = np.cumsum(self.lengths) - self.lengths

    def __len__(self) -> int:
        return sum(self.lengths)

    def __getitem__(self, index: int) -> Batch:
        return {key: value[0] for key, value in self.get_batch(np.asarray([index])).items()}

    def __getitems__(self, indices: Sequence[int] | np.ndarray) -> Batch:
        return self.get_batch(np.asarray(indices, np.int64))

    def get_batch(self, indices: np.ndarray) -> Batch:
        """Read some frames as one batch.

        Args:
            indices: int64 `(B,)`, counted over all datasets.

        Raises:
            DatasetFileError: Names file, episode and frame.
        """
        count = len(indices)
        number = np.searchsorted(self._starts, indices, side="right") - 1
        batch: Batch = {key: torch.zeros(count, *shape, dtype=self._dtypes[key]) for key, shape in self.shapes.items()}
        for key, shape in self.shapes.items():
            if self._is_camera(key):
                batch[f"{key}_is_present"] = torch.zeros(count, dtype=torch.bool)
            elif key not in STANDARD and not key.endswith("_is_pad") and key != "instruction_id":
                batch[f"{key}_dim_mask"] = torch.zeros(count, shape[-1], dtype=torch.bool)
        texts = np.empty(count, object)
        for which in np.unique(number).tolist():
            rows = torch.from_numpy(np.flatnonzero(number == which))
            part = self.datasets[which].get_batch(indices[rows.numpy()] - self._starts[which])
            texts[rows.numpy()] = part["task"]
            self._insert(batch, rows, part, self._names[which])
        batch["task"] = texts.tolist()
        batch["present_cameras"] = [self._present[which] for which in number.tolist()]
        batch["dataset_index"] = torch.from_numpy(number.astype(np.int64))
        return batch

    def _insert(self, batch: Batch, rows: torch.Tensor, part: Batch, names: dict[str, str]) -> None:
        """Insert the batch of one dataset into its rows."""
        for key, common in names.items():
            values = part[key]
            if values.dim() == batch[common].dim() and values.shape[1:] != batch[common].shape[1:]:
                batch[common][rows, ..., : values.shape[-1]] = values
            else:
                batch[common][rows] = values
            if f"{common}_dim_mask" in batch:
                batch[f"{common}_dim_mask"][rows, : values.shape[-1]] = True
            if f"{common}_is_present" in batch:
                batch[f"{common}_is_present"][rows] = True

    def _is_camera(self, key: str) -> bool:
        return any(
            key == common and name in dataset.cameras
            for dataset, names in zip(self.datasets, self._names, strict=True)
            for name, common in names.items()
        )

    def _common_shapes(self) -> tuple[dict[str, tuple[int, ...]], dict[str, torch.dtype]]:
        """Return the largest shape of every key, after checking that only the last size of vectors differs."""
        shapes: dict[str, tuple[int, ...]] = {}
        dtypes: dict[str, torch.dtype] = {}
        for dataset, names in zip(self.datasets, self._names, strict=True):
            sample = _sample_shapes(dataset)
            for key, common in names.items():
                shape, dtype = sample[key]
                before = shapes.setdefault(common, shape)
                if dtypes.setdefault(common, dtype) != dtype:
                    raise UserError(
                        f"'{common}' is {dtype} in '{dataset.metadata.root}' and {dtypes[common]} in other datasets of "
                        "the mixture: convert one of them."
                    )
                padded = key not in dataset.cameras and len(shape) == len(before) > 0 and shape[:-1] == before[:-1]
                if shape != before and not padded:
                    repair = "set image_size" if key in dataset.cameras else "give all the same delta_timestamps"
                    raise UserError(
                        f"'{common}' has the shape {list(shape)} in '{dataset.metadata.root}' and {list(before)} in "
                        f"other datasets of the mixture: {repair}."
                    )
                shapes[common] = (*before[:-1], max(shape[-1], before[-1])) if padded else before
        return shapes, dtypes


def _sample_shapes(dataset: LeRobotDataset) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    """Return shape and dtype of every tensor of an item, from the metadata alone."""
    result: dict[str, tuple[tuple[int, ...], torch.dtype]] = {"instruction_id": ((), torch.int64)}
    for key, feature in dataset.metadata.features.items():
        offsets = dataset.offsets.get(key)
        steps = () if offsets is None else (len(offsets),)
        if key in dataset.cameras:
            result[key] = ((*steps, *dataset.picture_size(key), 3), torch.uint8)
        elif feature.is_number:
            shape = () if key in STANDARD else feature.shape
            result[key] = ((*steps, *shape), torch.from_numpy(np.zeros(0, feature.numpy_dtype)).dtype)
        else:
            continue
        if offsets is not None:
            result[f"{key}_is_pad"] = (steps, torch.bool)
    return result


def _renaming(part: MixturePartCfg, dataset: LeRobotDataset) -> dict[str, str]:
    """Return own key -> common key, for every tensor of an item."""
    own = list(_sample_shapes(dataset))
    for key in part.rename:
        if key not in own:
            raise UserError(f"'rename' names '{key}', which '{dataset.metadata.root}' lacks: {did_you_mean(key, own)}")
    names = {}
    for key in own:
        base = key.removesuffix("_is_pad")
        names[key] = part.rename.get(base, base) + key[len(base) :]
    if len(set(names.values())) < len(names):
        raise UserError(f"'rename' gives two keys of '{dataset.metadata.root}' the same name; choose others.")
    return names


@configclass
class MixturePartCfg(Cfg):
    """One dataset of a mixture."""

    dataset: LeRobotDatasetCfg = LeRobotDatasetCfg()
    weight: Annotated[float, Range(ge=0)] | None = None
    """Sampling weight relative to the others; None (for all): in proportion to its frames."""
    rename: dict[str, str] = {}
    """Own key -> key in batches, for example `observation.images.top` -> `observation.images.front`."""


@configclass
class MixtureDatasetCfg(DemonstrationsCfg):
    """Datasets to learn from together."""

    class_type: type = MixtureDataset
    parts: list[MixturePartCfg] = []
    image_size: list[Annotated[int, Range(ge=1)]] | None = None
    """Height and width of all images of parts that do not set their own."""

    @override
    def for_policy(self, chunk_size: int, cameras: Sequence[str], split: Split) -> Self:
        there = [_cameras(part) for part in self.parts]
        known = list(dict.fromkeys(name for names in there for name in names))
        for camera in cameras:
            if camera not in known:
                raise UserError(f"No part of the mixture has the camera '{camera}': {did_you_mean(camera, known)}")
        parts = []
        for part, names in zip(self.parts, there, strict=True):
            changed = part.dataset.for_policy(chunk_size, [], split)
            if cameras and changed.cameras is None:
                changed.cameras = [names[camera] for camera in cameras if camera in names]
            parts.append(part.replace(dataset=changed))
        return self.replace(parts=parts)


def _cameras(part: MixturePartCfg) -> dict[str, str]:
    """Name of a camera in the mixture, without `observation.images.` -> its key in the part."""
    keys = read_metadata(part.dataset.data_root).cameras
    return {part.rename.get(key, key).removeprefix(IMAGES): key for key in keys}
