"""Uniform replay: what is drawn, how often, and what n-step windows add up to."""

import math
from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import settings as tests
from hypothesis import strategies as st
from replay_tapes import CPU, Tape, fields, groups, n_step, position, random_tape
from RoboRenForce.buffer import PrioritizedReplayBufferCfg, ReplayBufferCfg, SequenceReplayBufferCfg, records
from RoboRenForce.buffer import replay as replay_module
from RoboRenForce.envs.spec import ActionSpec, EnvSpec

pytestmark = pytest.mark.oracle


def build(tape: Tape, batch_size: int = 256, gamma: float = 0.9, **options):
    return ReplayBufferCfg(**options).build(spec=tape.spec(), gamma=gamma, batch_size=batch_size, device=CPU)


def three_rewards(done_at: int | None = None, *, terminated: bool = True) -> Tape:
    tape = random_tape(3, 1, seed=0, end=0.0)
    tape.reward[:, 0] = (1.0, 2.0, 3.0)
    if done_at is not None:
        tape.done[done_at], tape.terminated[done_at] = True, terminated
    return tape


@pytest.mark.parametrize(
    ("tape", "reward", "discount", "successor"),
    [
        (three_rewards(), 1 + 0.9 * 2 + 0.81 * 3, 0.729, 2),  # 5.23 + 0.729 Q
        (three_rewards(1), 2.8, 0.0, 1),
        (three_rewards(1, terminated=False), 2.8, 0.81, 1),
        (three_rewards(0), 1.0, 0.0, 0),
        (three_rewards(2), 5.23, 0.0, 2),
    ],
)
def test_three_step_return_by_hand(tape, reward, discount, successor):
    buffer = build(tape, n_step=3, capacity=10)
    tape.add_to(buffer)
    batch = buffer.sample()
    first = batch.obs["critic"][:, 0] == float(tape.obs[0, 0])
    torch.testing.assert_close(batch.reward[first], torch.full_like(batch.reward[first], reward))
    torch.testing.assert_close(batch.discount[first], torch.full_like(batch.discount[first], discount))
    assert (batch.next_obs["critic"][first] == float(tape.next_obs[successor, 0])).all()


@tests(max_examples=60)
@given(
    steps=st.integers(1, 40),
    envs=st.integers(1, 4),
    rows=st.integers(1, 24),
    horizon=st.integers(1, 5),
    seed=st.integers(0, 10_000),
)
def test_samples_are_the_n_step_transitions_of_the_newest_rows(steps, envs, rows, horizon, seed):
    horizon = min(horizon, rows)
    torch.manual_seed(seed)
    tape = random_tape(steps, envs, seed)
    # Capacity is rounded down to whole rows of environments.
    buffer = build(tape, capacity=rows * envs + envs - 1, n_step=horizon, batch_size=2000)
    tape.add_to(buffer)
    assert buffer.num_added == steps * envs
    assert len(buffer) == min(steps, rows) * envs

    batch = buffer.sample()
    starts = batch.obs["critic"][:, 0].tolist()
    oldest = max(0, steps - rows)
    assert set(starts) == set(tape.obs[oldest:].flatten().tolist())  # all of them: at most 96 slots, 2000 draws
    for row, number in {number: row for row, number in enumerate(starts)}.items():
        t, n = position(tape, row)
        reward, discount, successor = n_step(tape, t, n, horizon, 0.9, newest=steps - 1)
        assert batch.obs["policy"][number].tolist() == [row, -row]
        assert batch.action[number].item() == tape.action[t, n]
        assert batch.reward[number].item() == pytest.approx(reward, abs=1e-5)
        assert batch.discount[number].item() == pytest.approx(discount, abs=1e-6)
        assert batch.next_obs["critic"][number].item() == successor
        assert batch.next_obs["policy"][number].tolist() == [successor, -successor]


@pytest.mark.parametrize("steps", [10, 37])
def test_every_stored_transition_is_equally_likely(steps):
    tape = random_tape(steps, 4, seed=3)
    buffer = build(tape, capacity=80, batch_size=40_000, n_step=3)
    tape.add_to(buffer)
    counts = Counter(buffer.sample().obs["critic"][:, 0].tolist())
    cells = min(steps, 20) * 4
    expected = 40_000 / cells
    assert len(counts) == cells
    chi_square = sum((count - expected) ** 2 / expected for count in counts.values())
    # Mean cells - 1, variance 2 (cells - 1); four standard deviations.
    assert abs(chi_square - (cells - 1)) < 4 * math.sqrt(2 * (cells - 1))


def test_fields_keep_their_dtypes_and_shapes():
    spec = EnvSpec(
        "kinds",
        3,
        {"policy": (4,), "camera": (3, 2, 5), "height": ()},
        ActionSpec("discrete", 7),
        100,
        obs_dtypes={"camera": "uint8"},
    )
    buffer = ReplayBufferCfg(capacity=30).build(spec=spec, gamma=0.9, batch_size=8, device=CPU)

    def step():
        return {
            "policy": torch.randn(3, 4),
            "camera": torch.randint(256, (3, 3, 2, 5), dtype=torch.uint8),
            "height": torch.randn(3),
            "not stored": torch.randn(3, 9),
        }

    obs, next_obs, action = step(), step(), torch.tensor([0, 3, 6])
    flags = torch.tensor([True, False, False])
    buffer.add(fields(obs, action, torch.ones(3), flags, flags, next_obs))
    batch = buffer.sample()
    assert set(batch.obs) == set(batch.next_obs) == {"policy", "camera", "height"}
    assert batch.action.dtype == torch.int64
    assert batch.obs["camera"].dtype == torch.uint8
    assert batch.weight is None
    env = batch.index  # one row: the slot is the environment
    for name in batch.obs:
        assert torch.equal(batch.obs[name], obs[name][env])
        assert torch.equal(batch.next_obs[name], next_obs[name][env])
    assert torch.equal(batch.action, action[env])
    torch.testing.assert_close(batch.discount, torch.where(env == 0, 0.0, 0.9))


def test_float64_default_makes_float64_contents():
    torch.set_default_dtype(torch.float64)
    try:
        tape = random_tape(4, 2, seed=0)
        buffer = build(tape, capacity=8)
        tape.add_to(buffer)
        batch = buffer.sample()
    finally:
        torch.set_default_dtype(torch.float32)
    assert {batch.reward.dtype, batch.discount.dtype, batch.action.dtype, batch.obs["policy"].dtype} == {torch.float64}


def test_equal_seeds_draw_equal_samples():
    tape = random_tape(20, 2, seed=1)
    buffer = build(tape, capacity=30)
    tape.add_to(buffer)
    torch.manual_seed(5)
    first = buffer.sample()
    torch.manual_seed(5)
    assert torch.equal(first.index, buffer.sample().index)
    assert not torch.equal(first.index, buffer.sample().index)


def test_sampling_from_an_empty_replay_is_refused():
    with pytest.raises(RuntimeError, match="empty"):
        build(random_tape(1, 1, seed=0), capacity=10).sample()


def test_capacity_below_one_window_is_refused():
    with pytest.raises(ValueError, match=r"capacity=11.*2 steps for each of 4.*12 or more"):
        build(random_tape(1, 4, seed=0), capacity=11, n_step=3)


def test_too_large_a_replay_is_refused_with_what_fits(monkeypatch):
    # A slot is 2 * (2 + 1) observations, an action, reward and two flags in float32: 40 bytes.
    tape = random_tape(1, 2, seed=0)
    monkeypatch.setattr(replay_module, "free_bytes", lambda device: 4000)
    tape.add_to(build(tape, capacity=100))
    large = build(tape, capacity=102)  # nothing is allocated before there is something to store
    with pytest.raises(ValueError, match=r"102 transitions needs .* set replay.capacity to 80 or less"):
        tape.add_to(large)


def test_free_memory_of_this_machine_is_plausible():
    free = records.free_bytes(CPU)
    assert free is not None
    assert 2**20 < free < 2**50


@pytest.mark.parametrize("steps", [5, 33])
@pytest.mark.parametrize("interrupted", [False, True])
def test_state_with_contents_continues_exactly(steps, interrupted):
    tape = random_tape(steps + 10, 2, seed=2, end=0.1)
    here = build(tape, capacity=40, n_step=3, store=True)
    there = build(tape, capacity=40, n_step=3, store=True)
    tape.add_to(here, end=steps)
    there.load_state_dict(here.state_dict())
    assert (there.num_added, len(there)) == (here.num_added, len(here))
    torch.manual_seed(1)
    expected = here.sample()
    torch.manual_seed(1)
    found = there.sample()
    for name in ("reward", "discount", "action", "index"):
        assert torch.equal(getattr(found, name), getattr(expected, name))
    assert torch.equal(found.next_obs["policy"], expected.next_obs["policy"])

    if interrupted:  # the second environment begins a new episode, the first goes on where it was
        tape.obs[steps, 1] = 10_000.0
        tape.done[steps - 1, 1] = True
    tape.add_to(there, first=steps)
    batch = there.sample()
    for row, start in enumerate(batch.obs["critic"][:, 0].tolist()):
        reward, discount, successor = n_step(tape, *position(tape, start), 3, 0.9, newest=tape.steps - 1)
        assert batch.reward[row].item() == pytest.approx(reward, abs=1e-5)
        assert batch.discount[row].item() == pytest.approx(discount, abs=1e-6)
        assert batch.next_obs["critic"][row].item() == successor


def test_state_without_contents_starts_empty_and_says_so(caplog):
    tape = random_tape(12, 2, seed=2)
    here, there = build(tape, capacity=40), build(tape, capacity=40)
    tape.add_to(here)
    assert "contents" not in here.state_dict()
    tape.add_to(there)
    there.load_state_dict(here.state_dict())
    assert (there.num_added, len(there)) == (0, 0)
    with pytest.raises(RuntimeError, match="empty"):
        there.sample()
    assert not caplog.text  # it may be loaded only to be played
    tape.add_to(there)
    assert caplog.text.count("starts empty") == 1


def test_contents_of_another_replay_are_refused():
    tape = random_tape(12, 2, seed=2)
    here = build(tape, capacity=42, store=True)
    tape.add_to(here)
    with pytest.raises(ValueError, match=r"capacity of 21 steps .* 30"):
        build(tape, capacity=60).load_state_dict(here.state_dict())
    state = here.state_dict()
    state["contents"] = {name: table[..., 1:] for name, table in state["contents"].items()}
    with pytest.raises(ValueError, match="same observation groups"):
        build(tape, capacity=42).load_state_dict(state)
    with pytest.raises(ValueError, match="same observation groups"):
        build(random_tape(12, 3, seed=2), capacity=42).load_state_dict(state)


@pytest.mark.parametrize(("before", "now"), [(2, 3), (3, 2), (4, 1), (1, 4), (5, 12)])
@pytest.mark.parametrize(("steps", "rows", "rows_now"), [(7, 20, 40), (12, 8, 40), (12, 8, 3)])
def test_transitions_of_another_number_of_environments_stay(before, now, steps, rows, rows_now, caplog):
    """Each old environment's newest steps, oldest first, in one line that is cut into columns; cuts are truncations."""
    caplog.set_level("INFO")
    tape, other = random_tape(steps, before, seed=before, end=0.15), random_tape(5, now, seed=9)
    other.obs += 10_000
    other.next_obs += 10_000
    here = build(tape, capacity=rows * before, n_step=3, store=True)
    tape.add_to(here)
    there = build(other, capacity=rows_now * now, n_step=3, store=True)
    there.load_state_dict(here.state_dict())

    stored = min(steps, rows)
    columns = min(stored * before // now, rows_now)
    newest = -(-columns * now // before)
    line = [(t, n) for n in range(before) for t in range(steps - newest, steps)][newest * before - columns * now :]
    assert len(there) == len(line) == there.num_added
    assert caplog.text.count("is laid out for") == 1
    batch = there._transitions(torch.arange(len(there)))
    for column in range(now):
        piece = line[column * columns : (column + 1) * columns]
        for row, (t, n) in enumerate(piece):
            horizon = 1
            while horizon < 3 and row + horizon < columns and piece[row + horizon] == (t + horizon, n):
                horizon += 1
            slot = row * now + column
            reward, discount, successor = n_step(tape, t, n, horizon, 0.9, newest=steps - 1)
            assert batch.obs["critic"][slot].item() == tape.obs[t, n]
            assert batch.reward[slot].item() == pytest.approx(reward, abs=1e-5)
            assert batch.discount[slot].item() == pytest.approx(discount, abs=1e-6)
            assert batch.next_obs["critic"][slot].item() == successor

    assert (there.records.at("done", there._newest()) != 0).all()  # whatever the next observation is
    other.add_to(there)  # goes on behind what was stored
    assert len(there) == min(columns + 5, rows_now) * now
    drawn = there._transitions(torch.arange(len(there)))
    assert (drawn.obs["critic"] > 10_000).sum().item() == min(5, rows_now) * now
    assert torch.equal(drawn.obs["critic"] > 10_000, drawn.next_obs["critic"] > 10_000)  # no window leads into them


def test_values_may_be_integers_or_float64():
    tape = random_tape(3, 2, seed=0)
    buffer = build(tape, capacity=6)
    done = torch.tensor([1, 0])
    obs = groups(tape.obs[0])
    buffer.add(fields(obs, torch.zeros(2, 1), torch.ones(2, dtype=torch.float64), done.float(), done, obs))
    batch = buffer.sample()
    assert batch.reward.dtype == torch.float32
    torch.testing.assert_close(batch.discount, torch.where(batch.index == 0, 0.0, 0.9))


WAITING = EnvSpec(
    "groups", 3, {"policy": (1,)}, ActionSpec("continuous", 1), 100, ("final_observations", "active", "group_id")
)


def fill_with_waiting(buffer) -> None:
    """Environment 1 ends at step 2 and waits for steps 3 and 4; observations are 10 t + n."""
    for t in range(8):
        obs, after = (torch.tensor([[10.0 * k + n] for n in range(3)]) for k in (t, t + 1))
        active = torch.tensor([True, t not in (3, 4), True])
        done = torch.tensor([False, t == 2, False])
        flags = (torch.ones(3) * active, done, done.long())
        more = {"mask": active, "group_id": torch.tensor([7, 7, 9])}
        buffer.add(fields({"policy": obs}, torch.zeros(3, 1), *flags, {"policy": after}, **more))


@pytest.mark.parametrize("n_step", [1, 3])
def test_rows_that_waited_for_their_group_count_nothing_and_end_windows(n_step) -> None:
    buffer = ReplayBufferCfg(capacity=24, n_step=n_step).build(spec=WAITING, gamma=0.5, batch_size=400, device=CPU)
    fill_with_waiting(buffer)
    batch = buffer.sample()
    step, env = batch.obs["policy"].squeeze(-1).div(10).floor(), batch.obs["policy"].squeeze(-1) % 10
    waited = (env == 1) & ((step == 3) | (step == 4))
    assert waited.any()
    assert torch.equal(batch.valid == 0, waited)
    assert torch.equal(batch.group_id, torch.where(env == 2, 9, 7))
    assert batch.mean(waited * 1e6).item() == 0.0
    if n_step == 3:  # rewards of step 1 and the last, step 2; nothing of those that waited
        assert (batch.reward[(env == 1) & (step == 1)] == 1.5).all()
        assert (batch.discount[(env == 1) & (step == 1)] == 0.0).all()
        assert (batch.reward[(env == 1) & (step == 5)] == 1.75).all()


def test_rows_that_waited_have_no_priority() -> None:
    cfg = PrioritizedReplayBufferCfg(capacity=24)
    buffer = cfg.build(spec=WAITING, gamma=0.5, batch_size=400, device=CPU)
    fill_with_waiting(buffer)
    drawn = set(buffer.sample().obs["policy"].squeeze(-1).tolist())
    assert len(drawn) == 22 and not {31.0, 41.0} & drawn


def test_sequences_begin_anew_behind_rows_that_waited() -> None:
    cfg = SequenceReplayBufferCfg(capacity=24, length=3, previous_action=False)
    buffer = cfg.build(spec=WAITING, gamma=0.5, batch_size=400, device=CPU)
    fill_with_waiting(buffer)
    batch = buffer.sample()
    first = batch.obs["policy"][0].squeeze(-1)
    waited = (first == 31.0) | (first == 41.0)
    assert waited.any() and (batch.valid[:, waited] == 0).all() and (batch.valid[0, ~waited] == 1).all()
    assert (batch.valid[:, first == 11.0].sum(0) == 2).all()  # steps 1 and 2
    assert torch.equal(buffer.records.at("begins", torch.tensor([5 * 3 + 1, 6 * 3 + 1])), torch.tensor([1.0, 0.0]))


def test_the_newest_steps_by_their_names() -> None:
    buffer = ReplayBufferCfg(capacity=15).build(spec=WAITING, gamma=0.5, batch_size=4, device=CPU)
    fill_with_waiting(buffer)
    steps = buffer.newest_steps(2)
    assert set(steps) == set(buffer.schema.fields)
    assert steps["obs/policy"].squeeze(-1).tolist() == [[60.0, 61.0, 62.0], [70.0, 71.0, 72.0]]
    assert len(buffer.newest_steps(100)["reward"]) == 5
