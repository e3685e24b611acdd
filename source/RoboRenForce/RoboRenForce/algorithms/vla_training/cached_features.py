"""Features of a frozen backbone, computed once per sample: afterwards no image is decoded and no backbone runs."""

from __future__ import annotations

import logging
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ...components.vla_preprocessing import IMAGES, without_host_entries
from ...data.dataset import LeRobotDataset
from ...data.loader import to_device
from ...data.mixture import MixtureDataset
from ...networks.vlm import Prefix
from ...utils.errors import ConfigError, NotEnoughMemory
from .supervised_module import PREFIX, Micro, SupervisedModule

logger = logging.getLogger(__name__)

Place = Literal["device", "ram"]


class CachedFeatures:
    """The samples of a data set without images, with their features or where those lie: a source of batches.

    `ram`: rows are in memory that workers share, and come with the batches. `device`: batches come with the numbers of
    their samples, and `add_features` looks the rows up where they are.

    Args:
        data: What is learned from.
        module: Computes the features, as it is now.
        device: Where the module is.
        place: Where the rows go.
        batch_size: Samples that are computed at once.
    """

    def __init__(
        self,
        data: LeRobotDataset | MixtureDataset,
        module: SupervisedModule,
        device: torch.device,
        *,
        place: Place,
        batch_size: int,
    ) -> None:
        if any(parameter.requires_grad for parameter in module.backbone.parameters()):
            raise ConfigError(
                "algorithm.cache_features keeps the features of a frozen backbone, and this one is trained: set "
                "algorithm.freeze_backbone=true, or cache_features=no."
            )
        self.lengths, self.weights, self.spec = data.lengths, data.weights, None
        self._place: Place = place
        self._blind = without_images(data)
        self._rows = self._compute(data, module, device, batch_size)

    def get_batch(self, indices: np.ndarray) -> dict[str, Any]:
        """Read some samples as one batch."""
        batch, chosen = self._blind.get_batch(indices), torch.from_numpy(np.asarray(indices, np.int64))
        if self._place == "device":
            return batch | {"sample": chosen}
        return batch | {name: rows[chosen] for name, rows in self._rows.items()}

    def add_features(self, batch: dict[str, Any]) -> dict[str, Any]:
        """The batch on the device with its features."""
        if self._place == "ram":
            return batch
        return batch | {name: rows[batch["sample"]] for name, rows in self._rows.items()}

    @torch.no_grad()
    def _compute(self, data: Any, module: SupervisedModule, device: torch.device, size: int) -> dict[str, Tensor]:
        count = sum(data.lengths)
        rows: dict[str, Tensor] = {}
        for start in range(0, count, size):
            chosen = np.arange(start, min(start + size, count))
            batch = without_host_entries(data.get_batch(chosen))
            prefix: Prefix = module.encode(Micro(to_device(batch, device)))
            tensors = prefix.to_tensors()
            if not rows:
                rows = self._allocate(tensors, count, device)
            for name, tensor in tensors.items():
                rows[PREFIX + name][start : start + len(chosen)] = tensor
        return rows

    def _allocate(self, tensors: dict[str, Tensor], count: int, device: torch.device) -> dict[str, Tensor]:
        size = sum(tensor[0].nbytes for tensor in tensors.values()) * count
        where = device if self._place == "device" else torch.device("cpu")
        logger.info("Features of %s samples take %.1f GiB (%s).", f"{count:,}", size / 2**30, self._place)
        try:
            rows = {
                PREFIX + name: torch.empty(count, *tensor.shape[1:], dtype=tensor.dtype, device=where)
                for name, tensor in tensors.items()
            }
        except RuntimeError as error:  # OutOfMemoryError on a GPU, a plain one on the CPU
            raise NotEnoughMemory(
                f"The features of {count:,} samples take {size / 2**30:.1f} GiB, which the {self._place} has not: set "
                "algorithm.cache_features to another place or to no, or choose fewer episodes."
            ) from error
        return rows if where.type != "cpu" else {name: values.share_memory_() for name, values in rows.items()}


def without_images(data: LeRobotDataset | MixtureDataset) -> LeRobotDataset | MixtureDataset:
    """The same samples, of which no image is read."""
    if isinstance(data, LeRobotDataset):
        return data.cfg.replace(cameras=[]).build()
    parts = [
        part.replace(
            dataset=part.dataset.replace(cameras=[]),
            rename={name: common for name, common in part.rename.items() if not name.startswith(IMAGES)},
        )
        for part in data.cfg.parts
    ]
    return data.cfg.replace(parts=parts).build()
