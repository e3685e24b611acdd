"""Recorded transitions: successors, next actions and ends on hand-made tapes; every contradiction names key and row."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from RoboRenForce.buffer import (
    DatasetBuffer,
    DatasetCfg,
    DatasetError,
    DatasetLoader,
    EpisodeArrays,
    ReplayBatch,
    TransitionDataset,
)
from RoboRenForce.configclass import configclass
from RoboRenForce.envs.spec import ActionSpec, EnvSpec

pytestmark = pytest.mark.oracle

UNIT = ActionSpec("continuous", 1, (-1.0,), (1.0,))


def rows(**changes: Any) -> dict[str, Any]:
    """Three steps that were cut, then two that terminated. Observations count, actions are a tenth of them."""
    count = np.array([0.0, 1.0, 2.0, 10.0, 11.0], np.float32)
    arrays: dict[str, Any] = {
        "observations": np.stack([count, -count], axis=1),
        "actions": count[:, None] / 20,
        "rewards": count,
        "terminals": np.array([0, 0, 0, 0, 1], bool),
        "timeouts": np.array([0, 0, 1, 0, 0], bool),
    }
    return arrays | changes


def successors() -> np.ndarray:
    after = np.array([1.0, 2.0, 3.0, 11.0, 12.0], np.float32)
    return np.stack([after, -after], axis=1)


def build(**changes: Any) -> TransitionDataset:
    return TransitionDataset.from_rows(rows(**changes), source="made.hdf5")


def episode(length: int = 3, key: str = "episode_0", **changes: Any) -> EpisodeArrays:
    count = np.arange(length + 1, dtype=np.float32)
    parts: dict[str, Any] = {
        "observations": {"policy": count[:, None]},
        "actions": count[:-1, None] / 20,
        "rewards": count[:-1],
        "terminations": np.arange(length) == length - 1,
        "truncations": np.zeros(length, bool),
    }
    return EpisodeArrays(key, **(parts | changes))


def joined(*episodes: EpisodeArrays, **options: Any) -> TransitionDataset:
    return TransitionDataset.from_episodes(episodes, source="set", action=UNIT, **options)


def first(tensor: torch.Tensor) -> list[float]:
    return tensor[:, 0].tolist()


# ------------------------------------------------------------------------------------------------- hand-made tapes


def test_a_file_without_successors_loses_the_row_where_the_episode_was_cut():
    data = build()
    assert first(data.obs["policy"]) == [0, 1, 10, 11]
    assert first(data.next_obs["policy"]) == [1, 2, 11, 11]  # the last is never looked at
    assert data.terminated.tolist() == [False, False, False, True]
    assert data.truncated.tolist() == [False] * 4
    assert first(data.next_action) == pytest.approx([0.05, 0.1, 0.55, 0.0])
    assert data.next_action_known.all()
    assert data.reward.tolist() == [0, 1, 10, 11]
    assert data.episode_returns.tolist() == [3, 21]  # of all rows, also of those that can't be learned from


def test_a_file_with_successors_keeps_every_row():
    data = build(next_observations=successors())
    assert first(data.next_obs["policy"]) == [1, 2, 3, 11, 12]
    assert data.truncated.tolist() == [False, False, True, False, False]
    assert data.next_action_known.tolist() == [True, True, False, True, True]
    assert first(data.next_action) == pytest.approx([0.05, 0.1, 0.0, 0.55, 0.0])


def test_where_recording_stopped_the_episode_was_cut():
    open_end = np.array([0, 0, 0, 0, 0], bool)
    data = build(next_observations=successors(), terminals=open_end)
    assert data.truncated.tolist() == [False, False, True, False, True]
    assert data.terminated.sum() == 0
    assert data.episode_returns.tolist() == [3]  # the second never became whole
    assert first(build(terminals=open_end).obs["policy"]) == [0, 1, 10]


def test_a_termination_on_the_step_of_the_time_limit_is_a_termination():
    both = np.array([0, 0, 1, 0, 1], bool)
    data = build(terminals=both, timeouts=both)
    assert data.terminated.tolist() == both.tolist() and data.truncated.sum() == 0


def test_what_follows_a_termination_is_the_observation_itself_where_nothing_is_recorded():
    """And not the first one of the next episode, whose values would be finite, too."""
    data = build(terminals=np.array([0, 0, 1, 0, 1], bool), timeouts=np.zeros(5, bool))
    assert first(data.next_obs["policy"]) == [1, 2, 2, 11, 11]
    assert first(data.next_action) == pytest.approx([0.05, 0.1, 0.0, 0.55, 0.0])
    assert data.episode_returns.tolist() == [3, 21]


def test_episodes_keep_their_final_observation():
    cut = episode(2, "episode_1", terminations=np.zeros(2, bool), truncations=np.array([0, 1], bool))
    data = joined(episode(3), cut)
    assert first(data.obs["policy"]) == [0, 1, 2, 0, 1]
    assert first(data.next_obs["policy"]) == [1, 2, 3, 1, 2]
    assert data.terminated.tolist() == [False, False, True, False, False]
    assert data.truncated.tolist() == [False, False, False, False, True]
    assert data.next_action_known.tolist() == [True, True, True, True, False]
    assert first(data.next_action) == pytest.approx([0.05, 0.1, 0.0, 0.05, 0.0])
    assert data.episode_returns.tolist() == [3, 1]


@given(st.lists(st.tuples(st.integers(1, 5), st.booleans()), min_size=1, max_size=6), st.integers(0, 1000))
def test_rows_and_episodes_of_one_tape_are_the_same_data(shapes: list[tuple[int, bool]], seed: int):
    draw = np.random.default_rng(seed)
    parts, flat = [], {key: [] for key in ("observations", "next_observations", "actions", "rewards")}
    terminals, timeouts, expected = [], [], []
    for number, (length, terminated) in enumerate(shapes):
        obs = draw.normal(size=(length + 1, 3)).astype(np.float32)
        action = draw.uniform(-1, 1, (length, 1)).astype(np.float32)
        reward = draw.normal(size=length).astype(np.float32)
        end = np.arange(length) == length - 1
        parts.append(
            EpisodeArrays(
                f"episode_{number}", {"policy": obs}, action, reward, end & terminated, end & (not terminated)
            )
        )
        for key, values in zip(flat, (obs[:-1], obs[1:], action, reward), strict=True):
            flat[key].extend(values)
        terminals += (end & terminated).tolist()
        timeouts += (end & (not terminated)).tolist()
        expected += [*action[1:, 0].tolist(), 0.0]
    arrays = {key: np.asarray(values) for key, values in flat.items()}
    arrays |= {"terminals": np.asarray(terminals), "timeouts": np.asarray(timeouts)}
    one, other = joined(*parts), TransitionDataset.from_rows(arrays, source="rows")
    for name in ("action", "reward", "terminated", "truncated", "next_action", "next_action_known", "episode_returns"):
        assert torch.allclose(getattr(one, name).double(), getattr(other, name).double(), atol=1e-6), name
    assert torch.equal(one.obs["policy"], other.obs["policy"])
    assert torch.equal(one.next_obs["policy"], other.next_obs["policy"])
    assert first(one.next_action) == pytest.approx(expected, abs=1e-6)


def test_actions_are_mapped_to_the_unit_box_and_rounding_is_forgiven():
    torque = ActionSpec("continuous", 2, (-2.0, 0.0), (2.0, 1.0))
    recorded = np.array([[-2.0, 0.0], [2.0, 1.0], [1.0, 0.75], [0.0, 0.5], [2.000001, 0.5]])
    data = TransitionDataset.from_rows(rows(actions=recorded), source="x", action=torque)
    expected = [[-1, -1], [1, 1], [0, 0], [1, 0]]  # row 2 has no successor
    assert torch.allclose(data.action, torch.tensor(expected, dtype=data.action.dtype))
    assert data.action.abs().max() <= 1.0


def test_discrete_actions_stay_indices():
    left = episode(3, actions=np.array([0, 2, 1]))
    data = TransitionDataset.from_episodes([left], source="set", action=ActionSpec("discrete", 3))
    assert data.action.tolist() == [0, 2, 1] and data.action.dtype == torch.int64
    assert data.next_action.tolist() == [2, 1, 0]
    with pytest.raises(DatasetError, match=r"set, key 'episode_0/actions', row 1: the action is 2.*0 to 1"):
        TransitionDataset.from_episodes([left], source="set", action=ActionSpec("discrete", 2))


@pytest.mark.parametrize("wrong", [-1, 1.5, 3, np.nan])
def test_what_is_no_index_is_no_discrete_action(wrong: float):
    discrete = ActionSpec("discrete", 3)
    with pytest.raises(DatasetError, match=r"key 'actions', row 3: (the action is|it holds)"):
        changed = rows(actions=np.array([0, 2, 1, wrong, 0]))
        TransitionDataset.from_rows(changed, source="x", action=discrete)


def test_several_groups_and_images_keep_their_types():
    observations = {"state": np.zeros((4, 2)), "camera": np.full((4, 2, 2, 3), 7, np.uint8)}
    data = joined(episode(3, observations=observations))
    assert data.obs["camera"].dtype == torch.uint8 and data.obs["camera"].shape == (3, 2, 2, 3)
    assert data.obs["state"].dtype == torch.get_default_dtype()


# ------------------------------------------------------------------------------------------------------- bad input


def with_value(key: str, row: int, value: float) -> dict[str, np.ndarray]:
    array = np.array(rows()[key], np.float32)
    array[row] = value
    return {key: array}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (with_value("observations", 3, np.nan), "key 'observations', row 3: it holds nan, expected finite numbers"),
        (with_value("rewards", 1, np.inf), "key 'rewards', row 1: it holds inf"),
        (with_value("actions", 4, 1.5), r"key 'actions', row 4: action 0 is 1.5, expected -1 to 1 \(1 rows of 5 lie"),
        (with_value("actions", 0, -1.003), r"key 'actions', row 0: action 0 is -1.003, expected -1 to 1 \(1 rows of 5"),
        (with_value("terminals", 2, 2), "key 'terminals', row 2: it is 2.0, expected 0 or 1"),
        ({"rewards": np.zeros(4)}, "key 'rewards', row 4: it has 4 rows and 'observations' has 5"),
        ({"rewards": np.zeros((5, 2))}, r"key 'rewards': its rows have the shape \(2,\), expected \(\)"),
        ({"observations": np.zeros((0, 2))}, "key 'observations': it has no rows"),
        ({"rewards": np.float32(1.0)}, "key 'rewards': it is a single value, expected one row per step"),
        ({"rewards": np.array(list("abcde"))}, "key 'rewards': it holds <U1, expected numbers"),
        ({"next_observations": np.zeros((5, 3))}, r"key 'next_observations': its rows have the shape \(3,\)"),
        (
            {"next_observations": successors(), "timeouts": np.zeros(5, bool)},
            "key 'next_observations', row 2: the successor is not the observation of row 3, and neither",
        ),
        ({"timeouts": np.ones(5, bool), "terminals": np.zeros(5, bool)}, "key 'next_observations': it is missing"),
    ],
)
def test_a_contradiction_names_file_key_and_row(changes: dict[str, Any], sentence: str):
    with pytest.raises(DatasetError, match="^made.hdf5, " + sentence):
        build(**changes)


def test_a_missing_key_is_named_with_the_nearest_one():
    arrays = rows()
    arrays["terminal"] = arrays.pop("terminals")
    with pytest.raises(DatasetError, match=r"made.hdf5, key 'terminals': it is missing; .*did you mean 'terminal'\?"):
        TransitionDataset.from_rows(arrays, source="made.hdf5")


def test_an_episode_longer_than_possible_lacks_an_end():
    assert len(TransitionDataset.from_rows(rows(), source="x", max_episode_length=3)) == 4
    with pytest.raises(DatasetError, match=r"x, key 'timeouts', row 1: the episode that begins in row 0 has 3 steps"):
        TransitionDataset.from_rows(rows(), source="x", max_episode_length=2)
    with pytest.raises(DatasetError, match=r"set, key 'episode_0/truncations', row 1: .* at most 2 are possible"):
        joined(episode(3), max_episode_length=2)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"truncations": np.array([0, 1, 0], bool)}, "'episode_0/truncations', row 1: the episode ends here, but goes"),
        ({"observations": {"policy": np.zeros((3, 1))}}, "'episode_0/observations/policy', row 3: it has 3 rows, exp"),
        ({"observations": {"policy": np.full((4, 1), np.nan)}}, "'episode_0/observations/policy', row 0: it holds nan"),
        ({"rewards": np.zeros(2)}, "key 'episode_0/actions', row 2: it has 3 rows and 'episode_0/rewards' has 2"),
        ({"actions": np.full((3, 1), -3.0)}, "key 'episode_0/actions', row 0: action 0 is -3, expected -1 to 1"),
        ({"actions": np.zeros((3, 2))}, r"'episode_0/actions': its rows have the shape \(2,\), expected \(1,\)"),
    ],
)
def test_a_contradiction_in_an_episode_names_it(changes: dict[str, Any], sentence: str):
    with pytest.raises(DatasetError, match=sentence):
        joined(episode(3, **changes))


def test_episodes_have_to_be_of_one_kind():
    with pytest.raises(DatasetError, match=r"'episode_1/observations/policy': its rows have the shape \(2,\)"):
        joined(episode(2), episode(2, "episode_1", observations={"policy": np.zeros((3, 2))}))
    with pytest.raises(DatasetError, match=r"key 'episode_1/observations/policy': it is missing"):
        joined(episode(2), episode(2, "episode_1", observations={"other": np.zeros((3, 1))}))
    with pytest.raises(DatasetError, match="set has no episodes"):
        joined()


def test_only_the_very_last_row_may_be_unmarked():
    open_end = {"terminations": np.zeros(3, bool)}
    data = joined(episode(2), episode(3, "episode_1", **open_end))
    assert data.truncated.tolist() == [False] * 4 + [True] and data.episode_returns.tolist() == [1]
    assert first(data.next_obs["policy"]) == [1, 2, 1, 2, 3] and not data.next_action_known[-1]
    with pytest.raises(DatasetError, match=r"key 'episode_0/terminations', row 2: the last step .* is marked neither"):
        joined(episode(3, **open_end), episode(2, "episode_1"))


def test_the_bounds_of_actions_are_checked_wherever_they_come_from():
    for low, high, said in (
        ((1.0,), (-1.0,), "1 and -1"),
        ((0.0,), (0.0,), "0 and 0"),
        ((-np.inf,), (1.0,), "-inf and 1"),
    ):
        with pytest.raises(DatasetError, match=f"'episode_0/actions': the bounds of action 0 are {said}, expected two"):
            TransitionDataset.from_episodes([episode()], source="x", action=ActionSpec("continuous", 1, low, high))


def test_unbounded_actions_are_refused():
    with pytest.raises(DatasetError, match="no finite bounds"):
        TransitionDataset.from_episodes([episode()], source="set", action=ActionSpec("continuous", 1))


# --------------------------------------------------------------------------------------------------------- rewards


def test_rewards_are_scaled_by_the_range_of_returns_or_shifted():
    data = build(next_observations=successors())
    scaled = data.with_rewards("normalize_by_return_range")
    returns = [scaled.reward[:3].sum(), scaled.reward[3:].sum()]
    assert float(returns[1] - returns[0]) == pytest.approx(1000.0)
    assert scaled.reward.tolist() == pytest.approx([value * 1000 / 18 for value in (0, 1, 2, 10, 11)])
    assert data.with_rewards("shift").reward.tolist() == [-1, 0, 1, 9, 10]
    assert data.with_rewards("none") is data
    assert torch.equal(scaled.episode_returns, data.episode_returns)


def test_equal_returns_give_nothing_to_scale_by():
    with pytest.raises(DatasetError, match=r"whose returns don't differ: .*use reward_mode=none"):
        build(rewards=np.zeros(5)).with_rewards("normalize_by_return_range")


class HandMade(DatasetLoader):
    def read(self) -> TransitionDataset:
        return build()


@configclass
class HandMadeCfg(DatasetCfg):
    class_type: type = HandMade


def test_a_configuration_builds_the_data_with_its_rewards():
    assert HandMadeCfg(reward_mode="shift", reward_shift=-10.0).build().reward.tolist() == [-10, -9, 0, 1]
    scaled = HandMadeCfg(reward_mode="normalize_by_return_range", return_range=9.0).build()  # returns are 3 and 21
    assert scaled.reward.tolist() == pytest.approx([0.0, 0.5, 5.0, 5.5])
    with pytest.raises(ValueError, match="reward_mode"):
        HandMadeCfg(reward_mode="scale").build()


# ----------------------------------------------------------------------------------------------- fit to environments


def spec(**changes: Any) -> EnvSpec:
    options: dict[str, Any] = {"obs_groups": {"policy": (2,)}, "action": UNIT} | changes
    return EnvSpec(task="Made-v0", num_envs=1, max_episode_length=3, **options)


def test_data_of_another_environment_is_refused():
    data = build()
    data.require_fit(spec())
    with pytest.raises(DatasetError, match=r"group 'policy' is \(2,\) in the data and \(3,\) in the environment"):
        data.require_fit(spec(obs_groups={"policy": (3,)}))
    with pytest.raises(DatasetError, match=r"group 'critic' is None in the data and \(1,\)"):
        data.require_fit(spec(obs_groups={"policy": (2,), "critic": (1,)}))
    with pytest.raises(DatasetError, match=r"continuous \(1,\) in the data and continuous \(2,\) in the environment"):
        data.require_fit(spec(action=ActionSpec("continuous", 2, (-1.0, -1.0), (1.0, 1.0))))
    with pytest.raises(DatasetError, match=r"made.hdf5 was not recorded in Made-v0: actions are continuous"):
        data.require_fit(spec(action=ActionSpec("discrete", 3)))
    chosen = TransitionDataset.from_episodes(
        [episode(3, actions=np.array([0, 2, 1]))], source="set", action=ActionSpec("discrete", 3)
    )
    chosen.require_fit(spec(obs_groups={"policy": (1,)}, action=ActionSpec("discrete", 3)))
    with pytest.raises(DatasetError, match="actions go up to 2 in the data, and the environment has 2"):
        chosen.require_fit(spec(obs_groups={"policy": (1,)}, action=ActionSpec("discrete", 2)))


# ---------------------------------------------------------------------------------------------------------- batches


def check_batch(batch: ReplayBatch, data: TransitionDataset, index: list[int]) -> None:
    """A batch is the rows `index` of the data."""
    assert torch.equal(torch.as_tensor(batch.obs["policy"]), data.obs["policy"][index])
    assert batch.next_obs is not None
    assert torch.equal(torch.as_tensor(batch.next_obs["policy"]), data.next_obs["policy"][index])
    assert torch.equal(batch.action, data.action[index]) and torch.equal(batch.reward, data.reward[index])
    assert batch.discount.tolist() == pytest.approx([0.0 if data.terminated[i] else 0.9 for i in index])


def test_a_batch_holds_whole_transitions():
    data = build(next_observations=successors())
    buffer = DatasetBuffer(data, 0.9, 4, "cpu", next_action=False)
    assert len(buffer) == buffer.num_added == 5 and buffer.captured
    check_batch(buffer.gather(torch.tensor([2, 4, 0, 2])), data, [2, 4, 0, 2])  # cut: bootstrapped; terminated: not
    assert buffer.gather(torch.tensor([0])).next_action is None


def test_rows_without_a_next_action_are_not_drawn_where_it_is_needed():
    data = build(next_observations=successors())
    buffer = DatasetBuffer(data, 0.9, 4, "cpu")
    assert len(buffer) == 4
    batch = buffer.gather(torch.tensor([0, 1, 2, 3]))
    check_batch(batch, data, [0, 1, 3, 4])
    assert batch.next_action is not None and torch.equal(batch.next_action, data.next_action[[0, 1, 3, 4]])
    single = joined(episode(1, terminations=np.zeros(1, bool), truncations=np.ones(1, bool)))
    with pytest.raises(DatasetError, match="has no row with a next action"):
        DatasetBuffer(single, 0.9, 4, "cpu")


def test_every_row_is_drawn_equally_often_and_a_seed_repeats_the_draw():
    buffer = DatasetBuffer(build(next_observations=successors()), 0.9, 20_000, "cpu", next_action=False)
    batch = buffer.sample()
    assert batch.index is not None
    counts = torch.bincount(batch.index, minlength=5)
    assert (counts - 4000).abs().max() < 5 * (20_000 * 0.2 * 0.8) ** 0.5
    check_batch(batch, build(next_observations=successors()), batch.index.tolist())
    torch.manual_seed(3)
    one = buffer.sample().index
    torch.manual_seed(3)
    assert torch.equal(torch.as_tensor(one), torch.as_tensor(buffer.sample().index))


def test_a_resumed_run_notices_other_data():
    buffer = DatasetBuffer(build(), 0.9, 4, "cpu")
    buffer.load_state_dict(buffer.state_dict())
    other = DatasetBuffer(build(rewards=np.ones(5)), 0.9, 4, "cpu")
    with pytest.raises(ValueError, match=re.escape("learned from 4 transitions with rewards of 22.000 in all, and")):
        other.load_state_dict(buffer.state_dict())
    buffer.update_priorities(torch.tensor([0]), torch.tensor([1.0]))


def test_too_little_memory_says_what_fits(monkeypatch: pytest.MonkeyPatch):
    from RoboRenForce.buffer import dataset_buffer

    monkeypatch.setattr(dataset_buffer, "free_bytes", lambda device: 100)
    with pytest.raises(DatasetError, match=r"made.hdf5 needs .* about 1 of its 4 transitions fit"):
        DatasetBuffer(build(), 0.9, 4, "cpu")
