"""Damaged and hostile datasets: one sentence that names file, episode and frame, before anything is allocated."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from lerobot_files import action, cut, edit_json, edit_table, noisy, record, smooth, state, write_v21, write_video
from RoboRenForce.data import DatasetFileError, LeRobotDatasetCfg
from RoboRenForce.data.arrow import to_numpy
from RoboRenForce.data.dataset import Batch
from RoboRenForce.data.features import Feature
from RoboRenForce.utils.errors import UserError

pytestmark = pytest.mark.contract

INFO = "meta/info.json"
DATA = "data/chunk-000/file-000.parquet"
EPISODES = "meta/episodes/chunk-000/file-000.parquet"
VIDEO = "videos/observation.images.front/chunk-000/file-000.mp4"
LENGTHS = (5, 8, 6)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record(tmp_path_factory.mktemp("whole") / "data", LENGTHS)


@pytest.fixture
def root(whole: Path, tmp_path: Path) -> Path:
    return shutil.copytree(whole, tmp_path / "data")


def read_everything(root: Path, **options: object) -> Batch:
    dataset = LeRobotDatasetCfg(data_root=str(root), **options).build()
    return dataset.get_batch(np.arange(len(dataset)))


def require_recorded(batch: Batch) -> None:
    """Every frame holds what was recorded in it; videos lose a little."""
    places = [(episode, frame) for episode, length in enumerate(LENGTHS) for frame in range(length)]
    for key, made in {"observation.state": state, "action": action, "observation.images.wrist": noisy}.items():
        np.testing.assert_array_equal(batch[key].numpy(), np.stack([made(*place) for place in places]), err_msg=key)
    front = batch["observation.images.front"].numpy().astype(int)
    assert np.abs(front - np.stack([smooth(*place) for place in places])).mean(axis=(1, 2, 3)).max() < 4


def info(**changes: object) -> Callable[[Path], None]:
    return lambda root: edit_json(root / INFO, **changes)


def feature(key: str, **changes: object) -> Callable[[Path], None]:
    def edit(root: Path) -> None:
        features = json.loads((root / INFO).read_text())["features"]
        features[key] |= changes
        edit_json(root / INFO, features=features)

    return edit


def column(
    file: str, key: str, change: Callable[[list], list], kind: pa.DataType | None = None
) -> Callable[[Path], None]:
    """Replace a column by what `change` makes of its values."""

    def edit(table: pa.Table) -> pa.Table:
        index = table.schema.get_field_index(key)
        values = change(table.column(key).to_pylist())
        return table.set_column(index, key, pa.array(values, kind or table.schema.field(key).type))

    return lambda root: edit_table(root / file, edit)


def at(index: int, value: object) -> Callable[[list], list]:
    return lambda values: [*values[:index], value, *values[index + 1 :]]


def video(pictures: Callable[[], list[np.ndarray]], **options: str) -> Callable[[Path], None]:
    return lambda root: write_video(root / VIDEO, pictures(), **options)


def all_frames() -> list[np.ndarray]:
    return [smooth(episode, frame) for episode, length in enumerate(LENGTHS) for frame in range(length)]


def link_outside(root: Path) -> None:
    target = root.parent / "secret.parquet"
    shutil.move(root / DATA, target)
    (root / DATA).symlink_to(target)


def link_folder_outside(root: Path) -> None:
    shutil.move(root / "videos", root.parent / "elsewhere")
    (root / "videos").symlink_to(root.parent / "elsewhere")


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    # metadata
    "no info": (lambda root: (root / INFO).unlink(), r"it is no LeRobot dataset: meta/info.json is missing"),
    "half an info": (lambda root: cut(root / INFO, 0.5), r"info.json': it can't be read as JSON"),
    "nested info": (lambda root: (root / INFO).write_text("[" * 100_000), r"info.json': it can't be read as JSON"),
    "a list": (lambda root: (root / INFO).write_text("[]"), r"info.json': it holds list, expected an object"),
    "old version": (
        info(codebase_version="v1.6"),
        r"codebase_version is 'v1.6', expected v3.0, v2.1, v2.0; convert the dataset with .* that wrote it",
    ),
    "new version": (
        info(codebase_version="v4.0"),
        r"codebase_version is 'v4.0', expected v3.0, v2.1, v2.0; .* that writes v3.0, or read it with a newer RoboRen",
    ),
    "fps": (info(fps=0), r"'fps' is 0, expected a positive number"),
    "fps NaN": (info(fps=float("nan")), r"'fps' is nan"),
    "dtype": (feature("action", dtype="object"), r"feature 'action' has dtype 'object', expected one of"),
    "shape": (feature("action", shape=[2, "3"]), r"feature 'action' has shape \[2, '3'\]"),
    "huge shape": (feature("action", shape=[10**6, 10**6]), r"'action' has shape .* 1,000,000,000,000 elements"),
    "huge camera": (
        feature("observation.images.front", shape=[9000, 9000, 3]),
        r"000.mp4', episode 0, frame 0: camera 'observation.images.front': it has 32 x 48 pixels, expected 9000 x 9000",
    ),
    "depth": (feature("observation.images.front", info={"video.is_depth_map": True}), r"is a depth map"),
    "no index": (lambda root: drop_feature(root, "index"), r"feature 'index' is missing"),
    "huge episodes": (info(total_episodes=2**60), r"'total_episodes' is 1152921504606846976, expected a positive"),
    "claimed frames": (info(total_frames=2**39), r"the episodes have 19 frames, info.json says 549,755,813,888"),
    "claimed episodes": (info(total_episodes=7), r"there are 3 episodes, info.json says 7"),
    "fewer episodes": (info(total_episodes=2), r"it has more rows than info.json has episodes \(2\)"),
    "tasks": (lambda root: (root / "meta/tasks.parquet").unlink(), r"tasks.parquet': it does not exist"),
    "stats": (lambda root: (root / "meta/stats.json").write_text("{]"), r"stats.json': it can't be read as JSON"),
    "stats shape": (
        lambda root: edit_json(root / "meta/stats.json", action={"min": [0], "max": [1], "mean": [0], "std": [1]}),
        r"stats.json': 'min' of 'action' does not have the shape \[2\]; run scripts/data/dataset_stats.py",
    ),
    "stats NaN": (
        lambda root: edit_json(
            root / "meta/stats.json", action={name: [0, float("nan")] for name in ("min", "max", "mean", "std")}
        ),
        r"stats.json': 'min' of 'action' is not finite",
    ),
    # episodes
    "no episodes": (lambda root: shutil.rmtree(root / "meta/episodes"), r"episodes': there are no episodes"),
    "half of the episodes": (lambda root: cut(root / EPISODES, 0.5), r"its end is missing: recording or copying was"),
    "length": (column(EPISODES, "length", at(1, 0)), r"episode 1: it has frames 5 to 13 and length 0"),
    "negative length": (column(EPISODES, "length", at(0, -5)), r"episode 0: it has frames 0 to 5 and length -5"),
    "order": (column(EPISODES, "episode_index", lambda v: [0, 2, 1]), r"episode 1: episode_index is 2, expected 1"),
    "overlap": (column(EPISODES, "dataset_from_index", at(2, 12)), r"episode 2: it has frames 12 to 19"),
    "file index": (column(EPISODES, "data/file_index", at(0, -1)), r"episode 0: 'data/file_index' is '-1'"),
    "short video": (
        column(EPISODES, "videos/observation.images.front/to_timestamp", at(1, 0.9)),
        r"episode 1: video 'observation.images.front' has 0.4 s of it, expected 0.8 s",
    ),
    "negative time": (
        column(EPISODES, "videos/observation.images.front/from_timestamp", at(1, -1.0)),
        r"episode 1: 'videos/observation.images.front/from_timestamp' is '-1.0'",
    ),
    # data
    "no data": (
        lambda root: (root / DATA).unlink(),
        r"file-000.parquet': it does not exist \(named by '.*info.json'\)",
    ),
    "half of the data": (
        lambda root: cut(root / DATA, 0.5),
        r"its end is missing: recording or copying was interrupted",
    ),
    "empty data": (lambda root: cut(root / DATA, 0.0), r"file-000.parquet': it is no readable parquet file"),
    "text": (lambda root: (root / DATA).write_text("hello, this is no parquet"), r"it is no readable parquet file"),
    "missing column": (
        lambda root: edit_table(root / DATA, lambda t: t.drop_columns(["action"])),
        r"column 'action' is",
    ),
    "fewer rows": (
        lambda root: edit_table(root / DATA, lambda t: t.slice(0, 18)),
        r"has 18 frames, its episodes have 19",
    ),
    "type": (
        column(DATA, "action", lambda v: [[str(x) for x in row] for row in v], pa.list_(pa.string())),
        r"episode \d: 'action' holds string, expected float32",
    ),
    "integers": (
        column(DATA, "action", lambda v: [[1, 2]] * len(v), pa.list_(pa.int64())),
        r"'action' holds int64, expected float32",
    ),
    "scalars": (
        column(DATA, "action", lambda v: [0.0] * len(v), pa.float32()),
        r"'action' holds float, expected lists of 2",
    ),
    "dimension": (
        column(DATA, "action", lambda v: [[1.0, 2.0, 3.0]] * len(v), pa.list_(pa.float32(), 3)),
        r"'action' has 3 entries, expected 2",
    ),
    "ragged": (
        column(DATA, "action", at(7, [1.0]), pa.list_(pa.float32())),
        r"episode 1, frame 2: 'action' has 1 entries, expected 2",
    ),
    "null": (column(DATA, "action", at(9, None)), r"episode 1, frame 4: 'action' is null"),
    "null element": (column(DATA, "action", at(9, [None, 1.0])), r"episode 1, frame 4: 'action' is null"),
    "NaN": (
        column(DATA, "action", at(14, [0.0, float("nan")])),
        r"episode 2, frame 1: 'action' holds nan in dimension 1",
    ),
    "infinity": (column(DATA, "action", at(14, [float("inf"), 0.0])), r"episode 2, frame 1: 'action' holds inf"),
    "timestamp": (column(DATA, "timestamp", at(6, 0.15)), r"episode 1, frame 1: timestamp is 0.15 s, expected 0.1 s"),
    "timestamp NaN": (column(DATA, "timestamp", at(6, float("nan"))), r"episode 1, frame 1: timestamp is nan s"),
    "frame_index": (column(DATA, "frame_index", at(6, 2)), r"episode 1, frame 1: frame_index is 2, expected 1"),
    "index": (column(DATA, "index", at(6, 7)), r"episode 1, frame 1: index is 7, expected 6"),
    "episode_index": (column(DATA, "episode_index", at(6, 0)), r"episode 1, frame 1: episode_index is 0, expected 1"),
    "task_index": (column(DATA, "task_index", at(6, 9)), r"episode 1, frame 1: task_index is 9, and no task has"),
    # pictures
    "no picture": (
        column(DATA, "observation.images.wrist", at(3, {"bytes": None, "path": "a"})),
        r"0, frame 3: .*no picture",
    ),
    "broken picture": (
        column(DATA, "observation.images.wrist", at(3, {"bytes": b"\x89PNG\r\n", "path": "a"})),
        r"episode 0, frame 3: camera 'observation.images.wrist': the picture can't be decoded",
    ),
    # videos
    "no video": (lambda root: (root / VIDEO).unlink(), r"file-000.mp4': it does not exist"),
    "half a video": (
        lambda root: cut(root / VIDEO, 0.5),
        r"000.mp4', episode 0, frame 0: camera .* it can't be opened",
    ),
    "empty video": (lambda root: cut(root / VIDEO, 0.0), r"it can't be opened"),
    "playlist": (
        lambda root: (root / VIDEO).write_text("#EXTM3U\n#EXTINF:1,\nfile:///etc/hosts\n"),
        r"it can't be opened",
    ),
    "fewer frames": (
        video(lambda: all_frames()[:-2]),
        r"000.mp4', episode 2, frame 4: camera 'observation.images.front': it has no frame at 1.7 s, it ends at 1.6 s",
    ),
    "frame rate": (video(all_frames, fps=12), r"episode 0, frame 1: .*it has no frame at 0.1 s"),
    "size": (video(lambda: [frame[:16] for frame in all_frames()]), r"it has 16 x 48 pixels, expected 32 x 48"),
    # hostile paths
    "absolute": (info(data_path="/etc/passwd"), r"path '/etc/passwd' leaves the dataset's folder"),
    "parents": (info(data_path="../../{chunk_index}/{file_index}"), r"leaves the dataset's folder"),
    "attribute": (info(data_path="{chunk_index.__class__}"), r"path template .* can't be read"),
    "width": (info(data_path="{chunk_index:0999999999d}"), r"path template .* can't be read"),
    "unknown name": (info(data_path="{secret}"), r"has 'secret', expected chunk_index, file_index"),
    "link": (link_outside, r"file-000.parquet': it is a link that leaves the dataset's folder"),
    "link of a folder": (link_folder_outside, r"it is a link that leaves the dataset's folder"),
}


def drop_feature(root: Path, key: str) -> None:
    features = json.loads((root / INFO).read_text())["features"]
    del features[key]
    edit_json(root / INFO, features=features)


def test_the_undamaged_dataset_is_read(root: Path) -> None:
    require_recorded(read_everything(root))


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_named(root: Path, name: str) -> None:
    damage, message = DAMAGE[name]
    damage(root)
    with pytest.raises(DatasetFileError) as found:
        read_everything(root)
    assert re.search(message, str(found.value)), str(found.value)
    assert str(found.value).startswith(f"'{root}") and "\n" not in str(found.value)


def test_damage_elsewhere_costs_only_what_it_damages(root: Path) -> None:
    """Good episodes can still be read, and the sentence says which one to leave out."""
    column(DATA, "action", at(9, None))(root)
    with pytest.raises(DatasetFileError, match="episode 1, frame 4"):
        read_everything(root, episodes=[1])
    read_everything(root, episodes=[2])


def test_a_column_that_numpy_has_no_type_for_is_named() -> None:
    union = pa.UnionArray.from_dense(pa.array([0], pa.int8()), pa.array([0], pa.int32()), [pa.array([1])])
    with pytest.raises(DatasetFileError, match=r"'state' holds dense_union<.*>, expected float32"):
        to_numpy(union, "state", Feature("float32", ()))


def test_bits_that_flip_never_go_further_than_an_error(whole: Path, tmp_path: Path) -> None:
    """Either the same values or a `DatasetFileError`: no other exception."""
    generator = np.random.default_rng(0)
    content = {name: (whole / name).read_bytes() for name in (DATA, EPISODES, VIDEO, "meta/tasks.parquet")}
    refused = 0
    for turn in range(60):
        root = tmp_path / f"{turn}"
        shutil.copytree(whole, root)
        name = list(content)[turn % len(content)]
        damaged = bytearray(content[name])
        for place in generator.integers(0, len(damaged), 1 + turn % 5):
            damaged[place] ^= 1 << int(generator.integers(8))
        (root / name).write_bytes(damaged)
        try:
            read_everything(root)
        except DatasetFileError:
            refused += 1
        shutil.rmtree(root)
    assert refused > 5


def test_links_into_the_store_of_a_cache_are_followed(whole: Path, tmp_path: Path) -> None:
    """`huggingface_hub` keeps files in `blobs` and links to them from `snapshots/<revision>`."""
    home = tmp_path / "datasets--user--name"
    snapshot, blobs = home / "snapshots" / "abc", home / "blobs"
    shutil.copytree(whole, snapshot)
    blobs.mkdir()
    for number, path in enumerate([path for path in snapshot.rglob("*") if path.is_file()]):
        shutil.move(path, blobs / str(number))
        path.symlink_to(os.path.relpath(blobs / str(number), path.parent))
    require_recorded(read_everything(snapshot))


def test_a_folder_of_datasets_is_told_from_one(whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / "pick")
    with pytest.raises(DatasetFileError, match="it holds datasets in pick: name one"):
        read_everything(tmp_path)
    with pytest.raises(DatasetFileError, match="there is no such folder"):
        read_everything(tmp_path / "nothing")


V21_DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "no tasks": (lambda root: (root / "meta/tasks.jsonl").unlink(), r"tasks.jsonl': it does not exist"),
    "broken line": (
        lambda root: (root / "meta/episodes.jsonl").open("a").write("{\n"),
        r"episodes.jsonl': line 4 can't be read as JSON",
    ),
    "missing line": (
        lambda root: (root / "meta/episodes.jsonl").write_text('{"episode_index": 0, "tasks": [], "length": 5}\n'),
        r"episodes.jsonl': it has 1 episodes, info.json says 3",
    ),
    "huge length": (
        lambda root: (root / "meta/episodes.jsonl").write_text(
            "".join(f'{{"episode_index": {n}, "tasks": [], "length": {10**18}}}\n' for n in range(3))
        ),
        r"episodes.jsonl', episode 0: its length is 1000000000000000000, expected 1 to 19",
    ),
    "no data": (
        lambda root: (root / "data/chunk-001/episode_000002.parquet").unlink(),
        r"chunk-001/episode_000002.parquet': it does not exist",
    ),
}


@pytest.mark.parametrize("name", V21_DAMAGE)
def test_damage_of_v21_is_named(tmp_path: Path, name: str) -> None:
    root = write_v21(tmp_path / "data", LENGTHS)
    damage, message = V21_DAMAGE[name]
    damage(root)
    with pytest.raises(DatasetFileError) as found:
        read_everything(root)
    assert re.search(message, str(found.value)), str(found.value)


CHOICES: dict[str, tuple[dict[str, object], str]] = {
    "camera": ({"cameras": ["observation.images.frnt"]}, r"no camera 'observation.images.frnt': did you mean 'observ"),
    "key": ({"delta_timestamps": {"actions": [0.0]}}, r"names 'actions', which the dataset does not have"),
    "time": ({"delta_timestamps": {"action": [0.0, 0.05]}}, r"holds 0.05 s, which is no multiple of a frame at 10 Hz"),
    "empty": ({"delta_timestamps": {"action": []}}, r"has 0 entries, expected 1 to"),
    "episode": ({"episodes": [0, 3]}, r"has the episodes 0 to 2, and 'episodes' names 3"),
    "instruction": ({"instructions": ["open the drwer"]}, r"no instruction 'open the drwer': did you mean 'open the"),
    "nothing": ({"episodes": []}, r"none is left"),
    "size": ({"image_size": [32]}, r"image_size is \[32\], expected height and width"),
}


@pytest.mark.parametrize("name", CHOICES)
def test_choices_that_the_dataset_does_not_have(whole: Path, name: str) -> None:
    options, message = CHOICES[name]
    with pytest.raises(UserError, match=message):
        read_everything(whole, **options)
