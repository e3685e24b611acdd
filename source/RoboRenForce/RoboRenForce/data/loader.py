"""Batches of recorded samples; where it is in the data is a part of its state, exact in the middle of an epoch too."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..configclass import MISSING, Cfg, Range, configclass
from ..envs.spec import EnvSpec
from ..utils.distributed import DistributedContext
from ..utils.errors import ConfigError, UserError
from .order import SampleOrder
from .samples import Samples, SamplesCfg


class Loader:
    """An endless iterator over batches on the device.

    Workers read ahead; what counts for the state is what was handed out.
    """

    def __init__(self, cfg: LoaderCfg) -> None:
        self.cfg = cfg
        self.samples: Samples = cfg.samples.build()
        if not len(self.samples):
            raise ConfigError(f"{type(self.samples).__name__} has no samples to learn from: check where it reads.")
        self.position = 0
        """Samples that were handed out to all processes since the run began."""
        self._batches: Iterator[Any] | None = None

    @property
    def spec(self) -> EnvSpec | None:
        """What the data says about its environment."""
        return self.samples.spec

    @property
    def epoch(self) -> float:
        """Epochs since the run began, with the part of the running one."""
        return self.position / len(self.samples)

    def start(self, seed: int, distributed: DistributedContext, device: torch.device) -> None:
        """Say who takes part and where batches go; before the first batch.

        Args:
            seed: Of the order and of what is random in samples.
            distributed: The processes that share the samples.
            device: Where batches are used.
        """
        self._seed, self._distributed, self._device = seed, distributed, device

    def __next__(self) -> Any:
        if self._batches is None:
            self._batches = iter(self._read_ahead())
        batch = next(self._batches)
        if isinstance(batch, UserError):
            raise batch
        self.position += self.cfg.batch_size * self._distributed.world_size
        return _moved(batch, self._device)

    def _read_ahead(self) -> DataLoader[Any]:
        """Read from the position on, in worker processes if there are any."""
        cfg = self.cfg
        order = SampleOrder(
            len(self.samples), cfg.batch_size, seed=self._seed, shuffle=cfg.shuffle, distributed=self._distributed
        )
        return DataLoader(
            _Batches(self.samples, self._seed),
            batch_sampler=order.batches(self.position),  # pyright: ignore[reportArgumentType] - it may be endless
            collate_fn=_as_it_is,
            num_workers=cfg.num_workers,
            pin_memory=self._device.type == "cuda",
            worker_init_fn=_ignore_terminal_signals,
            generator=torch.Generator(),  # it would draw a seed for its workers from the generator of training
        )

    def state_dict(self) -> dict[str, Any]:
        """Position and seed, alike in all processes, and the size of the data."""
        return {"position": self.position, "seed": self._seed, "size": len(self.samples)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where the state was taken, with any number of processes and workers.

        Raises:
            ValueError: the data has another number of samples.
        """
        if state["size"] != len(self.samples):
            raise ValueError(
                f"the checkpoint learned from {state['size']:,} samples, and there are {len(self.samples):,} now; "
                "resume with the same data"
            )
        self.position, self._seed = state["position"], state["seed"]
        self._batches = None

    def close(self) -> None:
        """End the workers."""
        self._batches = None


class _Batches(Dataset[Any]):
    """Reads whole batches, so that a mistake in the data arrives as its own sentence, from workers too."""

    def __init__(self, samples: Samples, seed: int) -> None:
        self.samples, self.seed = samples, seed

    def __getitems__(self, drawn: Sequence[tuple[int, int]]) -> Any:
        try:
            return self.samples.collate(
                [self.samples.sample(index, self._generator(epoch, index)) for epoch, index in drawn]
            )
        except UserError as error:
            return error

    def _generator(self, epoch: int, index: int) -> torch.Generator:
        (seed,) = np.random.SeedSequence([self.seed, epoch, index]).generate_state(1, np.uint64)
        return torch.Generator().manual_seed(int(seed) >> 1)


def _as_it_is(batch: Any) -> Any:
    return batch


def _ignore_terminal_signals(worker: int) -> None:
    """Ctrl-C reaches workers too, and the run needs them until its iteration is finished and saved."""
    for name in ("SIGINT", "SIGHUP", "SIGQUIT", "SIGUSR1"):
        if name in signal.Signals.__members__:
            signal.signal(signal.Signals[name], signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # by which the parent ends them


def _moved(batch: Any, device: torch.device) -> Any:
    if isinstance(batch, Tensor):
        return batch.to(device, non_blocking=True)
    if isinstance(batch, Mapping):
        return {name: _moved(value, device) for name, value in batch.items()}
    return batch


@configclass
class LoaderCfg(Cfg):
    """Configuration of `Loader`."""

    class_type: type = Loader

    samples: SamplesCfg = MISSING
    """What is read."""
    batch_size: Annotated[int, Range(ge=1)] = 64
    """Samples of one process in an update."""
    shuffle: bool = True
    """Another order in every epoch; False: that of recording."""
    num_workers: Annotated[int, Range(ge=0)] = 0
    """Processes that read ahead; what is learned from does not depend on it."""
