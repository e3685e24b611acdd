"""The order of samples: bijective, uniform, disjoint over processes, resumable from any place, weighted exactly."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from RoboRenForce.data.permutation import mix, permute
from RoboRenForce.data.sampler import MixtureSampler
from RoboRenForce.data.selection import validation_mask
from RoboRenForce.utils.errors import CheckpointError, UserError

pytestmark = pytest.mark.oracle


@settings(max_examples=50)
@given(st.integers(1, 3000), st.integers(-(2**70), 2**70), st.integers(0, 2**40))
def test_a_permutation_has_every_element_once(size: int, seed: int, epoch: int) -> None:
    assert np.array_equal(np.sort(permute(np.arange(size), size, seed, epoch)), np.arange(size))


@pytest.mark.parametrize("size", [2**40 - 5, 2**40, 2**40 + 7])
def test_a_place_in_a_huge_permutation_costs_no_memory(size: int) -> None:
    places = np.asarray([0, 1, size // 2, size - 1])
    drawn = permute(places, size, 0, 0)
    assert len(set(drawn.tolist())) == 4 and drawn.min() >= 0 and drawn.max() < size
    assert np.array_equal(permute(places[::-1], size, 0, 0), drawn[::-1])


def test_the_order_never_changes() -> None:
    """Runs of earlier releases have to be resumed: these numbers must stay."""
    assert permute(np.arange(8), 8, 0, 0).tolist() == ORDER_OF_8
    assert permute(np.arange(5), 10**6, 3, 7).tolist() == ORDER_OF_A_MILLION
    # SplitMix64 from state 0 (Steele et al. 2014), whose first outputs are published with the reference implementation.
    gamma = np.uint64(0x9E3779B97F4A7C15)
    outputs = mix(np.arange(1, 4, dtype=np.uint64) * gamma)
    assert outputs.tolist() == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]


ORDER_OF_8 = [1, 3, 5, 4, 0, 6, 2, 7]
ORDER_OF_A_MILLION = [155435, 411133, 617273, 593180, 580407]


def test_permutations_are_uniform() -> None:
    """All 24 orders of four elements come equally often, and every element is everywhere equally often."""
    turns = 720
    orders = Counter(tuple(permute(np.arange(4), 4, 0, epoch).tolist()) for epoch in range(turns))
    expected = turns / 24
    chi_square = sum((orders[order] - expected) ** 2 / expected for order in orders)
    assert len(orders) == 24 and chi_square < 60  # 23 degrees of freedom: above 60 once in 30,000 seeds
    places = np.stack([permute(np.arange(50), 50, seed, 1) for seed in range(250)])
    counts = np.stack([np.bincount(column, minlength=50) for column in places.T])
    assert ((counts - 5) ** 2 / 5).sum() < 2401 + 6 * np.sqrt(2 * 2401)


def test_neighbours_are_not_neighbours_afterwards() -> None:
    drawn = permute(np.arange(10_000), 10_000, 0, 0)
    assert abs(np.corrcoef(drawn[:-1], drawn[1:])[0, 1]) < 0.04
    assert (np.abs(np.diff(drawn)) == 1).mean() < 0.002


def epoch_of(sampler: MixtureSampler) -> np.ndarray:
    return np.concatenate([*sampler, np.empty(0, np.int64)])


@settings(max_examples=40)
@given(
    st.integers(1, 400),
    st.integers(1, 9),
    st.integers(1, 5),
    st.booleans(),
    st.booleans(),
)
def test_processes_share_an_epoch_without_repetition(
    size: int, batch_size: int, world_size: int, shuffle: bool, drop_last: bool
) -> None:
    options = {"batch_size": batch_size, "shuffle": shuffle, "drop_last": drop_last, "world_size": world_size}
    parts = [MixtureSampler([size], rank=rank, **options) for rank in range(world_size)]
    drawn = np.concatenate([epoch_of(part) for part in parts])
    assert len(set(drawn.tolist())) == len(drawn)
    step = batch_size * world_size
    assert len(drawn) == (size // step * step if drop_last else size)
    for part in parts:
        batches = list(part)
        assert len(batches) == len(part)
        assert all(len(batch) == batch_size for batch in batches[: size // step])
    if drop_last:
        assert len({len(part) for part in parts}) == 1  # else DDP would hang


def test_an_order_is_a_function_of_seed_and_epoch() -> None:
    def epochs(seed: int) -> list[list[int]]:
        sampler = MixtureSampler([100], batch_size=10, seed=seed)
        found = []
        for _ in range(2):
            found.append(epoch_of(sampler).tolist())
            sampler.next_epoch()
        return found

    assert epochs(0) == epochs(0)
    (first, second), (other, _) = epochs(0), epochs(1)
    assert first != second and first != other and sorted(first) == sorted(second) == sorted(other) == list(range(100))


@settings(max_examples=15)
@given(st.integers(0, 13), st.integers(1, 4), st.integers(1, 4))
def test_a_run_goes_on_where_it_was_on_another_number_of_processes(done: int, before: int, after: int) -> None:
    size, global_batch = 150, 12
    whole = MixtureSampler([size], batch_size=global_batch, seed=5)
    uninterrupted = [set(batch.tolist()) for batch in whole]
    old = MixtureSampler([size], batch_size=global_batch // before, world_size=before, seed=5)
    for _ in range(done):
        old.advance()
    rest: list[set[int]] = []
    for rank in range(after):
        new = MixtureSampler([size], batch_size=global_batch // after, world_size=after, rank=rank, seed=5)
        new.load_state_dict(old.state_dict())
        for number, batch in enumerate(new):
            if number == len(rest):
                rest.append(set())
            rest[number] |= set(batch.tolist())
    assert rest == uninterrupted[done:]


def test_weights_are_exact_in_every_epoch_and_small_datasets_are_gone_through_evenly() -> None:
    sampler = MixtureSampler([1000, 30], weights=[3, 1], epoch_size=200, batch_size=20)
    seen: Counter[int] = Counter()
    for _ in range(6):
        drawn = epoch_of(sampler)
        assert (drawn < 1000).sum() == 150 and (drawn >= 1000).sum() == 50
        seen.update(drawn.tolist())
        sampler.next_epoch()
    # 900 of 1,000 without repetition; 300 draws of 30 frames: each of them ten times.
    assert all(seen[index] <= 1 for index in range(1000)) and sum(seen[index] for index in range(1000)) == 900
    assert [seen[index] for index in range(1000, 1030)] == [10] * 30


def test_a_batch_mixes_datasets() -> None:
    sampler = MixtureSampler([500, 500], weights=[1, 1], batch_size=100)
    shares = [(batch < 500).mean() for batch in sampler]
    assert len(shares) == 10 and all(0.3 < share < 0.7 for share in shares) and len(set(shares)) > 3


def test_a_dataset_of_weight_zero_is_never_drawn() -> None:
    drawn = epoch_of(MixtureSampler([5, 5, 5], weights=[1, 0, 2], epoch_size=31, batch_size=1))
    assert len(drawn) == 31 and not ((drawn >= 5) & (drawn < 10)).any()


def test_a_position_of_other_data_is_refused() -> None:
    state = MixtureSampler([100, 50], batch_size=10).state_dict()
    for other in (MixtureSampler([100, 49], batch_size=10), MixtureSampler([100, 50], batch_size=10, seed=1)):
        with pytest.raises(CheckpointError, match="The checkpoint's data order has"):
            other.load_state_dict(state)
    with pytest.raises(CheckpointError, match=r"position \(epoch 0, offset 151\) does not exist"):
        MixtureSampler([100, 50], batch_size=10).load_state_dict(state | {"offset": 151})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lengths": []}, "There are no samples"),
        ({"lengths": [4, 0]}, "every dataset needs at least one frame"),
        ({"lengths": [4, 4], "weights": [1.0]}, "give one positive number each"),
        ({"lengths": [4, 4], "weights": [1.0, -1.0]}, "give one positive number each"),
        ({"lengths": [4, 4], "weights": [0.0, 0.0]}, "give one positive number each"),
        ({"lengths": [4, 4], "weights": [float("nan"), 1.0]}, "give one positive number each"),
        ({"lengths": [4, 4], "weights": [1, 1], "shuffle": False}, "without shuffling leave them out"),
    ],
)
def test_samplers_that_make_no_sense(options: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        MixtureSampler(batch_size=2, **options)


@settings(max_examples=30)
@given(st.integers(2, 500), st.floats(0.01, 0.99), st.integers(0, 9))
def test_a_split_leaves_something_on_both_sides(total: int, fraction: float, seed: int) -> None:
    mask = validation_mask(total, fraction, seed)
    assert 0 < mask.sum() < total and abs(mask.sum() - total * fraction) <= 1
    assert np.array_equal(mask, validation_mask(total, fraction, seed))


def test_seeds_split_differently() -> None:
    masks = {validation_mask(40, 0.25, seed).tobytes() for seed in range(20)}
    assert len(masks) == 20
    with pytest.raises(UserError, match="one episode can't be split"):
        validation_mask(1, 0.5, 0)
