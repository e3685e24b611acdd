"""The order of samples: a pure function of (seed, epoch, offset), the same on any number of processes.

All epochs together are one endless sequence. Every step of all processes takes the next `world_size * batch_size` of
it, process `r` the `r`-th part:

    sequence    4 1 3 0 2 | 2 4 0 1 3 | ...       5 samples, two processes, batches of 2
    step        0 0 0 0 1   1 1 1 2 2
    process     0 0 1 1 0   0 1 1 0 0

Training goes on over the ends of epochs like this (`endless`), so that all batches are full. Validation and loops that
are written by hand take one epoch at a time (iteration), whose last batch is smaller or left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..utils.errors import CheckpointError, UserError
from .permutation import permute

_LARGEST_EPOCH = 2**48


class Draw(NamedTuple):
    """A batch of one process."""

    indices: np.ndarray
    """int64 `(B,)`, counted over all datasets."""
    positions: np.ndarray
    """int64 `(B,)`: places in the endless sequence, which no other sample of a run has."""


class MixtureSampler:
    """Draws batches of indices from one or several datasets that lie one after another.

    In every epoch each dataset contributes its share exactly. A dataset that contributes less than it has goes on in
    the next epoch, one that contributes more begins anew: no sample comes twice before all of its dataset came once.

    An epoch is a row of positions. The global batch takes `batch_size * world_size` of them, of which every process has
    its own `batch_size`, so no sample is seen by two processes; `offset` counts positions, so a run goes on where it
    was with another number of processes too.

    Args:
        lengths: samples of each dataset.
        weights: how often each is drawn, relative to the others; None: in proportion to its length.
        epoch_size: samples of an epoch, over all processes; None: all samples of all datasets.
        batch_size: samples of a batch of this process.
        shuffle: False: in order, which needs the weights to be None.
        drop_last: leave out the last incomplete global batch. Otherwise its samples are divided over the processes, and
            some may have a batch less.
        seed: of the order.
        rank: of this process.
        world_size: processes.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        *,
        batch_size: int,
        weights: Sequence[float] | None = None,
        epoch_size: int | None = None,
        shuffle: bool = True,
        drop_last: bool = True,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if not lengths or min(lengths) < 1:
            raise UserError("There are no samples to draw: every dataset needs at least one frame.")
        if not shuffle and weights is not None:
            raise UserError("Weights say how often datasets are drawn at random; without shuffling leave them out.")
        if weights is not None and (
            len(weights) != len(lengths) or not min(weights) >= 0 or not 0 < sum(weights) < 1e9
        ):
            raise UserError(
                f"There are {len(lengths)} datasets and the weights {list(weights)}; give one positive number each."
            )
        self.lengths = np.asarray(lengths, np.int64)
        self.starts = np.cumsum(self.lengths) - self.lengths
        self.batch_size, self.drop_last, self.shuffle = batch_size, drop_last, shuffle
        self.seed, self.rank, self.world_size = seed, rank, world_size
        self.step_size = batch_size * world_size
        """Samples of a global batch."""
        size = int(epoch_size or self.lengths.sum())
        if size > _LARGEST_EPOCH:
            raise UserError(f"An epoch of {size:,} samples can't be drawn; choose a smaller epoch_size.")
        share = np.asarray(self.lengths if weights is None else weights, np.float64)
        self.counts = _shares(share, size)
        """Samples of each dataset in one epoch."""
        self.epoch = 0
        self.offset = 0
        """Positions of the epoch that are done, over all processes."""

    @property
    def epoch_size(self) -> int:
        """Samples of an epoch, over all processes."""
        return int(self.counts.sum())

    @property
    def position(self) -> int:
        """Place in the endless sequence."""
        return self.epoch * self.epoch_size + self.offset

    @property
    def has_batches(self) -> bool:
        """True if an epoch has at least one batch."""
        return not self.drop_last or self.epoch_size >= self.step_size

    @property
    def is_done(self) -> bool:
        """True if nothing of the epoch is left."""
        left = self.epoch_size - self.offset
        return left < self.step_size if self.drop_last else left <= 0

    def __len__(self) -> int:
        """Batches of this process in a whole epoch."""
        whole, rest = divmod(self.epoch_size, self.step_size)
        return whole if self.drop_last else whole + bool(_part(rest, self.rank, self.world_size)[1])

    def __iter__(self) -> Iterator[np.ndarray]:
        """Yield the indices of the batches of the epoch from `offset` on; neither epoch nor offset are changed."""
        return (draw.indices for draw in self.rest_of_epoch())

    def rest_of_epoch(self) -> Iterator[Draw]:
        """Yield the batches of the epoch from `offset` on."""
        begin, start = self.epoch * self.epoch_size, self.offset
        while start < self.epoch_size:
            rest = self.epoch_size - start
            if rest >= self.step_size:
                first, count = self.rank * self.batch_size, self.batch_size
            elif self.drop_last:
                return
            else:
                first, count = _part(rest, self.rank, self.world_size)
            if count:
                yield self._draw(np.arange(start + first, start + first + count) + begin)
            start += self.step_size

    def endless(self) -> Iterator[Draw]:
        """Yield full batches from the position on, over the ends of epochs."""
        start = self.position + self.rank * self.batch_size
        while True:
            yield self._draw(np.arange(start, start + self.batch_size))
            start += self.step_size

    def _draw(self, positions: np.ndarray) -> Draw:
        epochs, offsets = np.divmod(positions, self.epoch_size)
        drawn = [self.indices(offsets[epochs == epoch], epoch) for epoch in np.unique(epochs).tolist()]
        return Draw(np.concatenate(drawn), positions)

    def indices(self, positions: np.ndarray, epoch: int) -> np.ndarray:
        """Return the samples at some positions of an epoch, counted over all datasets."""
        if not self.shuffle:
            return positions
        drawn = permute(positions, self.epoch_size, self.seed, epoch)
        ends = np.cumsum(self.counts)
        dataset = np.searchsorted(ends, drawn, side="right")
        result = np.empty_like(drawn)
        for number in np.unique(dataset).tolist():
            rows = dataset == number
            # Draws of this dataset since the beginning of training: it is gone through again and again.
            draw = epoch * int(self.counts[number]) + drawn[rows] - int(ends[number] - self.counts[number])
            length = int(self.lengths[number])
            turn, place = np.divmod(draw, length)
            for passed in np.unique(turn).tolist():
                now = turn == passed
                place[now] = permute(place[now], length, self.seed + 1 + number, passed)
            result[rows] = self.starts[number] + place
        return result

    def advance(self, *, over_end: bool = False) -> None:
        """Count one global batch as done; `over_end` if it may reach into the next epochs."""
        if over_end:
            self.epoch, self.offset = divmod(self.position + self.step_size, self.epoch_size)
        else:
            self.offset = min(self.offset + self.step_size, self.epoch_size)

    def next_epoch(self) -> None:
        """Begin the next epoch."""
        self.epoch, self.offset = self.epoch + 1, 0

    def state_dict(self) -> dict[str, Any]:
        """Return the position as plain data."""
        return {
            "seed": self.seed,
            "epoch": self.epoch,
            "offset": self.offset,
            "shuffle": self.shuffle,
            "lengths": self.lengths.tolist(),
            "counts": self.counts.tolist(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a stored position.

        Raises:
            CheckpointError: it is of other data, another seed, or other weights.
        """
        for name, mine in self.state_dict().items():
            if name in ("epoch", "offset"):
                continue
            if state.get(name) != mine:
                raise CheckpointError(
                    f"The checkpoint's data order has {name}={state.get(name)}, and this run has {mine}: resume with "
                    "the same datasets, split, weights and seed, or start anew from its weights."
                )
        epoch, offset = state["epoch"], state["offset"]
        if epoch < 0 or not 0 <= offset <= self.epoch_size:
            raise CheckpointError(f"The checkpoint's data position (epoch {epoch}, offset {offset}) does not exist.")
        self.epoch, self.offset = int(epoch), int(offset)


def _shares(weights: np.ndarray, size: int) -> np.ndarray:
    """Whole numbers in proportion to the weights that add up to `size` (largest remainders)."""
    exact = weights / weights.sum() * size
    counts = np.floor(exact + 1e-9).astype(np.int64)
    missing = size - int(counts.sum())
    counts[np.argsort(counts - exact, kind="stable")[:missing]] += 1
    return counts


def _part(total: int, rank: int, world_size: int) -> tuple[int, int]:
    """Return start and length of a process's part, if `total` are divided as evenly as possible."""
    each, more = divmod(total, world_size)
    return rank * each + min(rank, more), each + (rank < more)
