"""What a loader reads: samples by their number."""

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
    """What the data says about the environment that it was recorded in; None where it says nothing."""

    @abstractmethod
    def __len__(self) -> int:
        """Number of samples."""

    @abstractmethod
    def sample(self, index: int, generator: torch.Generator) -> Mapping[str, Tensor]:
        """Return one sample on the CPU.

        Args:
            index: Its number, below `len`.
            generator: For everything random, such as augmentation; it depends on seed, epoch and index alone, so that
                neither workers nor an interruption change what is learned from.
        """

    def collate(self, samples: Sequence[Mapping[str, Tensor]]) -> Mapping[str, Any]:
        """Join samples to a batch: their tensors are stacked, `(B, ...)`."""
        return default_collate(list(samples))


@configclass
class SamplesCfg(Cfg):
    """Base of what a loader reads; `class_type` is a `Samples`."""

    class_type: type = Samples
