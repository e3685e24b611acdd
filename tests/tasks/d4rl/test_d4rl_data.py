"""Offline data on disk: what is recorded is what is read, in both formats; bad files name file, key and row."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from doc_pages import ROOT, Workplace, snippets_of
from RoboRenForce.buffer import DatasetError, EpisodeArrays, TransitionDataset
from RoboRenForce.envs.scripted_env import ScriptedEnvCfg
from RoboRenForce.runners.recording import Behavior, RandomBehavior, record_episodes
from RoboRenForce.utils.errors import EnvContractError, UserError
from torch import Tensor

pytest.importorskip("minari")
pytest.importorskip("h5py")
pytest.importorskip("RRF_d4rl_tasks")
pytest.importorskip("RRF_gym_tasks")

import h5py
import minari
from RRF_d4rl_tasks import OfflineDatasetCfg, minari_data
from RRF_d4rl_tasks.hdf5_rows import write_rows
from RRF_d4rl_tasks.minari_data import find_minari, write_minari
from RRF_d4rl_tasks.recorded_space import spaces_to_record
from RRF_gym_tasks import GymEnvCfg

pytestmark = pytest.mark.contract

SEED = 5
PAGE = ROOT / "docs/offline_data.md"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of our own, and a folder to work in."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "cache"


class Swing(Behavior):
    """Pushes in the direction of motion, a little too hard."""

    def act(self, obs: Any) -> Tensor:
        return 1.2 * torch.sign(obs["policy"][:, 2:3])


def pendulum(num_envs: int = 2) -> Any:
    return GymEnvCfg(env_id="Pendulum-v1", num_envs=num_envs, seed=SEED).build()


def recorded(behavior: Behavior | None = None, steps: int = 500) -> tuple[list[EpisodeArrays], Any]:
    env = pendulum()
    return record_episodes(env, behavior or RandomBehavior(env.spec.action), steps, seed=SEED), env.spec


def check_same(one: TransitionDataset, other: TransitionDataset) -> None:
    """Bit for bit the same transitions."""
    for name, value in vars(one).items():
        if isinstance(value, Tensor):
            assert torch.equal(value, getattr(other, name)), name
    for name in ("obs", "next_obs"):
        here, there = getattr(one, name), getattr(other, name)
        assert here.keys() == there.keys()
        assert all(torch.equal(here[group], there[group]) for group in here), name


# ------------------------------------------------------------------------------------------------------- recording


def test_recorded_episodes_are_those_of_gymnasium() -> None:
    episodes, _ = recorded(Swing())
    assert [episode.key for episode in episodes] == ["episode_0", "episode_1", "episode_2", "episode_3"]
    for i in range(2):
        env = gym.make("Pendulum-v1")
        for number in (2 * i, 2 * i + 1):
            played = episodes[number]
            obs, _ = env.reset(seed=SEED + i if number % 2 == 0 else None)
            for step in range(200):
                assert np.array_equal(played.observations["policy"][step], obs)
                obs, reward, terminated, truncated, _ = env.step(2.0 * played.actions[step])
                assert played.rewards[step] == np.float32(reward)
                assert played.terminations[step] == terminated == False  # noqa: E712 - numpy's bool
                assert played.truncations[step] == truncated == (step == 199)
            assert np.array_equal(played.observations["policy"][200], obs)  # the true final observation
            assert len(played.rewards) == 200
            assert np.abs(played.actions).max() == 1.0  # as executed, not as asked for


def test_recorded_episodes_are_those_of_the_script() -> None:
    env = ScriptedEnvCfg(num_envs=2, script=[["terminated@2", "time_out@3"]], seed=7).build()
    episodes = record_episodes(env, RandomBehavior(env.spec.action), 8, seed=7)
    assert [len(episode.rewards) for episode in episodes] == [2, 3, 2, 3]
    assert [bool(episode.terminations[-1]) for episode in episodes] == [True, False, True, False]
    assert [bool(episode.truncations[-1]) for episode in episodes] == [False, True, False, True]
    sums = np.concatenate([[0.0], episodes[1].actions.sum(1).cumsum()])
    expected = np.stack([np.full(4, 701.0), np.arange(4.0), sums], axis=1)
    assert np.allclose(episodes[1].observations["policy"], expected, atol=1e-5)
    assert set(episodes[0].observations) == {"policy", "critic"}


def test_every_environment_contributes_its_share_in_whole_episodes() -> None:
    env = ScriptedEnvCfg(num_envs=2, script=[["terminated@4"], ["terminated@1"]]).build()
    episodes = record_episodes(env, RandomBehavior(env.spec.action), 10)
    assert [len(episode.rewards) for episode in episodes] == [4, 4, 1, 1, 1, 1, 1]


def test_recording_needs_final_observations() -> None:
    env = pendulum()
    object.__setattr__(env.spec, "extras", ())
    with pytest.raises(EnvContractError, match="Pendulum-v1 doesn't provide final_observations"):
        record_episodes(env, RandomBehavior(env.spec.action), 10)


# ------------------------------------------------------------------------------------------------------ round trips


@pytest.mark.parametrize("behavior", [None, Swing()], ids=["random", "scripted"])
def test_both_formats_give_back_the_recorded_transitions(behavior: Behavior | None) -> None:
    episodes, spec = recorded(behavior)
    recorded_as = spaces_to_record(spec)
    write_rows(Path("data/p.hdf5"), episodes, recorded_as, {"description": "x"})
    write_minari("pendulum/test-v0", episodes, recorded_as, {})
    expected = TransitionDataset.from_episodes(episodes, source="memory", action=spec.action)
    check_same(OfflineDatasetCfg(source="data/p.hdf5").build(), expected)
    check_same(OfflineDatasetCfg(source="pendulum/test-v0").build(), expected)
    check_same(OfflineDatasetCfg(source=str(find_minari("pendulum/test-v0", download=False))).build(), expected)
    assert expected.truncated.nonzero().flatten().tolist() == [199, 399, 599, 799]
    assert expected.terminated.sum() == 0
    at_end = expected.next_obs["policy"][[199, 399, 599, 799]]
    finals = np.stack([episode.observations["policy"][-1] for episode in episodes])
    assert np.array_equal(at_end.numpy(), finals)


def test_minari_itself_reads_what_we_recorded() -> None:
    episodes, spec = recorded()
    write_minari("pendulum/test-v0", episodes, spaces_to_record(spec), {"algorithm_name": "PPO"})
    dataset = minari.load_dataset("pendulum/test-v0")
    assert (dataset.total_episodes, dataset.total_steps) == (4, 800)
    assert dataset.env_spec.id == "Pendulum-v1" and dataset.storage.metadata["algorithm_name"] == "PPO"
    env = dataset.recover_environment()
    assert dataset.action_space == env.action_space
    for episode, mine in zip(dataset.iterate_episodes(), episodes, strict=True):
        assert np.array_equal(episode.actions, 2.0 * mine.actions)  # in the range of the environment
        assert all(dataset.action_space.contains(action) for action in episode.actions)
        assert len(episode.observations) == 201


def test_files_of_d4rl_have_no_bounds_and_maybe_no_successors() -> None:
    episodes, spec = recorded()
    write_rows(Path("p.hdf5"), episodes, spaces_to_record(spec), {})
    whole = OfflineDatasetCfg(source="p.hdf5").build()
    with h5py.File("p.hdf5", "a") as file:
        assert file["actions"][()].min() < -1.0 and file.attrs["action_high"].tolist() == [2.0]
        del file["next_observations"], file.attrs["action_low"], file.attrs["action_high"]
        file["actions"][...] = file["actions"][()] / 2.0
    data = OfflineDatasetCfg(source="p.hdf5").build()
    assert len(data) == 796
    check_same(data, whole.select(~whole.truncated))


def test_discrete_actions_and_dictionaries_go_into_minari() -> None:
    env = GymEnvCfg(env_id="CartPole-v1", num_envs=2).build()
    episodes = record_episodes(env, RandomBehavior(env.spec.action), 60, seed=0)
    write_minari("cartpole/test-v0", episodes, spaces_to_record(env.spec), {})
    data = OfflineDatasetCfg(source="cartpole/test-v0").build()
    check_same(data, TransitionDataset.from_episodes(episodes, source="memory", action=env.spec.action))
    assert data.terminated.sum() == len(episodes) and data.action.dtype == torch.int64
    data.require_fit(env.spec)
    scripted = ScriptedEnvCfg(num_envs=2, script=[["terminated@2"]]).build()
    episodes = record_episodes(scripted, RandomBehavior(scripted.spec.action), 8)
    write_minari("scripted/test-v0", episodes, spaces_to_record(scripted.spec), {})
    data = OfflineDatasetCfg(source="scripted/test-v0").build()
    data.require_fit(scripted.spec)
    check_same(data, TransitionDataset.from_episodes(episodes, source="memory", action=scripted.spec.action))
    with pytest.raises(UserError, match="hold one observation group and continuous actions, and this data has"):
        write_rows(Path("s.hdf5"), episodes, spaces_to_record(scripted.spec), {})


def test_a_wrapped_environment_is_recorded_with_the_spaces_of_the_learner() -> None:
    masked = GymEnvCfg(env_id="Pendulum-v1", num_envs=1, obs_mask=[2]).build()
    recorded_as = spaces_to_record(masked.spec)
    assert recorded_as.env_spec is None and recorded_as.observation.shape == (2,)
    episodes = record_episodes(masked, RandomBehavior(masked.spec.action), 100, seed=0)
    write_minari("masked/test-v0", episodes, recorded_as, {})
    expected = TransitionDataset.from_episodes(episodes, source="memory", action=masked.spec.action)
    check_same(OfflineDatasetCfg(source="masked/test-v0").build(), expected)


def test_nothing_is_overwritten() -> None:
    episodes, spec = recorded()
    for _ in range(2):
        write = (write_rows, Path("p.hdf5")), (write_minari, "pendulum/test-v0")
        for function, where in write:
            if _ == 0:
                function(where, episodes, spaces_to_record(spec), {})
            else:
                with pytest.raises(UserError, match="exists already"):
                    function(where, episodes, spaces_to_record(spec), {})
    with pytest.raises(UserError, match=r"'no id' is no place for a data set: name a file that ends in \.hdf5"):
        write_minari("no id", episodes, spaces_to_record(spec), {})


# -------------------------------------------------------------------------------------------------------- bad files


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a good file and a good Minari data set, to be spoiled in copies."""
    folder = tmp_path_factory.mktemp("good")
    episodes, spec = recorded()
    patch = pytest.MonkeyPatch()
    patch.setenv("MINARI_DATASETS_PATH", str(folder / "cache"))
    write_rows(folder / "p.hdf5", episodes, spaces_to_record(spec), {})
    write_minari("pendulum/test-v0", episodes, spaces_to_record(spec), {})
    patch.undo()
    return folder


def assign(key: str, row: int, value: float) -> Callable[[Any], None]:
    def spoil(file: Any) -> None:
        file[key][row] = value

    return spoil


def remove(key: str) -> Callable[[Any], None]:
    def spoil(file: Any) -> None:
        del file[key]

    return spoil


def shorten(key: str, rows: int) -> Callable[[Any], None]:
    def spoil(file: Any) -> None:
        values = file[key][:rows]
        del file[key]
        file[key] = values

    return spoil


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (
            remove("rewards"),
            "key 'rewards': it is missing; it needs observations, actions, rewards, terminals, timeouts",
        ),
        (assign("observations", 17, np.nan), "key 'observations', row 17: it holds nan, expected finite"),
        (assign("actions", 333, 2.5), "key 'actions', row 333: action 0 is 2.5, expected -2 to 2"),
        (assign("timeouts", 199, False), "key 'next_observations', row 199: the successor is not the observation of"),
        (assign("terminals", 42, True), None),  # an end more is possible: nothing contradicts it
        (shorten("rewards", 700), "key 'rewards', row 700: it has 700 rows and 'observations' has 800"),
    ],
)
def test_a_spoiled_file_is_refused_with_file_key_and_row(
    good: Path, tmp_path: Path, spoil: Callable[[Any], None], sentence: str | None
) -> None:
    path = tmp_path / "bad.hdf5"
    shutil.copy(good / "p.hdf5", path)
    with h5py.File(path, "a") as file:
        spoil(file)
    if sentence is None:
        assert OfflineDatasetCfg(source=str(path)).build().terminated.sum() == 1
        return
    with pytest.raises(DatasetError, match=f"^{re.escape(str(path))}, {sentence}"):
        OfflineDatasetCfg(source=str(path)).build()


def test_an_episode_longer_than_stated_lacks_an_end(good: Path, tmp_path: Path) -> None:
    shutil.copy(good / "p.hdf5", tmp_path / "bad.hdf5")
    with h5py.File(tmp_path / "bad.hdf5", "a") as file:
        file["timeouts"][199] = False
        del file["next_observations"]
    cfg = OfflineDatasetCfg(source="bad.hdf5", max_episode_length=200)
    with pytest.raises(
        DatasetError, match=r"bad.hdf5, key 'timeouts', row 199: the episode that begins in row 0 has 400"
    ):
        cfg.build()


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (remove("episode_1/truncations"), "key 'episode_1/truncations': it is missing"),
        (assign("episode_2/observations", 200, np.inf), "key 'episode_2/observations/policy', row 200: it holds inf"),
        (assign("episode_0/actions", 3, -2.5), "key 'episode_0/actions', row 3: action 0 is -2.5, expected -2 to 2"),
        (assign("episode_2/truncations", 199, False), "key 'episode_2/terminations', row 199: the last step"),
        (assign("episode_3/terminations", 7, True), "key 'episode_3/terminations', row 7: the episode ends here, but"),
        (shorten("episode_1/observations", 200), "key 'episode_1/observations/policy', row 200: it has 200 rows, exp"),
    ],
)
def test_a_spoiled_minari_data_set_is_refused_with_file_key_and_row(
    good: Path, cache: Path, spoil: Callable[[Any], None], sentence: str
) -> None:
    shutil.copytree(good / "cache", cache)
    file = cache / "pendulum/test-v0/data/main_data.hdf5"
    with h5py.File(file, "a") as opened:
        spoil(opened)
    with pytest.raises(DatasetError, match=f"^{re.escape(str(file))}, {sentence}"):
        OfflineDatasetCfg(source="pendulum/test-v0").build()


def test_what_is_no_data_at_all_is_refused(tmp_path: Path, cache: Path, good: Path) -> None:
    Path("text.hdf5").write_text("not HDF5")
    with pytest.raises(DatasetError, match=r"'text.hdf5' can't be read as HDF5"):
        OfflineDatasetCfg(source="text.hdf5").build()
    with pytest.raises(DatasetError, match=r"There is no file 'absent.h5': record one with scripts/data/collect_data"):
        OfflineDatasetCfg(source="absent.h5").build()
    with pytest.raises(DatasetError, match=r"'some words' is neither a file, nor a Minari folder, nor a Minari id"):
        OfflineDatasetCfg(source="some words").build()
    (tmp_path / "folder/data").mkdir(parents=True)
    with pytest.raises(DatasetError, match="is not a readable Minari data set"):
        OfflineDatasetCfg(source="folder").build()
    shutil.copytree(good / "cache", cache)
    (cache / "pendulum/test-v0/data/main_data.hdf5").write_text("not HDF5")
    with pytest.raises(DatasetError, match=r"main_data.hdf5' can't be read as HDF5"):
        OfflineDatasetCfg(source="pendulum/test-v0").build()


# ---------------------------------------------------------------------------------------------------------- the hub


def hub_that(monkeypatch: pytest.MonkeyPatch, answer: Exception | Callable[[str], None]) -> None:
    def download(dataset_id: str) -> None:
        if isinstance(answer, Exception):
            raise answer
        answer(dataset_id)

    monkeypatch.setattr(minari_data.minari, "download_dataset", download)
    monkeypatch.setattr(minari_data, "is_installed", lambda name: name != "httpx2")


def unknown(source: str = "pendulum/tset-v0", **options: Any) -> str:
    with pytest.raises(DatasetError) as raised:
        OfflineDatasetCfg(source=source, **options).build()
    return str(raised.value)


def test_an_unknown_id_names_the_nearest_of_the_cache(good: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(good / "cache", cache)
    hub_that(monkeypatch, ValueError("Couldn't find any version for dataset pendulum/tset."))
    said = unknown()
    assert f"There is no data set 'pendulum/tset-v0' in the cache '{cache}', and the hub answers: Couldn't" in said
    assert "did you mean 'pendulum/test-v0'?" in said
    assert "record one with scripts/data/collect_dataset.py --output pendulum/tset-v0" in said
    assert "and download is off: In the cache, did you mean 'pendulum/test-v0'?" in unknown(download=False)


def test_without_a_network_the_message_says_so(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    httpx = pytest.importorskip("httpx")
    for error in (OSError("Name or service not known"), httpx.ConnectError("Name or service not known")):
        hub_that(monkeypatch, error)
        said = unknown("mujoco/hopper/medium-v0")
        assert "Minari's hub can't be reached (Name or service not known). In the cache, the cache is empty;" in said
        assert "or set MINARI_DATASETS_PATH to where it is" in said


def test_without_the_client_of_the_hub_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(minari_data, "is_installed", lambda name: False)
    assert 'needs huggingface_hub: run `pip install "RRF_d4rl[hub]"`' in unknown("mujoco/hopper/medium-v0")


def test_what_the_hub_has_is_fetched_once(good: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def fetch(dataset_id: str) -> None:
        asked.append(dataset_id)
        shutil.copytree(good / "cache" / dataset_id, cache / dataset_id)

    hub_that(monkeypatch, fetch)
    for _ in range(2):
        assert len(OfflineDatasetCfg(source="pendulum/test-v0").build()) == 800
    assert asked == ["pendulum/test-v0"]


# ---------------------------------------------------------------------------------------------------- documentation


def test_the_loader_of_the_page_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = Workplace(tmp_path, PAGE, monkeypatch)
    names = place.import_text("archive_of_the_page", snippets_of(PAGE))
    episodes, _ = recorded()
    count = np.concatenate([episode.observations["policy"][:-1] for episode in episodes])
    arrays = {"observations": count, "actions": count[:, :1] / 2, "rewards": count[:, 0]}
    np.savez("data.npz", **arrays, terminals=np.zeros(800, bool), timeouts=np.arange(800) % 200 == 199)
    data = names["ArchiveCfg"]().build()
    assert len(data) == 796 and data.source == "data.npz"
