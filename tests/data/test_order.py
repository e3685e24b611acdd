"""The order of samples: every epoch all of them once, whatever the number of processes and wherever it begins."""

from __future__ import annotations

from itertools import islice

import pytest
from RoboRenForce.data.order import SampleOrder
from RoboRenForce.utils.distributed import DistributedContext

pytestmark = pytest.mark.oracle


def drawn(size: int, batch: int, world: int, steps: int, position: int = 0, **options: bool) -> list[tuple[int, int]]:
    """What all processes draw in so many steps, in the order of the sequence."""
    parts = [
        list(islice(SampleOrder(size, batch, seed=3, **{"shuffle": True, **options},
                                distributed=DistributedContext(rank, rank, world)).batches(position), steps))
        for rank in range(world)
    ]  # fmt: skip
    return [entry for step in zip(*parts, strict=True) for batch in step for entry in batch]


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("batch", [1, 4, 30])
def test_every_epoch_has_every_sample_once(world: int, batch: int) -> None:
    size, epochs = 23, 3
    found = drawn(size, batch, world, steps=-(-size * epochs // (batch * world)))
    for epoch in range(epochs):
        here = found[epoch * size : (epoch + 1) * size]
        assert {number for number, _ in here} == {epoch}
        assert sorted(index for _, index in here) == list(range(size))
    assert found[:size] != [(0, index) for _, index in found[size : 2 * size]]  # another order in every epoch


def test_the_sequence_does_not_depend_on_how_it_is_shared() -> None:
    alone = drawn(23, 6, 1, steps=20)
    assert drawn(23, 2, 3, steps=20) == alone
    assert drawn(23, 3, 2, steps=5) + drawn(23, 10, 1, steps=9, position=30) == alone


def test_without_shuffling_the_order_is_that_of_recording() -> None:
    assert drawn(3, 2, 2, steps=2, shuffle=False) == [(place // 3, place % 3) for place in range(8)]
