"""Interface of the samples that a loader reads: whole batches by number, or one sample after the other."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import default_collate

from ..configclass import Cfg, configclass
from ..envs.spec import EnvSpec


class BatchSource(Protocol):
    """Source of whole batches: a `LeRobotDataset`, a `MixtureDataset`, or anything of your own.

    A `DatasetRunner` also asks for `spec`, see `Samples`.
    """

    @property
    def lengths(self) -> Sequence[int]:
        """Samples of each dataset."""
        ...

    @property
    def weights(self) -> Sequence[float] | None:
        """Relative frequency of each dataset; None: in proportion to its samples."""
        ...

    def get_batch(self, indices: np.ndarray) -> dict[str, Any]:
        """Read some samples as one batch on the CPU; numbers count over all datasets."""
        ...


class Samples(ABC):
    """A source that reads sample by sample, with random numbers of their own for augmentation."""

    spec: EnvSpec | None = None
    """Spec of the environment that the data was recorded in; None if it contains none."""
    weights: Sequence[float] | None = None

    @property
    def lengths(self) -> list[int]:
        """Its samples, as a mixture of one."""
        return [len(self)]

    @abstractmethod
    def __len__(self) -> int:
        """Number of samples."""

    @abstractmethod
    def sample(self, index: int, generator: torch.Generator) -> Mapping[str, Tensor]:
        """Return one sample on the CPU.

        Args:
            index: Its number, below `len`.
            generator: For everything random, such as augmentation; it depends on the seed and the place in the order
                alone, so that neither workers nor an interruption change what is learned from.
        """

    def collate(self, samples: Sequence[Mapping[str, Tensor]]) -> dict[str, Any]:
        """Combine samples into a batch: their tensors are stacked, `(B, ...)`."""
        return default_collate(list(samples))


@configclass
class SamplesCfg(Cfg):
    """Base of the configurations of `Samples`."""

    class_type: type = Samples
