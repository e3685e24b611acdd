"""Prioritized replay: the tree, how often what is drawn, importance weights, and priorities in a ring."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as tests
from hypothesis import strategies as st
from replay_tapes import CPU, Tape, n_step, position, random_tape
from RoboRenForce.buffer import PrioritizedReplayBufferCfg, ReplayBatch
from RoboRenForce.buffer.prioritized import SumTree
from RoboRenForce.utils.errors import ConfigError

pytestmark = pytest.mark.oracle


def build(tape: Tape, batch_size: int = 64, **options):
    cfg = PrioritizedReplayBufferCfg(**options)
    return cfg.build(spec=tape.spec(), gamma=0.9, batch_size=batch_size, device=CPU)


@tests(max_examples=50)
@given(size=st.integers(1, 40_000), seed=st.integers(0, 10_000), power=st.integers(0, 6))
def test_tree_finds_what_a_running_sum_finds(size, seed, power):
    random = np.random.default_rng(seed)
    tree, values = SumTree(size, CPU), np.zeros(size)
    for _ in range(3):  # in several steps, with slots that are set again
        slots = np.unique(random.integers(0, size, random.integers(1, 200)))
        values[slots] = random.uniform(0.1, 1.0, len(slots)) ** power
        tree.set(torch.tensor(slots), torch.tensor(values[slots]))
    assert tree.total.item() == pytest.approx(values.sum(), rel=1e-12)
    share = random.uniform(size=300)
    sums = values.cumsum()
    expected = np.searchsorted(sums, share * sums[-1], side="right")
    found = tree.find(torch.tensor(share)).numpy()
    # Where a share falls within rounding of a border, either neighbor is right.
    border = np.abs(sums[None] - share[:, None] * sums[-1]).min(1) < 1e-9 * sums[-1]
    assert (border | (found == expected)).all()
    assert (values[found] > 0).all()


def test_tree_never_leaves_what_has_a_value():
    tree = SumTree(5000, CPU)
    slots = torch.tensor([3, 31, 32, 1023, 1024, 4999])
    tree.set(slots, torch.tensor([1e-12, 1.0, 1e9, 1e-3, 1e-300, 1e-9]))
    shares = torch.cat([torch.tensor([0.0, 1.0 - 2.0**-53], dtype=torch.float64), torch.rand(10_000).double()])
    assert set(tree.find(shares).tolist()) <= set(slots.tolist())


def test_a_slot_that_is_set_twice_at_once_gets_the_larger_value():
    tree = SumTree(100, CPU)
    tree.set(torch.tensor([7]), torch.tensor([9.0]))
    tree.set(torch.tensor([7, 8, 7]), torch.tensor([2.0, 1.0, 3.0]))
    assert tree.values[7].item() == 3.0
    assert tree.total.item() == 4.0


def test_draws_follow_the_priorities():
    tape = random_tape(30, 2, seed=0)
    buffer = build(tape, capacity=60, alpha=0.6, batch_size=100)
    tape.add_to(buffer)
    errors = torch.randn(60) * 3.0
    buffer.update_priorities(torch.arange(60), errors)
    probability = (errors.double().abs() + 1e-6) ** 0.6
    probability /= probability.sum()
    draws = torch.cat([buffer.sample().index for _ in range(400)])
    expected = probability * len(draws)
    counts = torch.bincount(draws, minlength=60)
    # One draw from each of 100 parts: counts vary less than multinomial ones, whose standard deviation this is.
    assert ((counts - expected).abs() < 4.5 * (expected * (1.0 - probability)).sqrt() + 1.0).all()
    assert counts.sum() == len(draws)


def test_importance_weights_by_the_formula():
    tape = random_tape(20, 2, seed=0)
    buffer = build(tape, capacity=60, alpha=0.7, initial_beta=0.3, final_beta=0.9, beta_updates=4)
    tape.add_to(buffer)
    errors = torch.rand(40) + 0.1
    buffer.update_priorities(torch.arange(40), -errors)
    probability = (errors.double() + 1e-6) ** 0.7
    probability /= probability.sum()
    for beta in (0.3, 0.45, 0.6, 0.75, 0.9, 0.9):
        batch = buffer.sample()
        weight = (40 * probability[batch.index]) ** -beta
        torch.testing.assert_close(batch.weight, (weight / weight.max()).float())


def test_padding_counts_neither_above_nor_below_the_line_of_a_weighted_mean():
    valid = torch.tensor([[1.0, 1.0], [1.0, 0.0], [0.0, 0.0]])
    nothing = torch.zeros(3, 2)
    batch = ReplayBatch(obs={}, action=nothing, reward=nothing, discount=nothing, valid=valid)
    loss = torch.tensor([[[4.0, 6.0], [8.0, 99.0], [99.0, 99.0]]]).repeat(2, 1, 1)  # (E, T, B)
    assert batch.mean(loss).item() == batch.weighted_mean(loss).item() == 6.0
    batch.weight = torch.tensor([1.0, 0.5])
    assert batch.mean(loss).item() == 6.0
    assert batch.weighted_mean(loss).item() == 5.0  # (4 + 8 + 6 / 2) / 3


def test_alpha_zero_draws_uniformly_with_weights_of_one():
    tape = random_tape(20, 2, seed=0)
    buffer = build(tape, capacity=40, alpha=0.0, batch_size=40)
    tape.add_to(buffer)
    buffer.update_priorities(torch.arange(40), torch.randn(40))
    batch = buffer.sample()
    assert (batch.weight == 1.0).all()
    assert sorted(batch.index.tolist()) == list(range(40))  # 40 equal parts of 40 slots


def test_new_transitions_have_the_largest_priority_seen():
    tape = random_tape(30, 2, seed=0)
    buffer = build(tape, capacity=60, alpha=0.5)
    tape.add_to(buffer, end=10)
    assert (buffer.tree.values[:20] == 1.0).all()
    assert (buffer.tree.values[20:] == 0.0).all()
    buffer.update_priorities(torch.tensor([4, 5]), torch.tensor([-9.0, 0.25]))
    tape.add_to(buffer, first=10, end=11)
    expected = torch.tensor([3.0, 0.5, 1.0, 3.0, 3.0])
    torch.testing.assert_close(buffer.tree.values[[4, 5, 6, 20, 21]].float(), expected, atol=2e-6, rtol=0.0)


def test_errors_that_are_not_finite_spoil_nothing():
    tape = random_tape(10, 2, seed=0)
    buffer = build(tape, capacity=20, alpha=1.0)
    tape.add_to(buffer)
    buffer.update_priorities(torch.tensor([0, 1, 2]), torch.tensor([math.nan, math.inf, 4.0]))
    expected = torch.tensor([1.0, 1.0, 4.0, 1.0])
    torch.testing.assert_close(buffer.tree.values[:4].float(), expected, atol=2e-6, rtol=0.0)
    assert buffer.max_priority.item() == pytest.approx(4.0)


def test_ring_overwrites_priorities_and_samples_stay_n_step_transitions():
    tape = random_tape(50, 3, seed=4)
    buffer = build(tape, capacity=36, n_step=3, batch_size=400)
    for t in range(tape.steps):
        tape.add_to(buffer, first=t, end=t + 1)
        batch = buffer.sample()
        buffer.update_priorities(batch.index, torch.randn(400))
        starts = batch.obs["critic"][:, 0].tolist()
        for row in range(0, 400, 40):
            at, env = position(tape, starts[row])
            assert t - 12 < at <= t
            reward, discount, successor = n_step(tape, at, env, 3, 0.9, newest=t)
            assert batch.reward[row].item() == pytest.approx(reward, abs=1e-5)
            assert batch.discount[row].item() == pytest.approx(discount, abs=1e-6)
            assert batch.next_obs["critic"][row].item() == successor
    torch.testing.assert_close(buffer.tree.total, buffer.tree.values.sum())


def test_td_errors_of_an_ensemble_are_refused():
    tape = random_tape(10, 2, seed=0)
    buffer = build(tape, capacity=20)
    tape.add_to(buffer)
    batch = buffer.sample()
    with pytest.raises(ValueError, match=r"\(2, 64\).*one per sample"):
        buffer.update_priorities(batch.index, torch.zeros(2, 64))


@pytest.mark.parametrize("store", [True, False])
def test_state_round_trip(store):
    tape = random_tape(25, 2, seed=0)
    here, there = (build(tape, capacity=40, store=store, beta_updates=10) for _ in range(2))
    for buffer in (here, there):
        tape.add_to(buffer)
        buffer.update_priorities(torch.arange(40), torch.randn(40))
        buffer.sample()
    here.sample()
    there.load_state_dict(here.state_dict())
    torch.testing.assert_close(there.beta, here.beta)
    if store:
        torch.manual_seed(3)
        expected = here.sample()
        torch.manual_seed(3)
        found = there.sample()
        assert torch.equal(found.index, expected.index)
        assert torch.equal(found.weight, expected.weight)
        assert torch.equal(there.max_priority, here.max_priority)
    else:
        assert there.tree.total.item() == 0.0
        tape.add_to(there, end=1)
        assert set(there.sample().index.tolist()) == {0, 1}


def test_beta_that_shrinks_is_refused():
    with pytest.raises(ConfigError, match=r"initial_beta: 0\.9 is above final_beta"):
        PrioritizedReplayBufferCfg(initial_beta=0.9, final_beta=0.5).validate()


def test_a_sample_that_was_predicted_exactly_can_come_again():
    tape = random_tape(4, 2, seed=0)
    buffer = build(tape, capacity=8, alpha=0.5, epsilon=0.01)
    tape.add_to(buffer)
    buffer.update_priorities(torch.arange(8), torch.tensor([0.0, -0.24] * 4))
    torch.testing.assert_close(buffer.tree.values, torch.tensor([0.1, 0.5] * 4, dtype=torch.float64), rtol=1e-6, atol=0)
