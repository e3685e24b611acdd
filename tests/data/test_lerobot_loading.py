"""Items, batches, mixtures and loaders, as a training run uses them."""

from __future__ import annotations

import os
import pickle
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from lerobot_files import (
    FPS,
    NUMBERS,
    TASKS,
    action,
    column_of,
    edit_table,
    noisy,
    open_dataset,
    pq,
    record,
    smooth,
    state,
)
from RoboRenForce.data import (
    DataLoader,
    DataLoaderCfg,
    DatasetFileError,
    LeRobotDatasetCfg,
    LeRobotWriter,
    MixtureDatasetCfg,
    MixturePartCfg,
    instruction_id,
)
from RoboRenForce.data.frames import FrameReader
from RoboRenForce.data.lru import LRUCache
from RoboRenForce.data.windows import window
from RoboRenForce.utils.errors import ProcessesLostError, UserError

pytestmark = pytest.mark.contract

LENGTHS = (5, 8, 6)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record(tmp_path_factory.mktemp("whole") / "data", LENGTHS)


# ----------------------------------------------------------------------------------------------- windows


def test_a_window_repeats_the_ends_of_its_episode_and_marks_them() -> None:
    """The table of `windows.py`."""
    found = [window(frame, np.asarray([-1, 0, 1]), 4) for frame in range(4)]
    assert [frames.tolist() for frames, _ in found] == [[0, 0, 1], [0, 1, 2], [1, 2, 3], [2, 3, 3]]
    assert [pad.astype(int).tolist() for _, pad in found] == [[1, 0, 0], [0, 0, 0], [0, 0, 0], [0, 0, 1]]


def test_chunks_and_history_never_leave_their_episode(root: Path) -> None:
    chunk = [step / FPS for step in range(7)]
    deltas = {"action": chunk, "observation.state": [-0.3, -0.1, 0.0], "observation.images.front": [-0.2, 0.0],
              "observation.images.wrist": [0.0, 0.1]}  # fmt: skip
    dataset = open_dataset(root, delta_timestamps=deltas)
    for index in range(len(dataset)):
        item = dataset[index]
        episode, frame = int(item["episode_index"]), int(item["frame_index"])
        last = LENGTHS[episode] - 1
        for key, of in (("action", action), ("observation.state", state)):
            for step, seconds in enumerate(deltas[key]):
                wanted = frame + round(seconds * FPS)
                np.testing.assert_array_equal(item[key][step].numpy(), of(episode, min(max(wanted, 0), last)))
                assert bool(item[f"{key}_is_pad"][step]) == (not 0 <= wanted <= last)
        for step, seconds in enumerate((-0.2, 0.0)):
            wanted = max(frame + round(seconds * FPS), 0)
            image = item["observation.images.front"][step].numpy().astype(int)
            assert np.abs(image - smooth(episode, wanted)).mean() < 4
        np.testing.assert_array_equal(item["observation.images.wrist"][1].numpy(), noisy(episode, min(frame + 1, last)))
        assert item["observation.images.wrist_is_pad"].tolist() == [False, frame == last]


def test_a_batch_is_its_items_in_any_order(root: Path) -> None:
    dataset = open_dataset(root, delta_timestamps={"action": [0.0, 0.1], "observation.images.front": [-0.1, 0.0]})
    indices = np.random.default_rng(0).integers(0, len(dataset), 24)  # with repetitions
    batch = dataset.get_batch(indices)
    fresh = open_dataset(root, delta_timestamps=dataset.cfg.delta_timestamps)
    for row, index in enumerate(indices.tolist()):
        for key, value in fresh[index].items():
            assert batch[key][row] == value if isinstance(value, str) else torch.equal(batch[key][row], value), key


def test_negative_and_wrong_indices(root: Path) -> None:
    dataset = open_dataset(root)
    assert int(dataset[-1]["index"]) == len(dataset) - 1
    for index in (len(dataset), -len(dataset) - 1):
        with pytest.raises(IndexError):
            dataset[index]


# ----------------------------------------------------------------------------------------------- selection


def test_episodes_instructions_and_splits(root: Path) -> None:
    assert [int(open_dataset(root, episodes=[2, 0])[i]["index"]) for i in (0, 4, 5, 10)] == [0, 4, 13, 18]
    assert open_dataset(root, instructions=[TASKS[1]]).episodes.tolist() == [1]
    parts = {split: open_dataset(root, split=split, validation_fraction=0.34) for split in ("train", "validation")}
    assert sorted([*parts["train"].episodes, *parts["validation"].episodes]) == [0, 1, 2]
    assert len(parts["validation"].episodes) == 1
    held_out = parts["validation"].episodes.tolist()
    fewer = open_dataset(root, split="train", validation_fraction=0.34, episodes=[0, 1])
    assert fewer.episodes.tolist() == [episode for episode in (0, 1) if episode not in held_out]


# ----------------------------------------------------------------------------------------------- streaming


def test_the_first_frame_of_an_episode_can_be_a_sample_several_times(root: Path) -> None:
    delta = {"action": [0.0, 1 / FPS]}
    plain = open_dataset(root, cameras=[], delta_timestamps=delta)
    again = open_dataset(root, cameras=[], delta_timestamps=delta, repeat_first_frame=3)
    assert len(again) == len(plain) + 2 * len(LENGTHS)
    found = again.get_batch(np.arange(len(again)))
    frames, episodes = found["frame_index"].tolist(), found["episode_index"].tolist()
    assert frames == [frame for length in LENGTHS for frame in (*range(length), 0, 0)]
    assert episodes == [number for number, length in enumerate(LENGTHS) for _ in range(length + 2)]
    rows = torch.tensor([sum(LENGTHS[:episode]) + frame for episode, frame in zip(episodes, frames, strict=True)])
    expected = plain.get_batch(rows.numpy())
    assert torch.equal(found["action"], expected["action"]) and found["task"] == expected["task"]
    cfg = LeRobotDatasetCfg(data_root=str(root), repeat_first_frame=3)
    assert cfg.for_policy(2, [], "train").repeat_first_frame == 3
    assert cfg.for_policy(2, [], "validation").repeat_first_frame == 1


def test_memory_stays_within_the_budget_whatever_the_row_groups(root: Path, tmp_path: Path) -> None:
    """One row group for everything, or several per episode: the same values, and no more kept than allowed."""
    import shutil

    expected = open_dataset(root).get_batch(np.arange(19))
    for size in (1, 3, 1000):
        copy = shutil.copytree(root, tmp_path / str(size))
        path = copy / "data/chunk-000/file-000.parquet"
        pq.write_table(pq.read_table(path), path, row_group_size=size)
        dataset = open_dataset(copy)
        dataset._reader = FrameReader(dataset.metadata, dataset.keys, budget=500)
        for indices in np.array_split(np.random.default_rng(size).permutation(19), 5):
            batch = dataset.get_batch(indices)
            for key, value in batch.items():
                rows = [expected[key][i] for i in indices.tolist()]
                assert value == rows if isinstance(value, list) else torch.equal(value, torch.stack(rows)), key
            assert len(dataset._reader._episodes) <= 2


def test_a_row_group_with_many_episodes_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from RoboRenForce.data import frames

    root = record(tmp_path / "data", LENGTHS, NUMBERS)
    edit_table(root / "data/chunk-000/file-000.parquet", lambda table: table)  # one row group
    reads = []
    real = frames.read_columns
    monkeypatch.setattr(frames, "read_columns", lambda *args: reads.append(args) or real(*args))
    dataset = open_dataset(root)
    for index in np.random.default_rng(0).permutation(19).tolist():
        dataset[index]
    assert len(reads) == 1


def test_videos_stay_open_up_to_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lerobot_files import write_v21
    from RoboRenForce.data import dataset as module

    opened, closed = [], []

    class Counted(module.VideoFile):
        def __init__(self, path: Path, *args: object) -> None:
            opened.append(path.name)
            super().__init__(path, *args)

        def close(self) -> None:
            closed.append(self)
            super().close()

    monkeypatch.setattr(module, "VideoFile", Counted)
    root = write_v21(tmp_path / "old", (3, 3, 3))
    dataset = open_dataset(root, open_videos=2)
    for index in (0, 1, 2, 3, 4, 0, 5):
        dataset[index]
    assert len(opened) == 2 and not closed
    dataset[8], dataset[7]
    assert len(opened) == 3 and len(closed) == 1
    dataset[0]
    assert (len(opened), len(closed)) == (4, 2)


def test_a_cache_forgets_the_oldest_and_is_empty_in_forks_and_copies() -> None:
    cache: LRUCache[bytes] = LRUCache(10, len)
    for key in "abc":
        cache.put(key, b"1234")
    assert cache.get("a") is None and cache.get("b") == b"1234" and len(cache) == 2
    cache.put("d", b"12")
    cache.put("e", b"1")
    assert cache.get("c") is None and cache.get("b") == b"1234"  # it was used after c
    cache.put("huge", b"1" * 99)
    assert len(cache) == 1 and cache.get("huge") is not None
    assert len(pickle.loads(pickle.dumps(cache))) == 0
    cache._process = -1  # as seen from a fork
    assert cache.get("huge") is None and cache.put("x", b"1") == b"1" and len(cache) == 1


# ----------------------------------------------------------------------------------------------- mixtures


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another robot: more joints, a camera of another name and size, another instruction."""
    root = tmp_path_factory.mktemp("other") / "data"
    features = {
        "observation.state": {"dtype": "float32", "shape": [5]},
        "action": {"dtype": "float32", "shape": [2]},
        "observation.images.top": {"dtype": "image", "shape": [16, 24, 3]},
    }
    with LeRobotWriter.create(root, fps=20, features=features) as writer:
        for frame in range(4):
            values = {"observation.state": np.full(5, frame), "action": np.zeros(2) + 0.5}
            writer.add_frame(values | {"observation.images.top": np.full((16, 24, 3), 9, np.uint8)}, task="wave")
        writer.save_episode()
    return root


def mixture(root: Path, other: Path, **options: object) -> MixtureDatasetCfg:
    first = LeRobotDatasetCfg(data_root=str(root), delta_timestamps={"action": [0.0, 0.1, 0.2]})
    second = LeRobotDatasetCfg(data_root=str(other), delta_timestamps={"action": [0.0, 0.05, 0.1]})
    parts = [
        MixturePartCfg(dataset=first, weight=3),
        MixturePartCfg(dataset=second, weight=1, rename={"observation.images.top": "observation.images.front"}),
    ]
    return MixtureDatasetCfg(**({"parts": parts, "image_size": [16, 24]} | options))


def test_a_mixture_pads_and_says_what_is_real(root: Path, other: Path) -> None:
    dataset = mixture(root, other).build()
    assert dataset.lengths == [19, 4] and dataset.weights == [3, 1]
    batch = dataset.get_batch(np.asarray([6, 20, 0, 22]))
    assert batch["dataset_index"].tolist() == [0, 1, 0, 1]
    assert batch["task"] == [TASKS[1], "wave", TASKS[0], "wave"]
    assert batch["instruction_id"].tolist() == [instruction_id(text) for text in batch["task"]]
    np.testing.assert_array_equal(batch["observation.state"][0].numpy(), [*state(1, 1), 0, 0])
    np.testing.assert_array_equal(batch["observation.state"][1].numpy(), [1] * 5)
    assert batch["observation.state_dim_mask"].sum(dim=1).tolist() == [3, 5, 3, 5]
    assert batch["observation.state_dim_mask"][0].tolist() == [True] * 3 + [False] * 2
    assert batch["action"].shape == (4, 3, 2) and batch["action_dim_mask"].all()
    assert batch["action_is_pad"].tolist() == [[False] * 3, [False] * 3, [False] * 3, [False, True, True]]
    front, wrist = batch["observation.images.front"], batch["observation.images.wrist"]
    assert front.shape == wrist.shape == (4, 16, 24, 3)
    assert (front[1] == 9).all() and batch["observation.images.front_is_present"].all()
    assert batch["observation.images.wrist_is_present"].tolist() == [True, False, True, False]
    assert (wrist[1] == 0).all() and wrist[0].float().std() > 10
    flags = [[camera in row for row in batch["present_cameras"]] for camera in dataset.cameras]
    assert flags == [batch[f"{camera}_is_present"].tolist() for camera in dataset.cameras]
    single = dataset[6]
    assert all(torch.equal(single[key], batch[key][0]) for key in single if torch.is_tensor(single[key]))


MIXTURES = {
    "sizes": ({"image_size": None}, r"'observation.images.front' has the shape \[16, 24, 3\] .* set image_size"),
    "no parts": ({"parts": []}, r"A mixture needs at least one dataset"),
}


@pytest.mark.parametrize("name", MIXTURES)
def test_mixtures_that_do_not_fit(root: Path, other: Path, name: str) -> None:
    options, message = MIXTURES[name]
    with pytest.raises(UserError, match=message):
        mixture(root, other, **options).build()


def test_parts_that_do_not_fit(root: Path, other: Path) -> None:
    cfg = mixture(root, other)
    cfg.parts[1].dataset.delta_timestamps = {"action": [0.0, 0.05]}
    with pytest.raises(UserError, match=r"'action' has the shape \[2, 2\] .* give all the same delta_timestamps"):
        cfg.build()
    cfg = mixture(root, other)
    cfg.parts[0].weight = None
    with pytest.raises(UserError, match="give one to all, or to none"):
        cfg.build()
    cfg = mixture(root, other)
    cfg.parts[1].rename = {"observation.images.tpo": "x"}
    with pytest.raises(UserError, match=r"lacks: did you mean 'observation\.images\.top'"):
        cfg.build()
    cfg.parts[1].rename = {"action": "observation.state"}
    with pytest.raises(UserError, match=r"two keys .* the same name"):
        cfg.build()


# ----------------------------------------------------------------------------------------------- loaders


def build_loader(dataset: object, **options: object) -> DataLoader:
    runtime = {key: options.pop(key) for key in ("rank", "world_size") if key in options}
    return DataLoaderCfg(**({"batch_size": 4, "num_workers": 0, "seed": 3} | options)).build(dataset, **runtime)


def order_of(batches: list[dict]) -> list[int]:
    return [index for batch in batches for index in batch["index"].tolist()]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_goes_on_exactly_where_it_was(root: Path, workers: int) -> None:
    dataset = open_dataset(root, cameras=["observation.images.front"])
    whole = build_loader(dataset)
    uninterrupted = [*whole, *whole, *whole]
    assert len(whole) == 4 and len(uninterrupted) == 12
    loader = build_loader(dataset, num_workers=workers)
    first = [*loader]
    for batch in loader:
        first.append(batch)
        if len(first) == 6:
            break
    again = build_loader(open_dataset(root, cameras=["observation.images.front"]), num_workers=workers)
    again.load_state_dict(pickle.loads(pickle.dumps(loader.state_dict())))
    rest = [*again, *again]
    assert order_of(first + rest) == order_of(uninterrupted)
    for one, two in zip(first + rest, uninterrupted, strict=True):
        assert one["task"] == two["task"]
        assert all(torch.equal(one[key], two[key]) for key in one if torch.is_tensor(one[key]))
    # An iteration that was left early goes on too, though workers had read ahead.
    assert order_of([*loader]) == order_of(uninterrupted[6:8])


def test_an_iteration_that_ended_with_its_last_batch_is_followed_by_the_next_epoch(root: Path) -> None:
    loader = build_loader(open_dataset(root, cameras=[]))
    first = []
    for batch in loader:
        first.append(batch)
        if len(first) == len(loader):
            break  # `max_iterations` was reached
    assert len([*loader]) == 4 and loader.sampler.epoch == 2


def test_processes_read_disjoint_parts_and_validation_reads_everything(root: Path) -> None:
    dataset = open_dataset(root, cameras=[])
    parts = [order_of([*build_loader(dataset, rank=rank, world_size=2)]) for rank in range(2)]
    assert len(parts[0]) == len(parts[1]) == 8 and not set(parts[0]) & set(parts[1])
    validation = {"shuffle": False, "drop_last": False}
    assert order_of([*build_loader(dataset, **validation)]) == list(range(19))
    halves = [order_of([*build_loader(dataset, rank=rank, world_size=2, **validation)]) for rank in range(2)]
    assert sorted(halves[0] + halves[1]) == list(range(19))
    with pytest.raises(UserError, match="There are 19 samples, and a batch takes 10 x 2"):
        [*build_loader(dataset, batch_size=10, world_size=2)]


def test_a_mixture_is_drawn_by_its_weights(root: Path, other: Path) -> None:
    loader = build_loader(mixture(root, other).build(), epoch_size=80)
    drawn = torch.cat([batch["dataset_index"] for batch in loader])
    assert len(drawn) == 80 and int(drawn.sum()) == 20


@pytest.mark.parametrize("workers", [0, 1])
def test_bad_data_is_one_sentence_from_workers_too(tmp_path: Path, workers: int) -> None:
    root = record(tmp_path / "data", LENGTHS, NUMBERS)
    column_of(root / "data/chunk-000/file-000.parquet", "action", 9, [None, 1.0])
    with pytest.raises(DatasetFileError, match="episode 1, frame 4: 'action' is null") as found:
        [*build_loader(open_dataset(root), num_workers=workers)]
    assert "\n" not in str(found.value)


def test_a_worker_that_is_killed_is_one_sentence(tmp_path: Path) -> None:
    root = record(tmp_path / "data", (40,), NUMBERS)
    loader = build_loader(open_dataset(root), num_workers=1, batch_size=1, prefetch_factor=1)
    with pytest.raises(ProcessesLostError, match=r"A data worker died \(.*lower num_workers") as found:
        for _ in loader:
            os.kill(loader._loaders[False]._iterator._workers[0].pid, signal.SIGKILL)
    assert "\n" not in str(found.value)


def test_the_share_of_waiting_is_measured(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from RoboRenForce.data import loader as module

    # asked, given, asked (the first batch is left out), given, back, asked, given, back, ...
    clock = iter([0, 9, 100, 101, 104, 200, 201, 204, 300, 301, 304, 400])
    monkeypatch.setattr(module.time, "perf_counter", lambda: float(next(clock)))
    loader = build_loader(open_dataset(root, cameras=[]))
    for _ in loader:
        pass
    assert (loader.wait_s, loader.busy_s) == (3.0, 9.0)
    loader.wait_s, loader.busy_s = 3.0, 1.0
    assert loader.data_wait_share == 0.75 and loader.advised_workers() == 3
    loader.cfg.num_workers = 2
    assert loader.advised_workers() == 8


def test_a_dataset_reaches_other_processes_without_open_files(root: Path) -> None:
    """Workers that are not forked get a pickled copy."""
    dataset = open_dataset(root)
    expected = dataset[3]
    copy = pickle.loads(pickle.dumps(dataset))
    assert all(torch.equal(copy[3][key], expected[key]) for key in expected if torch.is_tensor(expected[key]))
