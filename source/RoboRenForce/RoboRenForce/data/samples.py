"""Interface of samples that a loader reads by their number."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import default_collate

from ..configclass import Cfg, configclass
from ..envs.spec import EnvSpec


class Samples(ABC):
    """Recorded samples; built by its configuration in every process, and read by the workers of a loader."""

    spec: EnvSpec | None = None
    """Spec of the environment that the data was recorded in; None if it contains none."""

    @abstractmethod
    def __len__(self) -> int:
        """Number of samples."""

    @abstractmethod
    def sample(self, index: int, generator: torch.Generator) -> Mapping[str, Tensor]:
        """Return one sample on the CPU.

        Args:
            index: Number of the sample, below `len`.
            generator: Generator for everything random, such as augmentation; it depends on seed, epoch and index alone,
                so that neither workers nor an interruption change the batches.
        """

    def collate(self, samples: Sequence[Mapping[str, Tensor]]) -> Mapping[str, Any]:
        """Combine samples into a batch: their tensors are stacked, `(B, ...)`."""
        return default_collate(list(samples))


@configclass
class SamplesCfg(Cfg):
    """Base of the configurations of samples; `class_type` is a `Samples`."""

    class_type: type = Samples
