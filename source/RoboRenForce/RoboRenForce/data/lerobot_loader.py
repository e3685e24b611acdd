"""Batches from worker processes, in an order that goes on exactly where a checkpoint left it."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Protocol

import numpy as np
import torch

from ..configclass import Cfg, Range, configclass
from ..utils.errors import ProcessesLostError, UserError
from .dataset import Batch
from .sampler import MixtureSampler


class BatchSource(Protocol):
    """What batches are read from: a `LeRobotDataset` or a `MixtureDataset`."""

    @property
    def lengths(self) -> Sequence[int]:
        """Samples of each dataset."""
        ...

    @property
    def weights(self) -> Sequence[float] | None:
        """How often each is drawn; None: in proportion to its samples."""
        ...

    def get_batch(self, indices: np.ndarray) -> Batch:
        """Read some samples as one batch."""
        ...


class DataLoader:
    """Yields the batches of an epoch per iteration, as tensors on the CPU; images are uint8.

    `state_dict` counts the batches that were handed out, not those that workers have prepared. After `load_state_dict`
    the next iteration goes on with the batch that would have come next, on any number of processes.

    Args:
        cfg: batches and workers.
        source: what is read.
        rank: of this process.
        world_size: processes; each reads its own part of the global batch.
    """

    def __init__(self, cfg: DataLoaderCfg, source: BatchSource, *, rank: int = 0, world_size: int = 1) -> None:
        self.cfg, self.source = cfg, source
        self.sampler = MixtureSampler(
            source.lengths,
            weights=source.weights if cfg.shuffle else None,
            epoch_size=cfg.epoch_size,
            batch_size=cfg.batch_size,
            shuffle=cfg.shuffle,
            drop_last=cfg.drop_last,
            seed=cfg.seed,
            rank=rank,
            world_size=world_size,
        )
        if not self.sampler.has_batches:
            raise UserError(
                f"There are {self.sampler.epoch_size:,} samples, and a batch takes {cfg.batch_size} x {world_size}: "
                "lower batch_size, or set drop_last=false."
            )
        self.wait_s = 0.0
        """Seconds that the consumer waited for batches, the first of every iteration left out (workers start)."""
        self.busy_s = 0.0
        """Seconds that the consumer took for the same batches."""
        self._loader: Any = torch.utils.data.DataLoader(
            _ErrorsAsValues(source),
            batch_sampler=self.sampler,  # type: ignore[arg-type]  # arrays instead of lists
            num_workers=cfg.num_workers,
            collate_fn=_as_it_is,
            pin_memory=cfg.pin_memory and torch.cuda.is_available(),
            persistent_workers=cfg.num_workers > 0,
            prefetch_factor=cfg.prefetch_factor if cfg.num_workers else None,
        )

    def __len__(self) -> int:
        """Batches of a whole epoch."""
        return len(self.sampler)

    def __iter__(self) -> Iterator[Batch]:
        """Yield what is left of the epoch, and begin the next one at its end.

        Raises:
            DatasetFileError: names file, episode and frame, as the worker said it.
            ProcessesLostError: a worker died.
        """
        if self.sampler.is_done:
            self.sampler.next_epoch()
        batches, is_first = iter(self._loader), True
        while True:
            asked = time.perf_counter()
            batch = self._next(batches)
            if batch is None:
                break
            given = time.perf_counter()
            # Counted before it is handed out: who saves a checkpoint after this batch has learned from it.
            self.sampler.advance()
            yield batch
            if not is_first:
                self.wait_s += given - asked
                self.busy_s += time.perf_counter() - given
            is_first = False
        self.sampler.next_epoch()

    def _next(self, batches: Iterator[Batch | UserError]) -> Batch | None:
        try:
            batch = next(batches, None)
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            raise ProcessesLostError(
                f"A data worker died ({str(error).splitlines()[0]}), most often because memory ran out: lower "
                "num_workers, prefetch_factor or the dataset's cache_mb."
            ) from error
        if isinstance(batch, UserError):
            raise batch
        return batch

    @property
    def data_wait_share(self) -> float:
        """Part of the time that the consumer waited for data, in [0, 1]."""
        return self.wait_s / max(self.wait_s + self.busy_s, 1e-9)

    def advised_workers(self) -> int:
        """How many workers would keep the consumer busy, from what was measured so far."""
        share, workers = min(self.data_wait_share, 0.99), self.cfg.num_workers
        # Without workers, reading and learning alternate; n workers read a batch in the time of 1 / (n (1 - share)).
        return math.ceil(workers / (1 - share)) if workers else math.ceil(share / (1 - share))

    def state_dict(self) -> dict[str, Any]:
        """Return the position as plain data."""
        return self.sampler.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a stored position; an iteration that is under way keeps its own.

        Raises:
            CheckpointError: it is of other data.
        """
        self.sampler.load_state_dict(state)


class _ErrorsAsValues(torch.utils.data.Dataset[Any]):
    """Hands errors for the user over as values: raised in a worker they would arrive wrapped in its traceback."""

    def __init__(self, source: BatchSource) -> None:
        self.source = source

    def __getitems__(self, indices: np.ndarray) -> Batch | UserError:
        try:
            return self.source.get_batch(indices)
        except UserError as error:
            return error


def _as_it_is(batch: Any) -> Any:
    return batch


def to_device(batch: Batch, device: torch.device | str) -> Batch:
    """Copy the tensors of a batch to a device, without waiting where they are pinned; texts stay."""
    return {
        key: value.to(device, non_blocking=True) if isinstance(value, torch.Tensor) else value
        for key, value in batch.items()
    }


@configclass
class DataLoaderCfg(Cfg):
    """Batches and the processes that prepare them."""

    class_type: type = DataLoader
    batch_size: Annotated[int, Range(ge=1)] = 64
    """Samples of a batch of each process."""
    epoch_size: Annotated[int, Range(ge=1)] | None = None
    """Samples of an epoch over all processes; None: every sample of every dataset."""
    shuffle: bool = True
    drop_last: bool = True
    """Leave out the last incomplete batch of an epoch; for validation set it to False."""
    seed: int = 0
    """Of the order."""
    num_workers: Annotated[int, Range(ge=0)] = 2
    """Processes that read and decode; 0: this one does."""
    prefetch_factor: Annotated[int, Range(ge=1)] = 4
    """Batches that every worker prepares in advance."""
    pin_memory: bool = True
    """Page-locked batches, which reach a GPU without waiting; without one it does nothing."""
