"""Files of others: what they claim, link to or hold that isn't numbers is refused in one sentence with file and key."""

from __future__ import annotations

import io
import json
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from RoboRenForce.buffer import DatasetError, TransitionDataset, dataset_checks

pytest.importorskip("minari")
pytest.importorskip("h5py")
pytest.importorskip("RRF_d4rl_tasks")

import h5py
from gymnasium import spaces
from minari.serialization import serialize_space
from PIL import Image
from RRF_d4rl_tasks import OfflineDatasetCfg

pytestmark = pytest.mark.contract

Spoil = Callable[[Any], None]


@pytest.fixture(autouse=True)
def in_a_fresh_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def columns(rows: int = 10) -> dict[str, np.ndarray]:
    """Two episodes: three rows that terminated, then rows that were cut at the end."""
    draw, count = np.random.default_rng(3), np.arange(rows)
    return {
        "observations": draw.normal(size=(rows, 2)),
        "actions": draw.uniform(-1, 1, (rows, 2)),
        "rewards": draw.normal(size=rows),
        "terminals": count == 2,
        "timeouts": count == rows - 1,
    }


def write(path: str = "x.hdf5", /, **changes: Any) -> None:
    """A file of rows; a change is an array, None to leave the key out, or a function that makes it in the file."""
    with h5py.File(path, "w") as file:
        for key, value in (columns() | changes).items():
            if callable(value):
                value(file)
            elif value is not None:
                file[key] = value


def read(source: str = "x.hdf5", **options: Any) -> TransitionDataset:
    return OfflineDatasetCfg(source=source, **options).build()


def refused(source: str = "x.hdf5", **options: Any) -> str:
    """The one line with which data is refused."""
    with pytest.raises(DatasetError) as raised:
        read(source, **options)
    assert "\n" not in str(raised.value)
    return str(raised.value)


# -------------------------------------------------------------------------------------------------------- conventions


def test_without_time_outs_the_longest_episode_cuts() -> None:
    marked = columns(13) | {"timeouts": np.isin(np.arange(13), [6, 10])}  # four steps each after the termination
    write(**marked)
    expected = read(max_episode_length=4)
    write(**marked | {"timeouts": None})
    found = read(max_episode_length=4)
    for name in ("action", "reward", "terminated", "truncated", "next_action", "episode_returns"):
        assert torch.equal(getattr(found, name), getattr(expected, name)), name
    assert torch.equal(found.obs["policy"], expected.obs["policy"]) and len(found) == 10
    said = refused()
    assert "key 'timeouts': it is missing" in said and "or set dataset.max_episode_length to the steps" in said


def test_time_outs_that_the_successors_contradict_are_refused() -> None:
    data = columns()
    data["next_observations"] = np.concatenate([data["observations"][1:], data["observations"][-1:] + 1])
    data["next_observations"][[2, 5]] += 1
    write(**data | {"timeouts": None})
    assert len(read(max_episode_length=3)) == 10
    assert "key 'next_observations', row 5: the successor is not the observation of row 6" in refused(
        max_episode_length=4
    )


def test_one_number_a_row_may_be_a_column() -> None:
    flat = columns() | {"actions": columns()["actions"][:, 0], "observations": columns()["observations"][:, 0]}
    write(**flat)
    one = read()
    write(**{key: value[:, None] for key, value in flat.items()})
    other = read()
    assert one.obs["policy"].shape == (9, 1) and one.action.shape == (9, 1) and one.reward.shape == (9,)
    for name in ("action", "reward", "terminated", "truncated", "next_action"):
        assert torch.equal(getattr(one, name), getattr(other, name)), name
    write(timeouts=np.zeros((10, 2)))
    assert "key 'timeouts': its rows have the shape (2,), expected ()" in refused()


@pytest.mark.parametrize("kind", ["<f8", ">f4", ">f8", "f2", "i4", "u2", "longdouble"])
def test_numbers_of_any_kind_are_read(kind: str) -> None:
    data = {key: np.round(columns()[key] * 4) for key in ("observations", "rewards")}
    if kind == "u2":
        data = {key: np.abs(value) for key, value in data.items()}
    write(**{key: value.astype(kind) for key, value in data.items()})
    found = read()
    assert found.obs["policy"].dtype == found.reward.dtype == torch.float32
    assert np.array_equal(found.obs["policy"], data["observations"][:9])
    assert np.array_equal(found.reward, data["rewards"][:9])


def test_the_group_of_observations_has_the_name_that_was_asked_for() -> None:
    write()
    write_set()
    assert set(read(group="state").obs) == set(read("set", group="state").next_obs) == {"state"}


# -------------------------------------------------------------------------------------------------------------- bounds


@pytest.mark.parametrize(
    ("low", "high", "sentence"),
    [
        ([-2.0, 1.0], [2.0, -1.0], "key 'actions': the bounds of action 1 are 1 and -1, expected two finite numbers"),
        ([-2.0, 1.0], [2.0, 1.0], "key 'actions': the bounds of action 1 are 1 and 1, expected"),
        ([-np.inf, -1.0], [2.0, 1.0], "key 'actions': the bounds of action 0 are -inf and 2, expected"),
        ([-1.0, -1.0], [1.0, np.nan], "key 'actions': the bounds of action 1 are -1 and nan, expected"),
        ([-1.0, -3.5e38], [1.0, 3.5e38], "key 'actions': the bounds of action 1 are -3.5e+38 and"),
        ([-1.0, -1.0], [1.0, 1.0, 1.0], "key 'actions': it has 2 lower and 3 upper bounds, expected 2"),
        ([-1.0] * 3, [1.0] * 3, "key 'actions': its rows have the shape (2,), expected (3,)"),
        ([-1.0, -1.0], None, "key 'action_high': it is missing; it needs action_low, action_high"),
        (None, [1.0, 1.0], "key 'action_low': it is missing"),
        ("low", "high", "key 'action_low': the attribute holds <U3, expected numbers"),
        (h5py.Empty("f8"), [1.0, 1.0], "key 'action_low': the attribute holds"),
        ([-1.0, -1.0j], [1.0, 1.0], "key 'action_low': the attribute holds complex128, expected numbers"),
    ],
)
def test_bounds_between_which_nothing_can_be_scaled_are_refused(low: Any, high: Any, sentence: str) -> None:
    write()
    with h5py.File("x.hdf5", "a") as file:
        for name, value in (("action_low", low), ("action_high", high)):
            if value is not None:
                file.attrs[name] = value
    assert refused().startswith(f"x.hdf5, {sentence}")


def test_bounds_that_are_not_symmetric_scale_each_action_by_its_own() -> None:
    low, high = np.array([-3.0, 1.0]), np.array([-1.0, 5.0])
    unit = columns()["actions"]
    write(actions=low + (unit + 1) / 2 * (high - low))
    with h5py.File("x.hdf5", "a") as file:
        file.attrs["action_low"], file.attrs["action_high"] = low, high
    assert np.allclose(read().action, unit[:9], atol=1e-6)


# --------------------------------------------------------------------------------------------------- what isn't numbers


def texts(key: str) -> Spoil:
    return lambda file: file.create_dataset(key, data=["0.5"] * 10, dtype=h5py.string_dtype())


def ragged(key: str) -> Spoil:
    return lambda file: file.create_dataset(key, (10,), dtype=h5py.vlen_dtype(np.float32))


def references(key: str) -> Spoil:
    return lambda file: file.create_dataset(key, (10,), dtype=h5py.ref_dtype)


def huge(row: int) -> np.ndarray:
    rewards = columns()["rewards"]
    rewards[row] = 1e300
    return rewards


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"rewards": texts("rewards")}, "key 'rewards': it holds object, expected numbers"),
        ({"observations": ragged("observations")}, "key 'observations': it holds object, expected numbers"),
        ({"actions": references("actions")}, "key 'actions': it holds object, expected numbers"),
        ({"rewards": np.zeros(10, [("a", "f4"), ("b", "i8")])}, "key 'rewards': it holds [('a', '<f4'), ('b', '"),
        ({"rewards": np.array([b"1"] * 10)}, "key 'rewards': it holds |S1, expected numbers"),
        ({"observations": np.full((10, 2), 1j)}, "key 'observations': it holds complex128, expected numbers"),
        ({"rewards": huge(4)}, "key 'rewards', row 4: it holds 1e+300, expected finite numbers"),
        ({"rewards": h5py.Empty("f4")}, "key 'rewards': it is empty"),
        ({"rewards": np.float32(1.0)}, "key 'rewards': it is a single value, expected one row per step"),
        ({"rewards": lambda file: file.create_group("rewards")}, "key 'rewards': it is a group, expected an array"),
        ({"rewards": np.dtype("f4")}, "key 'rewards': it is a type, expected an array"),
        ({"terminals": np.full(10, np.nan)}, "key 'terminals', row 0: it holds nan (and 9 more such rows)"),
        ({"timeouts": np.full(10, -1)}, "key 'timeouts', row 0: it is -1, expected 0 or 1"),
    ],
)
def test_what_is_not_a_real_number_is_refused(changes: dict[str, Any], sentence: str) -> None:
    write(**changes)
    assert refused().startswith(f"x.hdf5, {sentence}")


# ---------------------------------------------------------------------------------------- other files, circles, damage


def soft_loop(file: Any) -> None:
    file["rewards"], file["circle"] = h5py.SoftLink("/circle"), h5py.SoftLink("/rewards")


def external(file: Any) -> None:
    file["rewards"] = h5py.ExternalLink("other.hdf5", "rewards")


def absent(file: Any) -> None:
    file["rewards"] = h5py.ExternalLink("nowhere.hdf5", "rewards")


def external_storage(file: Any) -> None:
    file.create_dataset("rewards", (10,), "f8", external=[("secret.txt", 0, 80)])


def virtual(file: Any) -> None:
    layout = h5py.VirtualLayout((10,), "f8")
    layout[:] = h5py.VirtualSource("other.hdf5", "rewards", (10,))
    file.create_virtual_dataset("rewards", layout)


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (soft_loop, "'rewards' is a link to another place; copy the data itself to this place"),
        (external, "'rewards' is a link to another file; copy"),
        (absent, "'rewards' is a link to another file; copy"),
        (external_storage, "its rows lie in other files; copy them into this one"),
        (virtual, "its rows lie in other files"),
    ],
)
def test_a_file_makes_us_read_no_other(spoil: Spoil, sentence: str) -> None:
    Path("secret.txt").write_bytes(b"12345678" * 10)
    write("other.hdf5")
    write(rewards=spoil)
    assert refused().startswith(f"x.hdf5, key 'rewards': {sentence}")


def others(file: Any) -> None:
    """Keys beside the ones that are read: a circle of groups, a link that leads nowhere, text."""
    group = file.create_group("infos")
    group["circle"] = group
    file["dangling"] = h5py.ExternalLink("nowhere.hdf5", "/")
    file["note"] = "text"


def test_what_is_not_asked_for_is_not_touched() -> None:
    write(infos=others)
    assert len(read()) == 9


@pytest.mark.parametrize("chunks", [None, (4096,)])
def test_a_small_file_that_claims_terabytes_is_refused_before_anything_is_allocated(chunks: Any) -> None:
    def claim(file: Any) -> None:
        file.create_dataset("rewards", (2**39,), "f8", chunks=chunks, compression="gzip" if chunks else None)

    write(rewards=claim)
    assert Path("x.hdf5").stat().st_size < 20_000
    sentence = r"x.hdf5, key 'rewards': it claims the shape \(549755813888,\), and 0 of its [\d,]+ (chunks|bytes) were"
    assert re.match(sentence, refused())


def test_rows_that_were_never_written_are_refused() -> None:
    """A recorder that was killed leaves zeros."""

    def claim(file: Any) -> None:
        file.create_dataset("rewards", (10,), "f8", chunks=(2,))[:5] = 1.0

    write(rewards=claim)
    assert "key 'rewards': it claims the shape (10,), and 3 of its 5 chunks were written; record the data" in refused()


def test_what_does_not_fit_into_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    write(observations=lambda file: file.create_dataset("observations", data=np.zeros((10, 2)), chunks=(8, 2)))
    monkeypatch.setattr(dataset_checks, "free_bytes", lambda device: 511)  # two chunks of 128 bytes, twice
    assert "key 'observations': it needs 0.0 GiB of memory, and 0.0 GiB are free" in refused()
    monkeypatch.setattr(dataset_checks, "free_bytes", lambda device: 512)
    assert len(read()) == 9


def test_damage_anywhere_is_one_sentence() -> None:
    """Bytes are overwritten all over a file; what is still read is finite and within the bounds."""
    write()
    whole, draw, outcomes = Path("x.hdf5").read_bytes(), random.Random(0), set()
    for number in range(150):
        damaged = bytearray(whole[: draw.randrange(len(whole))] if number % 10 == 0 else whole)
        for _ in range(3):
            damaged[draw.randrange(len(damaged))] = draw.choice([0, 255, draw.randrange(256)])
        Path("x.hdf5").write_bytes(damaged)
        try:
            data = read()
        except DatasetError as error:
            assert "x.hdf5" in str(error) and "\n" not in str(error)
            outcomes.add(False)
        else:
            assert torch.isfinite(data.reward).all() and data.action.abs().max() <= 1.0
            outcomes.add(True)
    assert outcomes == {False, True}


# -------------------------------------------------------------------------------------------------------------- Minari

DEFAULT_OBS = spaces.Box(-10, 10, (2,), np.float64)
DEFAULT_ACTION = spaces.Box(np.array([-3.0, 1.0]), np.array([-1.0, 5.0]), dtype=np.float64)


def write_set(
    observation: spaces.Space[Any] = DEFAULT_OBS,
    action: spaces.Space[Any] = DEFAULT_ACTION,
    episodes: dict[str, dict[str, Any]] | None = None,
    **metadata: Any,
) -> None:
    """A Minari data set `set`, by default of an episode that terminates and one that is cut."""
    draw = np.random.default_rng(5)
    folder = Path("set/data")
    folder.mkdir(parents=True, exist_ok=True)
    stated = {
        "total_episodes": 2,
        "total_steps": 7,
        "data_format": "hdf5",
        "jpeg_encoding": False,
        "observation_space": serialize_space(observation),
        "action_space": serialize_space(action),
        "dataset_id": "some/set-v0",
        "minari_version": "0.5.4",
    }
    stated = {name: value for name, value in (stated | metadata).items() if value is not None}
    (folder / "metadata.json").write_text(json.dumps(stated))
    with h5py.File(folder / "main_data.hdf5", "w") as file:
        for number, length in enumerate((3, 4)):
            last = np.arange(length) == length - 1
            parts: dict[str, Any] = {
                "observations": draw.normal(size=(length + 1, 2)),
                "actions": draw.uniform([-3, 1], [-1, 5], (length, 2)),
                "rewards": draw.normal(size=length),
                "terminations": last & (number == 0),
                "truncations": last & (number == 1),
            }
            for key, value in (parts | (episodes or {}).get(f"episode_{number}", {})).items():
                if callable(value):
                    value(file.require_group(f"episode_{number}"))
                else:
                    file[f"episode_{number}/{key}"] = value


def test_a_set_by_hand_is_read() -> None:
    write_set()
    data = read("set")
    assert len(data) == 7 and data.terminated.tolist() == [0, 0, 1, 0, 0, 0, 0] and data.truncated[-1]
    with h5py.File("set/data/main_data.hdf5") as file:
        actions = np.concatenate([file[f"episode_{number}/actions"][()] for number in range(2)])
    assert np.allclose(data.action, (actions - [-2.0, 3.0]) / [1.0, 2.0], atol=1e-6)


def test_discrete_observations_become_one_hot_from_their_start_on() -> None:
    place = spaces.Discrete(4, start=-2)
    values = np.array([-2, 1, 0, -1])
    write_set(place, episodes={"episode_0": {"observations": values}, "episode_1": {"observations": [[1]] * 5}})
    data = read("set")
    assert data.obs["policy"].dtype == torch.float32
    assert data.obs["policy"].argmax(1).tolist() == [0, 3, 2, 3, 3, 3, 3]
    assert data.next_obs["policy"][:3].argmax(1).tolist() == [3, 2, 1] and (data.obs["policy"].sum(1) == 1).all()
    write_set(place, episodes={"episode_0": {"observations": values - 1}})
    assert "key 'episode_0/observations', row 0: it is -3, expected an integer from -2 to 1" in refused("set")


def test_dictionaries_hold_boxes_and_discretes() -> None:
    parts: dict[str, spaces.Space[Any]] = {"place": spaces.Discrete(3, start=5), "height": spaces.Box(-1, 1, ())}
    parts["ram"] = spaces.Box(0, 9, (2,), np.uint8)
    rows = {
        f"episode_{number}": {
            "observations": lambda group, length=length: group.update(
                {
                    "observations/place": 5 + np.arange(length) % 3,
                    "observations/height": np.linspace(-1, 1, length),
                    "observations/ram": np.full((length, 2), 7, np.uint8),
                }
            )
        }
        for number, length in enumerate((4, 5))
    }
    write_set(spaces.Dict(parts), episodes=rows)
    data = read("set")
    assert data.obs["place"].argmax(1).tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert data.obs["height"].shape == (7, 1) and data.obs["ram"].dtype == torch.float32
    rows["episode_1"] = {"observations": lambda group: group.update({"observations/place": [5] * 5})}
    write_set(spaces.Dict(parts), episodes=rows)
    assert re.search(r"key 'episode_1/observations/\w+': it is missing", refused("set"))


def test_discrete_actions_count_from_their_start_on() -> None:
    episodes = {"episode_0": {"actions": [-4, -3, -2]}, "episode_1": {"actions": np.array([[-2], [-2], [-4], [-3]])}}
    write_set(action=spaces.Discrete(3, start=-4), episodes=episodes)
    data = read("set")
    assert data.action.tolist() == [0, 1, 2, 2, 2, 0, 1] and data.action.dtype == torch.int64
    episodes["episode_1"]["actions"] = np.array([-4, -5, -4, -4])
    write_set(action=spaces.Discrete(3, start=-4), episodes=episodes)
    assert "key 'episode_1/actions', row 1: it is -5, expected an integer from -4 to -2" in refused("set")
    episodes["episode_1"]["actions"] = np.array([0, 1, 2, 2], np.uint8)  # whose difference to the start would wrap
    write_set(action=spaces.Discrete(3, start=1), episodes=episodes)
    assert "expected an integer from 1 to 3" in refused("set")


def test_where_recording_stopped_the_episode_was_cut_in_both_formats() -> None:
    write_set(episodes={"episode_1": {"truncations": np.zeros(4, bool)}})
    stopped = read("set")
    assert stopped.truncated.tolist() == [False] * 6 + [True] and len(stopped.episode_returns) == 1
    write_set()
    assert len(read("set").episode_returns) == 2 and torch.equal(read("set").truncated, stopped.truncated)
    write_set(episodes={"episode_0": {"terminations": np.zeros(3, bool)}})  # recording went on after it
    assert "key 'episode_0/terminations', row 2: the last step of the episode is marked neither" in refused("set")
    write(timeouts=np.zeros(10, bool))
    assert len(read().episode_returns) == 1 and len(read()) == 9


def test_compressed_images_are_decoded_as_stated() -> None:
    space = spaces.Box(0, 255, (32, 40, 3), np.uint8)

    def frame(value: int, shape: tuple[int, ...] = space.shape) -> np.ndarray:
        buffer = io.BytesIO()
        Image.fromarray(np.full(shape, value, np.uint8)).save(buffer, format="JPEG")
        return np.frombuffer(buffer.getvalue(), np.uint8)

    def frames(*found: np.ndarray) -> dict[str, Spoil]:
        def store(group: Any) -> None:
            rows = group.create_dataset("observations", (len(found),), h5py.vlen_dtype(np.uint8))
            for row, one in enumerate(found):
                rows[row] = one

        return {"observations": store}

    good = {"episode_0": frames(*(frame(10 * i) for i in range(4))), "episode_1": frames(*[frame(200)] * 5)}
    write_set(space, episodes=good, jpeg_encoding=True)
    data = read("set")
    assert data.obs["policy"].dtype == torch.uint8 and data.obs["policy"].shape == (7, 32, 40, 3)
    assert data.obs["policy"][:3, 0, 0, 0].tolist() == pytest.approx([0, 10, 20], abs=2)
    for wrong in (frame(1, (4000, 40, 3)), frame(1)[:50], frame(1, (32, 40))):
        write_set(space, episodes=good | {"episode_1": frames(frame(1), wrong, *[frame(1)] * 3)}, jpeg_encoding=True)
        assert "key 'episode_1/observations', row 1: it is no image of the shape (32, 40, 3)" in refused("set")


def test_an_episode_that_is_a_link_is_refused() -> None:
    write_set()
    with h5py.File("set/data/main_data.hdf5", "a") as file:
        del file["episode_1"]
        file["episode_1"] = h5py.SoftLink("/episode_0")
    assert "main_data.hdf5, key 'episode_1/rewards': 'episode_1' is a link to another place" in refused("set")
    with h5py.File("set/data/main_data.hdf5", "a") as file:
        del file["episode_1"]
        file["episode_1"] = np.zeros(3)
    assert "key 'episode_1/rewards': it is missing" in refused("set")


BOMB = {"type": "Box", "dtype": "float32", "shape": [10**6, 10**6], "low": 0.0, "high": 1.0}
ENDLESS = json.dumps({"id": "X-v0", "entry_point": "x:x", "additional_wrappers": [], "max_episode_steps": "many"})


@pytest.mark.parametrize(
    ("metadata", "reason"),
    [
        ({"observation_space": None}, "'observation_space' is missing in its metadata"),
        ({"action_space": None}, "'action_space' is missing"),
        ({"total_episodes": None}, "'total_episodes' is missing"),
        ({"total_episodes": 10**13}, "its metadata states 10000000000000 episodes, and 2 are there"),
        ({"total_episodes": 1}, "its metadata states 1 episodes, and 2 are there"),
        ({"total_episodes": "2"}, "its metadata states 2 episodes"),
        ({"observation_space": json.dumps(BOMB)}, "a Box of float32 has the shape (1000000, 1000000) and bounds of"),
        ({"observation_space": json.dumps({"type": "Tuple", "subspaces": [BOMB]})}, "a Box of float32 has the shape"),
        ({"observation_space": json.dumps({"type": "Dict", "subspaces": {"x": BOMB}})}, "a Box of float32 has the"),
        ({"action_space": json.dumps(BOMB | {"shape": [], "dtype": "S1000000000"})}, "a Box of S1000000000 has"),
        ({"observation_space": json.dumps({"type": "Discrete", "n": 0, "start": 0})}, ""),
        ({"observation_space": "[" * 100_000}, ""),
        ({"observation_space": 3}, ""),
        ({"observation_space": '{"type": "Blob"}'}, "Blob"),
        ({"data_format": "zip"}, ""),
        ({"minari_version": "99.0"}, "99.0"),
        ({"env_spec": "nonsense"}, ""),
        ({"env_spec": ENDLESS}, "the longest episode of its environment is 'many'"),
    ],
)
def test_metadata_that_is_not_what_was_written_is_refused(metadata: dict[str, Any], reason: str) -> None:
    write_set(**metadata)
    said = refused("set")
    assert said.startswith("'set' is not a readable Minari data set: ") and reason in said


@pytest.mark.parametrize("text", [b"\xff\xfe", b"[]", b"{", b"[" * 100_000, b""])
def test_metadata_that_is_no_metadata_is_refused(text: bytes) -> None:
    write_set()
    Path("set/data/metadata.json").write_bytes(text)
    assert refused("set").startswith("'set' is not a readable Minari data set: ")


@pytest.mark.parametrize("steps", [3, 4])
def test_episodes_longer_than_stated_are_refused(steps: int) -> None:
    """By the data set's own word about its environment, or by the configuration's."""
    stated = {"id": "X-v0", "entry_point": "x:x", "additional_wrappers": [], "max_episode_steps": steps}
    write_set()
    for options, metadata in (({"max_episode_length": steps}, {}), ({}, {"env_spec": json.dumps(stated)})):
        write_set(**metadata)
        if steps == 4:
            assert len(read("set", **options)) == 7
        else:
            assert "key 'episode_1/truncations', row 2: the episode that begins in row 0 has 4" in refused(
                "set", **options
            )
    write_set(env_spec=json.dumps(stated))
    assert len(read("set", max_episode_length=4)) == 7  # the configuration has the last word


def test_spaces_that_learners_can_not_take_are_refused() -> None:
    write_set(spaces.MultiBinary(2))
    assert "has the observation space MultiBinary(2): expected a Box, a Discrete, or a Dict of these" in refused("set")
    write_set(spaces.Dict({"inner": spaces.Dict({"x": DEFAULT_OBS})}))
    assert "expected a Box, a Discrete, or a Dict of these" in refused("set")
    write_set(action=spaces.MultiDiscrete([2, 2]))
    assert "has the action space MultiDiscrete([2 2]): expected a Box or a Discrete" in refused("set")
    write_set(spaces.Box(-10, 10, (3,), np.float64))
    assert "key 'episode_0/observations': its rows have the shape (2,), expected (3,)" in refused("set")


def test_a_data_set_runs_nothing(tmp_path: Path) -> None:
    """Without stated spaces Minari would build the environment that the file names, with its arguments."""
    entry = {"id": "X-v0", "entry_point": "os:mkdir", "kwargs": {"path": str(tmp_path / "made")}}
    write_set(observation_space=None, env_spec=json.dumps({**entry, "additional_wrappers": [], "max_episode_steps": 3}))
    assert "'observation_space' is missing in its metadata" in refused("set")
    write_set(env_spec=json.dumps({**entry, "additional_wrappers": [], "max_episode_steps": 4}))
    assert len(read("set")) == 7
    assert not (tmp_path / "made").exists()


def test_a_damaged_neighbor_in_the_cache_spoils_no_message(tmp_path: Path) -> None:
    for name, text in (("aa/good-v0", "{}"), ("aa/bad-v0", "{")):
        (tmp_path / "cache" / name / "data").mkdir(parents=True)
        (tmp_path / "cache" / name / "data/metadata.json").write_text(text)
    assert "did you mean 'aa/good-v0'?" in refused("aa/goof-v0", download=False)
