"""Recording from environments in which nothing is symmetric: starts other than 0, bounds and lengths of their own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from RoboRenForce.algorithms import BCCfg
from RoboRenForce.buffer import EpisodeArrays, TransitionDataset
from RoboRenForce.runners.recording import Behavior, PolicyBehavior, RandomBehavior, record_episodes
from RoboRenForce.utils.errors import UserError
from torch import Tensor

pytest.importorskip("minari")
pytest.importorskip("h5py")
pytest.importorskip("RRF_d4rl_tasks")
pytest.importorskip("RRF_gym_tasks")

import h5py
import minari
from RRF_d4rl_tasks import OfflineDatasetCfg
from RRF_d4rl_tasks.collection import Collection, collect_parser, prepare_collection
from RRF_d4rl_tasks.hdf5_rows import write_rows
from RRF_d4rl_tasks.minari_data import write_minari
from RRF_d4rl_tasks.recorded_space import spaces_to_record
from RRF_gym_tasks import GymEnvCfg
from small_runs import ZeroPolicy

pytestmark = pytest.mark.contract

LOW, HIGH = np.array([-3.0, 1.0]), np.array([-1.0, 5.0])
LENGTHS = (3, 5, 2)
"""Steps of an environment's episodes: the first terminates, the second is cut, the third terminates at its limit."""


class Lopsided(gym.Env[Any, Any]):
    """Counts what is done to it; rewards are what was executed."""

    def __init__(self, observation: str = "box", action: str = "box") -> None:
        box = spaces.Box(-np.inf, np.inf, (3,), np.float32)
        self.observation_space = spaces.Discrete(40, start=-7) if observation == "discrete" else box
        self.action_space = spaces.Box(LOW, HIGH, dtype=np.float64)
        if action == "discrete":
            self.action_space = spaces.Discrete(3, start=-4)
        self.episode = -1

    def _observed(self) -> Any:
        if isinstance(self.observation_space, spaces.Discrete):
            return 10 * self.episode + self.step_number - 7
        return np.array([self.episode, self.step_number, self.sum], np.float32)

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=kwargs.get("seed"))
        if kwargs.get("seed") is not None:
            self.episode = -1
        self.episode, self.step_number, self.sum = self.episode + 1, 0, 0.0
        return self._observed(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action), action
        self.step_number += 1
        done = float(np.sum(action * [1.0, 100.0])) if np.ndim(action) else float(action)
        self.sum += done
        kind = self.episode % 3
        last = self.step_number == LENGTHS[kind]
        return self._observed(), done, last and kind != 1, last and kind != 0, {}


@pytest.fixture(autouse=True)
def lopsided(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    gym.register("Lopsided-v0", Lopsided)
    yield
    del gym.registry["Lopsided-v0"]


def recorded(behavior: Behavior | None = None, num_envs: int = 1, **options: Any) -> tuple[list[EpisodeArrays], Any]:
    env = GymEnvCfg(env_id="Lopsided-v0", num_envs=num_envs, **options).build()
    return record_episodes(env, behavior or RandomBehavior(env.spec.action), 10 * num_envs, seed=1), env.spec


def read(source: str) -> TransitionDataset:
    return OfflineDatasetCfg(source=source).build()


def stored(name: str, key: str) -> np.ndarray:
    with h5py.File(name if name.endswith(".hdf5") else f"cache/{name}/data/main_data.hdf5") as file:
        episodes = [key] if key in file else sorted(f"{episode}/{key}" for episode in file)
        return np.concatenate([file[place][()] for place in episodes])


@pytest.mark.parametrize("rescale", [True, False])
@pytest.mark.parametrize("name", ["x.hdf5", "lopsided/test-v0"])
def test_actions_are_recorded_as_executed_and_read_in_units(name: str, rescale: bool) -> None:
    episodes, spec = recorded(rescale_actions=rescale)
    (write_rows if name.endswith(".hdf5") else write_minari)(
        Path(name) if name.endswith(".hdf5") else name,  # pyright: ignore[reportArgumentType]
        episodes,
        spaces_to_record(spec),
        {},
    )
    actions = stored(name, "actions")
    assert np.allclose(actions @ [1.0, 100.0], stored(name, "rewards"), rtol=1e-6)  # what the environment was given
    assert (actions >= LOW).all() and (actions <= HIGH).all() and np.ptp(actions, axis=0).min() > 0.5
    data = read(name)
    assert np.allclose(data.action, (actions - LOW) / (HIGH - LOW) * 2 - 1, atol=1e-6)
    assert [len(episode.rewards) for episode in episodes] == [3, 5, 2]
    assert data.terminated.nonzero().flatten().tolist() == [2, 9]  # the last one also was cut: it terminated
    assert data.truncated.nonzero().flatten().tolist() == [7]
    assert data.next_action_known.logical_not().nonzero().flatten().tolist() == [7]
    assert data.obs["policy"][:, 1].tolist() == [0, 1, 2, 0, 1, 2, 3, 4, 0, 1]
    assert data.next_obs["policy"][:, 1].tolist() == [1, 2, 3, 1, 2, 3, 4, 5, 1, 2]
    assert torch.allclose(data.next_obs["policy"][:, 2] - data.obs["policy"][:, 2], data.reward, rtol=1e-4, atol=0.05)
    returns = [data.reward[first:last].sum() for first, last in ((0, 3), (3, 8), (8, 10))]
    assert torch.allclose(data.episode_returns, torch.stack(returns), rtol=1e-5)


@pytest.mark.parametrize("observation", ["box", "discrete"])
def test_a_discrete_start_is_recorded_and_read(observation: str) -> None:
    kinds = {"observation": observation, "action": "discrete"}
    episodes, spec = recorded(env_kwargs=kinds)
    write_minari("lopsided/test-v0", episodes, spaces_to_record(spec, kinds), {})
    actions = stored("lopsided/test-v0", "actions")
    assert set(actions) == {-4, -3, -2} and np.array_equal(actions, stored("lopsided/test-v0", "rewards"))
    assert minari.load_dataset("lopsided/test-v0").action_space == spaces.Discrete(3, start=-4)
    data = read("lopsided/test-v0")
    assert torch.equal(data.action, data.reward.long() + 4)
    if observation == "discrete":
        assert data.obs["policy"].shape == (10, 40)
        assert data.obs["policy"].argmax(1).tolist() == [0, 1, 2, 10, 11, 12, 13, 14, 20, 21]
        assert data.next_obs["policy"].argmax(1).tolist() == [1, 2, 3, 11, 12, 13, 14, 15, 21, 22]


def test_an_environment_of_another_size_is_recorded_with_its_own_spaces() -> None:
    episodes, spec = recorded(env_kwargs={"action": "discrete"})
    recorded_as = spaces_to_record(spec)  # those of the id are continuous
    assert recorded_as.action == spaces.Discrete(3) and recorded_as.env_spec is None
    write_minari("lopsided/test-v0", episodes, recorded_as, {})
    assert read("lopsided/test-v0").action.min() == 0


def test_an_environment_with_wrappers_is_not_stated_as_one_without() -> None:
    _, spec = recorded()
    gym.registry["Lopsided-v0"].entry_point = "test_recorded_data:Lopsided"  # which can be written down
    assert spaces_to_record(spec).env_spec.id == "Lopsided-v0"
    assert spaces_to_record(spec, wrapped=True).env_spec is None


def test_environments_side_by_side_keep_their_rows_apart() -> None:
    class Own(Behavior):
        """Environment `i` always does the same."""

        def act(self, obs: Any) -> Tensor:
            return torch.tensor([[-1.0, -1.0], [1.0, -0.5]])

    episodes, _ = recorded(Own(), num_envs=2)
    assert [len(episode.rewards) for episode in episodes] == [3, 5, 2] * 2
    assert [set(episode.rewards) for episode in episodes] == [{-3.0 + 100.0}] * 3 + [{-1.0 + 200.0}] * 3
    assert [episode.observations["policy"][0, 0] for episode in episodes] == [0, 1, 2, 0, 1, 2]


def test_noise_and_random_actions_keep_to_the_bounds_that_are_played() -> None:
    env = GymEnvCfg(env_id="Lopsided-v0", num_envs=4000, rescale_actions=False).build()
    obs = env.get_observations()
    noisy = PolicyBehavior(Constant((2,)), env.spec.action, deterministic=True, noise=0.25).act(obs)
    assert noisy.mean(0).tolist() == pytest.approx([-2.0, 3.0], abs=0.05)
    assert noisy.std(0).tolist() == pytest.approx([0.25, 0.5], rel=0.1)  # of half the range
    mixed = PolicyBehavior(Constant((2,)), env.spec.action, deterministic=True, epsilon=0.25).act(obs)
    changed = (mixed != torch.tensor([-2.0, 3.0])).any(1)
    assert float(changed.float().mean()) == pytest.approx(0.25, abs=0.03)
    assert mixed[changed].min(0).values.tolist() == pytest.approx([-3.0, 1.0], abs=0.05)
    assert mixed[changed].max(0).values.tolist() == pytest.approx([-1.0, 5.0], abs=0.05)
    sampled = PolicyBehavior(ZeroPolicy((2,)), env.spec.action, deterministic=False).act(obs)
    assert (sampled == ZeroPolicy.sampled_action).all()


class Constant(ZeroPolicy):
    """Acts in the middle of the bounds when it is deterministic."""

    def forward(self, obs: Any) -> Tensor:
        return torch.tensor([-2.0, 3.0]).expand(obs.batch_size[0], 2) if self.deterministic else super().forward(obs)


def test_a_policy_with_a_memory_is_told_where_episodes_end() -> None:
    policy = ZeroPolicy((2,))
    env = GymEnvCfg(env_id="Lopsided-v0", num_envs=1).build()
    record_episodes(env, PolicyBehavior(policy, env.spec.action, deterministic=True), 8, seed=1)
    assert policy.resets[0] is None
    assert [bool(done) for done in policy.resets[1:]] == [False] * 2 + [True] + [False] * 4 + [True]


# ------------------------------------------------------------------------------------------------------------- writing


def test_a_failing_write_leaves_nothing_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    episodes, spec = recorded()

    def full(*_: Any, **__: Any) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(h5py.Group, "create_dataset", full)
    with pytest.raises(UserError, match=r"'data/x.hdf5' can't be written: No space left on device; choose another"):
        write_rows(Path("data/x.hdf5"), episodes, spaces_to_record(spec), {})
    with pytest.raises(UserError, match=r"test-v0' can't be written: No space left on device"):
        write_minari("lopsided/test-v0", episodes, spaces_to_record(spec), {})
    assert not list(Path("data").iterdir()) and not Path("cache/lopsided/test-v0").exists()
    Path("file").write_text("")
    with pytest.raises(UserError, match=r"'file/x.hdf5' can't be written"):
        write_rows(Path("file/x.hdf5"), episodes, spaces_to_record(spec), {})


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--noise", "nan"], "--noise is nan, expected at least 0"),
        (["--noise", "inf"], "--noise is inf, expected at most"),
        (["--epsilon", "1.5"], "--epsilon is 1.5, expected at most 1"),
        (["--medium", "nan"], "--medium is nan, expected a finite number"),
        (["--medium_return", "inf"], "--medium_return is inf, expected a finite"),
        (["--policy", "mixed", "--shares", "random=nan"], "the share of random is 'nan', expected a number above 0"),
        (["--policy", "mixed", "--shares", "random=inf"], "the share of random is 'inf'"),
    ],
)
def test_numbers_that_nothing_can_be_done_with_are_refused(words: list[str], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        prepare_collection(collect_parser(None).parse(["--target", "run", "--output", "x.hdf5", *words]))


def collection(*words: str, env_cfg: Any = None) -> Collection:
    """A collection of a task that isn't registered."""
    args = collect_parser(None).parse(["--target", "run", "--output", "lopsided/test-v0", *words])
    env_cfg = env_cfg or GymEnvCfg(env_id="Lopsided-v0", num_envs=1)
    task: Any = SimpleNamespace(id="Some-Task", env_cfg=env_cfg, runner_cfg=SimpleNamespace(algorithm=BCCfg()))
    return Collection(args, task, env_cfg.build(), Path("model_3.pt"))


def test_a_collection_states_what_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two levels, one after the other, in the environment as it was made."""
    env_cfg = GymEnvCfg(env_id="Lopsided-v0", num_envs=1, env_kwargs={"action": "discrete"})
    made = collection("--policy", "mixed", "--shares", "random=3,expert=1", "--steps", "40", env_cfg=env_cfg)
    seeds: list[Any] = []

    def record(env: Any, behavior: Behavior, steps: int, *, seed: int) -> list[EpisodeArrays]:
        seeds.append((steps, seed))
        return record_episodes(env, behavior, steps, seed=seed)

    monkeypatch.setattr("RRF_d4rl_tasks.collection.record_episodes", record)
    monkeypatch.setattr(Collection, "_behavior", lambda self, level: RandomBehavior(self.env.spec.action))
    episodes = made.record()
    assert seeds == [(30, 0), (10, 1000)]
    assert [episode.key for episode in episodes] == [f"episode_{number}" for number in range(len(episodes))]
    made.write(episodes)
    stated = minari.load_dataset("lopsided/test-v0")
    assert stated.action_space == spaces.Discrete(3, start=-4)
    assert stated.storage.metadata["description"] == "mixed of Some-Task"
    assert stated.storage.metadata["algorithm_name"] == "BC"
    assert len(read("lopsided/test-v0")) == sum(len(episode.rewards) for episode in episodes)


def test_the_expert_is_the_best_checkpoint_or_the_newest(monkeypatch: pytest.MonkeyPatch) -> None:
    for best, expected in ((Path("model_2.pt"), "model_2.pt"), (None, "model_3.pt")):
        run = SimpleNamespace(pointed=lambda name, best=best: best if name == "best" else None, checkpoints=dict)
        monkeypatch.setattr("RRF_d4rl_tasks.collection.run_of", lambda path, run=run: run)
        assert collection()._checkpoint_of("expert").name == expected
        assert collection("--checkpoint", "3")._checkpoint_of("expert").name == "model_3.pt"


def test_the_medium_policy_lies_its_part_of_the_way_from_random_to_expert(monkeypatch: pytest.MonkeyPatch) -> None:
    """Returns are negative, as in most tasks that cost something."""
    made = collection("--medium", "0.25")
    returns = {"a": -99.0, "b": -80.0, "c": -70.0, "expert": -20.0}
    monkeypatch.setattr(Collection, "_judge", lambda self, path: returns[path.name])
    monkeypatch.setattr("RRF_d4rl_tasks.collection._mean_return", lambda episodes: -100.0)
    paths = [Path(name) for name in returns]
    assert made._medium(paths, Path("expert")).name == "b"  # -100 + 80 / 4
    made.args.medium = 0.3
    assert made._medium(paths, Path("expert")).name == "c"
    made.args.medium_return = -98.0
    assert made._medium(paths, Path("expert")).name == "b"
