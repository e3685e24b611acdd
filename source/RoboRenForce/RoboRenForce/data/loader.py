"""Batches from worker processes, in an order that goes on exactly where a checkpoint left it."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor

from ..configclass import Cfg, Range, configclass
from ..utils.errors import ProcessesLostError, UserError
from .sampler import Draw, MixtureSampler
from .samples import BatchSource, Samples

Batch = dict[str, Any]


class DataLoader:
    """Yields the batches of an epoch per iteration, or all of them without end (`endless`); images are uint8.

    `state_dict` counts the batches that were handed out, not those that workers have prepared. After `load_state_dict`
    the next iteration goes on with the batch that would have come next, on any number of processes.

    Args:
        cfg: batches and workers.
        source: what is read, whole batches or `Samples`.
        rank: of this process.
        world_size: processes; each reads its own part of the global batch.
        seed: of the order where the configuration has none.
        device: where batches go; None: they stay on the CPU.
    """

    def __init__(
        self,
        cfg: DataLoaderCfg,
        source: BatchSource | Samples,
        *,
        rank: int = 0,
        world_size: int = 1,
        seed: int = 0,
        device: torch.device | None = None,
    ) -> None:
        self.cfg, self.source, self._device = cfg, source, device
        self.sampler = MixtureSampler(
            source.lengths,
            weights=source.weights if cfg.shuffle else None,
            epoch_size=cfg.epoch_size,
            batch_size=cfg.batch_size,
            shuffle=cfg.shuffle,
            drop_last=cfg.drop_last,
            seed=seed if cfg.seed is None else cfg.seed,
            rank=rank,
            world_size=world_size,
        )
        self.wait_s = 0.0
        """Seconds that the consumer waited for batches, the first of every iteration left out (workers start)."""
        self.busy_s = 0.0
        """Seconds that the consumer took for the same batches."""
        self._loaders: dict[bool, Any] = {}

    @property
    def epoch(self) -> float:
        """Epochs since the run began, with the part of the running one."""
        return self.sampler.epoch + self.sampler.offset / self.sampler.epoch_size

    def __len__(self) -> int:
        """Batches of a whole epoch."""
        return len(self.sampler)

    def __iter__(self) -> Iterator[Batch]:
        """Yield what is left of the epoch, and begin the next one at its end.

        Raises:
            DatasetFileError: names file, episode and frame, as the worker said it.
            ProcessesLostError: a worker died.
        """
        sampler = self.sampler
        if not sampler.has_batches:
            raise UserError(
                f"There are {sampler.epoch_size:,} samples, and a batch takes {self.cfg.batch_size} x "
                f"{sampler.world_size}: lower batch_size, or set drop_last=false."
            )
        if sampler.is_done:
            sampler.next_epoch()
        yield from self._hand_out(endless=False)
        sampler.next_epoch()

    def endless(self) -> Iterator[Batch]:
        """Yield full batches from the position on, over the ends of epochs, so that workers never pause.

        Raises:
            DatasetFileError, ProcessesLostError: see `__iter__`.
        """
        return self._hand_out(endless=True)

    def close(self) -> None:
        """End the workers."""
        self._loaders.clear()

    def _hand_out(self, *, endless: bool) -> Iterator[Batch]:
        if endless not in self._loaders:
            self._loaders[endless] = self._read_ahead(endless)
        batches, is_first = iter(self._loaders[endless]), True
        while True:
            asked = time.perf_counter()
            batch = self._next(batches)
            if batch is None:
                return
            given = time.perf_counter()
            # Counted before it is handed out: who saves a checkpoint after this batch has learned from it.
            self.sampler.advance(over_end=endless)
            yield batch if self._device is None else to_device(batch, self._device)
            if not is_first:
                self.wait_s += given - asked
                self.busy_s += time.perf_counter() - given
            is_first = False

    def _read_ahead(self, endless: bool) -> torch.utils.data.DataLoader[Any]:
        cfg = self.cfg
        to_gpu = torch.cuda.is_available() if self._device is None else self._device.type == "cuda"
        return torch.utils.data.DataLoader(
            _Reader(self.source, self.sampler.seed),
            batch_sampler=_Order(self.sampler, endless),  # pyright: ignore[reportArgumentType] - draws instead of lists
            num_workers=cfg.num_workers,
            collate_fn=_as_it_is,
            pin_memory=cfg.pin_memory and to_gpu,
            persistent_workers=cfg.num_workers > 0,
            prefetch_factor=cfg.prefetch_factor if cfg.num_workers else None,
            worker_init_fn=_ignore_terminal_signals,
            generator=torch.Generator(),  # it would draw a seed for its workers from the generator of training
        )

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
        """Return the number of workers that would keep the consumer busy, from the measurements so far."""
        share, workers = min(self.data_wait_share, 0.99), self.cfg.num_workers
        # Without workers, reading and learning alternate; n workers read a batch in the time of 1 / (n (1 - share)).
        return math.ceil(workers / (1 - share)) if workers else math.ceil(share / (1 - share))

    def state_dict(self) -> dict[str, Any]:
        """Return the position as plain data."""
        return self.sampler.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go to a stored position; an iteration that is under way keeps its own.

        Raises:
            CheckpointError: it is of other data.
        """
        self.sampler.load_state_dict(dict(state))


class _Order:
    """The batches of the sampler from where it is when an iteration begins."""

    def __init__(self, sampler: MixtureSampler, endless: bool) -> None:
        self.sampler, self.endless = sampler, endless

    def __iter__(self) -> Iterator[Draw]:
        return self.sampler.endless() if self.endless else self.sampler.rest_of_epoch()


class _Reader(torch.utils.data.Dataset[Any]):
    """Reads whole batches; errors for the user are values, because raised in a worker they are wrapped in a traceback.

    What reads sample by sample gets a generator for each, which depends on its place in the order alone.
    """

    def __init__(self, source: BatchSource | Samples, seed: int) -> None:
        self.source, self.seed = source, seed & (2**64 - 1)

    def __getitems__(self, draw: Draw) -> Batch | UserError:
        source = self.source
        try:
            if not isinstance(source, Samples):
                return source.get_batch(draw.indices)
            places = zip(draw.indices.tolist(), draw.positions.tolist(), strict=True)
            return source.collate([source.sample(index, self._generator(position)) for index, position in places])
        except UserError as error:
            return error

    def _generator(self, position: int) -> torch.Generator:
        (seed,) = np.random.SeedSequence([self.seed, position]).generate_state(1, np.uint64)
        return torch.Generator().manual_seed(int(seed) >> 1)


def _as_it_is(batch: Any) -> Any:
    return batch


def _ignore_terminal_signals(worker: int) -> None:
    """Ctrl-C reaches workers too, and the run needs them until its iteration is finished and saved."""
    for name in ("SIGINT", "SIGHUP", "SIGQUIT", "SIGUSR1"):
        if name in signal.Signals.__members__:
            signal.signal(signal.Signals[name], signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # by which the parent ends them


def to_device(batch: Any, device: torch.device | str) -> Any:
    """Copy the tensors of a batch to a device, without waiting where they are pinned; texts stay."""
    if isinstance(batch, Tensor):
        return batch.to(device, non_blocking=True)
    if isinstance(batch, Mapping):
        return {key: to_device(value, device) for key, value in batch.items()}
    return batch


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
    seed: int | None = None
    """Of the order; None: that of the run."""
    num_workers: Annotated[int, Range(ge=0)] = 2
    """Processes that read and decode; 0: this one does. What is learned from does not depend on it."""
    prefetch_factor: Annotated[int, Range(ge=1)] = 4
    """Batches that every worker prepares in advance."""
    pin_memory: bool = True
    """Page-locked batches, which reach a GPU without waiting; without one it does nothing."""
