"""Sequence replay: windows stay in one episode, and every row of them is the true one."""

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as tests
from hypothesis import strategies as st
from replay_tapes import CPU, Tape, fields, position, random_tape
from RoboRenForce.buffer import SequenceReplayBufferCfg
from RoboRenForce.envs.spec import ActionSpec, EnvSpec
from RoboRenForce.utils.errors import ConfigError

pytestmark = pytest.mark.oracle


def build(tape: Tape, batch_size: int = 128, **options):
    cfg = SequenceReplayBufferCfg(**options)
    return cfg.build(spec=tape.spec(), gamma=0.9, batch_size=batch_size, device=CPU)


def check(tape: Tape, batch, column: int, newest: int, length: int, burn_in: int = 0) -> tuple[int, int]:
    """Compare one window with the tape, step by step; returns where it begins."""
    numbers = batch.obs["critic"][:, column, 0].tolist()
    first, n = position(tape, numbers[0])
    ends = [t for t in range(first, newest) if tape.done[t, n]]
    last = min([*ends, newest, first + length - 1])
    begins = first == 0 or bool(tape.done[first - 1, n])
    for k in range(length):
        t = min(first + k, last)
        counted = first + k <= last and (k >= burn_in or begins)
        assert batch.valid[k, column].item() == counted
        assert batch.action[k, column].item() == tape.action[t, n]
        assert batch.reward[k, column].item() == tape.reward[t, n]
        assert batch.discount[k, column].item() == pytest.approx(0.0 if tape.terminated[t, n] else 0.9)
        assert numbers[k + 1] == tape.next_obs[t, n]
        assert batch.obs["policy"][k + 1, column].tolist() == [numbers[k + 1], -numbers[k + 1]]
        assert batch.obs["previous_action"][k + 1, column].item() == tape.action[t, n]
        if k > 0 and counted:
            assert numbers[k] == tape.obs[t, n]  # the successor of the last step is where this one begins
    assert batch.obs["previous_action"][0, column].item() == (0.0 if begins else tape.action[first - 1, n])
    return first, n


@tests(max_examples=80)
@given(
    steps=st.integers(1, 40),
    envs=st.integers(1, 3),
    rows=st.integers(1, 20),
    length=st.integers(1, 8),
    burn_in=st.integers(0, 7),
    end=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    seed=st.integers(0, 10_000),
)
def test_windows_over_random_tapes(steps, envs, rows, length, burn_in, end, seed):
    torch.manual_seed(seed)
    length = min(length, rows)
    burn_in = min(burn_in, length - 1)
    tape = random_tape(steps, envs, seed, end)
    buffer = build(tape, capacity=rows * envs, length=length, burn_in=burn_in, batch_size=1000)
    tape.add_to(buffer)
    batch = buffer.sample()
    assert batch.is_sequence
    assert batch.obs["policy"].shape == (length + 1, 1000, 2)
    assert batch.obs["previous_action"].shape == (length + 1, 1000, 1)
    assert batch.action.shape == (length, 1000, 1)
    assert batch.start.shape == (length + 1, 1000)
    assert batch.start[0].all()
    assert not batch.start[1:].any()
    columns = {number: column for column, number in enumerate(batch.obs["critic"][0, :, 0].tolist())}
    begun = {check(tape, batch, column, steps - 1, length, burn_in) for column in columns.values()}
    # Every stored step begins a window: at most 60 slots, 1000 draws.
    assert begun == {(t, n) for t in range(max(0, steps - rows), steps) for n in range(envs)}


def test_windows_while_the_ring_moves():
    tape = random_tape(60, 2, seed=3, end=0.2)
    buffer = build(tape, capacity=20, length=5)
    for t in range(tape.steps):
        tape.add_to(buffer, first=t, end=t + 1)
        batch = buffer.sample()
        for column in range(0, 128, 8):
            first, _ = check(tape, batch, column, newest=t, length=5)
            assert t - 10 < first <= t


def test_beginnings_are_uniform_over_the_stored_steps():
    tape = random_tape(45, 4, seed=5)
    buffer = build(tape, capacity=80, length=6, batch_size=20_000)
    tape.add_to(buffer)
    counts = np.array(list(Counter(buffer.sample().obs["critic"][0, :, 0].tolist()).values()))
    assert len(counts) == 80
    chi_square = ((counts - 250.0) ** 2 / 250.0).sum()
    assert abs(chi_square - 79.0) < 4 * (2 * 79.0) ** 0.5


def test_by_hand():
    """The drawing in the module: an episode of three steps that terminates, then another one."""
    tape = random_tape(5, 1, seed=0, end=0.0)
    tape.done[2] = tape.terminated[2] = True
    tape.obs[3] = 777.0
    buffer = build(tape, capacity=5, length=4)
    tape.add_to(buffer)
    batch = buffer.sample()
    column = batch.obs["critic"][0, :, 0].tolist().index(tape.obs[1, 0])
    o1, o2, o3 = tape.obs[1, 0], tape.obs[2, 0], tape.next_obs[2, 0]
    a0, a1, a2 = tape.action[:3, 0].tolist()
    assert batch.obs["critic"][:, column, 0].tolist() == [o1, o2, o3, o3, o3]
    assert batch.obs["previous_action"][:, column, 0].tolist() == [a0, a1, a2, a2, a2]
    assert batch.action[:, column, 0].tolist() == [a1, a2, a2, a2]
    assert batch.valid[:, column].tolist() == [1.0, 1.0, 0.0, 0.0]
    torch.testing.assert_close(batch.discount[:, column], torch.tensor([0.9, 0.0, 0.0, 0.0]))


def test_previous_action_can_be_left_out():
    tape = random_tape(10, 2, seed=0)
    buffer = build(tape, capacity=20, length=3, previous_action=False)
    tape.add_to(buffer)
    assert set(buffer.sample().obs) == set(buffer.spec.obs_groups) == {"policy", "critic"}


def test_previous_action_is_in_the_spec():
    tape = random_tape(10, 2, seed=0)
    buffer = build(tape, capacity=20, length=3)
    assert buffer.spec.obs_groups == {"policy": (2,), "critic": (1,), "previous_action": (1,)}
    assert buffer.cfg.stored_spec(tape.spec()) == buffer.spec


def test_discrete_actions_have_no_previous_action():
    spec = EnvSpec("discrete", 2, {"policy": (3,)}, ActionSpec("discrete", 4), 10)
    with pytest.raises(ValueError, match="previous_action=false"):
        SequenceReplayBufferCfg(length=2).build(spec=spec, gamma=0.9, batch_size=4, device=CPU)
    cfg = SequenceReplayBufferCfg(length=2, previous_action=False)
    buffer = cfg.build(spec=spec, gamma=0.9, batch_size=4, device=CPU)
    none = torch.zeros(2, dtype=torch.bool)
    obs = {"policy": torch.ones(2, 3)}
    buffer.add(fields(obs, torch.tensor([1, 3]), torch.zeros(2), none, none, obs))
    batch = buffer.sample()
    assert batch.action.dtype == torch.int64
    assert torch.equal(batch.action, torch.tensor([1, 3])[batch.index].expand(2, 4))


@pytest.mark.parametrize(
    ("options", "message"),
    [({"length": 4, "burn_in": 4}, "burn_in: 4 leaves nothing"), ({"n_step": 3}, "n_step: 3 has no meaning")],
)
def test_contradictions_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        SequenceReplayBufferCfg(**options).validate()


def test_a_ring_shorter_than_a_window_is_refused():
    with pytest.raises(ValueError, match="at least 64"):
        build(random_tape(1, 2, seed=0), capacity=100)


@pytest.mark.parametrize("interrupted", [False, True])
def test_a_resumed_replay_goes_on(interrupted):
    tape = random_tape(30, 2, seed=8, end=0.1)
    here, there = (build(tape, capacity=40, length=6, store=True) for _ in range(2))
    tape.add_to(here, end=25)
    there.load_state_dict(here.state_dict())
    if interrupted:
        tape.obs[25] = (8000.0, 9000.0)
        tape.done[24] = True
    tape.add_to(there, first=25)
    batch = there.sample()
    for column in range(128):
        check(tape, batch, column, newest=29, length=6)
