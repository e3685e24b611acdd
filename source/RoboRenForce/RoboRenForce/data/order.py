"""In which order samples are seen, by any number of processes.

All epochs together are one endless sequence: the permutation of the first, then that of the second, and so on. Every
step of all processes takes the next `world_size * batch_size` of it, process `r` the `r`-th part:

    sequence    4 1 3 0 2 | 2 4 0 1 3 | ...       5 samples, two processes, batches of 2
    step        0 0 0 0 1   1 1 1 2 2
    process     0 0 1 1 0   0 1 1 0 0

So a single number, the position in the sequence, is the whole state, whatever the number of processes: a run that goes
on with another number sees what is left of the epoch, each sample once. Batches are all full.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..utils.distributed import DistributedContext


class SampleOrder:
    """Draws the samples of each step.

    Args:
        size: Number of samples.
        batch_size: Samples of one process in a step.
        seed: Of the permutations, alike in all processes.
        shuffle: Permute; False: every epoch is in the order of recording.
        distributed: The processes that share the samples.
    """

    def __init__(
        self, size: int, batch_size: int, *, seed: int, shuffle: bool, distributed: DistributedContext
    ) -> None:
        self.size, self.batch_size, self.seed, self.shuffle = size, batch_size, seed, shuffle
        self.rank, self.step_size = distributed.rank, batch_size * distributed.world_size

    def batches(self, position: int) -> Iterator[list[tuple[int, int]]]:
        """Yield (epoch, index) of the samples of this process, step by step from `position` on, without end."""
        permutations: dict[int, np.ndarray] = {}
        while True:
            first = position + self.rank * self.batch_size
            places = [divmod(place, self.size) for place in range(first, first + self.batch_size)]
            epochs = {epoch for epoch, _ in places}
            permutations = {epoch: permutations.get(epoch, self._permutation(epoch)) for epoch in epochs}
            yield [(epoch, int(permutations[epoch][place])) for epoch, place in places]
            position += self.step_size

    def _permutation(self, epoch: int) -> np.ndarray:
        if not self.shuffle:
            return np.arange(self.size)
        return np.random.default_rng([self.seed, epoch]).permutation(self.size)
