"""Recording in v2.1: the same items as in v3.0, the files and names of that version, and nothing saved is lost."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path

import av
import numpy as np
import pytest
from forked import exit_code, forked
from lerobot_files import (
    FEATURES,
    FPS,
    NUMBERS,
    TASKS,
    VIDEO_ONLY,
    edit_json,
    frame_of,
    noisy,
    open_dataset,
    pq,
    record,
    record_episode,
    require_episodes,
    write_v21,
    write_video,
)
from RoboRenForce.data import DatasetFileError, LeRobotDataset, LeRobotWriter, read_metadata
from RoboRenForce.data.converters.lerobot_v21 import convert_v21
from RoboRenForce.utils.errors import UserError

pytestmark = pytest.mark.contract

LENGTHS = (5, 8, 6)
FRONT, WRIST = "observation.images.front", "observation.images.wrist"
OTHERS = {
    "gripper": {"dtype": "float32", "shape": [1]},
    "pose": {"dtype": "float64", "shape": [2, 3]},
    "is_open": {"dtype": "bool", "shape": [1]},
    "note": {"dtype": "string", "shape": [1]},
}


def record_all_kinds(root: Path, version: str) -> LeRobotDataset:
    """Three episodes with features of every kind, one of them with two tasks."""
    features = FEATURES | OTHERS
    with LeRobotWriter.create(root, fps=FPS, features=features, robot_type="toy", version=version) as writer:
        for episode, length in enumerate(LENGTHS):
            for frame in range(length):
                others = {
                    "gripper": np.asarray([frame / 7], np.float32),
                    "pose": np.arange(6.0).reshape(2, 3) * (frame - episode),
                    "is_open": np.asarray([frame % 2 == 0]),
                    "note": f"frame {frame}",
                }
                task = TASKS[(episode + (episode == 2 and frame > 3)) % 2]
                writer.add_frame(frame_of(episode, frame) | others, task=task)
            writer.save_episode()
    return open_dataset(root)


def require_same(first: LeRobotDataset, second: LeRobotDataset) -> None:
    """Both give the same items, also to the bit of every picture, and say the same about them."""
    everything = np.arange(sum(LENGTHS))
    expected, found = first.get_batch(everything), second.get_batch(everything)
    assert found.keys() == expected.keys() >= FEATURES.keys() | OTHERS.keys()
    for key, values in expected.items():
        assert np.array_equal(values, found[key]), key
    one, other = first.metadata, second.metadata
    assert (one.features, one.tasks, one.fps) == (other.features, other.tasks, other.fps)
    assert (one.robot_type, one.total_frames) == (other.robot_type, other.total_frames)
    assert one.episodes.tasks == other.episodes.tasks
    assert one.episodes.length.tolist() == other.episodes.length.tolist()


def require_same_statistics(first: LeRobotDataset, second: LeRobotDataset, *, quantiles: bool) -> None:
    expected, found = first.metadata.statistics, second.metadata.statistics
    assert found.keys() == expected.keys() == first.metadata.features.keys() - {"note"}
    for key, entry in expected.items():
        assert found[key].count == entry.count == sum(LENGTHS), key
        for name in ("min", "max", "mean", "std"):
            np.testing.assert_allclose(getattr(found[key], name), getattr(entry, name), rtol=1e-9, atol=1e-12)
        for name, values in entry.quantiles.items() if quantiles else []:
            np.testing.assert_allclose(found[key].quantiles[name], values, rtol=1e-9, atol=1e-12, err_msg=key)


def test_the_items_are_those_of_v30(tmp_path: Path) -> None:
    new, old = (record_all_kinds(tmp_path / version, version) for version in ("v3.0", "v2.1"))
    assert (new.metadata.version, old.metadata.version) == ("v3.0", "v2.1")
    require_same(new, old)
    # Quantiles of v2.1 are means over episodes.
    require_same_statistics(new, old, quantiles=False)
    medians = [np.median([frame_of(e, f)["action"] for f in range(n)], axis=0) for e, n in enumerate(LENGTHS)]
    expected = np.average(medians, axis=0, weights=LENGTHS)
    np.testing.assert_allclose(old.metadata.statistics["action"].quantiles["q50"], expected, rtol=1e-6)


def test_the_conversion_to_v30_gives_what_v30_would_have_been(tmp_path: Path) -> None:
    new, old = (record_all_kinds(tmp_path / version, version) for version in ("v3.0", "v2.1"))
    assert convert_v21(old.metadata.root, tmp_path / "converted").version == "v3.0"
    converted = open_dataset(tmp_path / "converted")
    require_same(new, converted)
    require_same_statistics(new, converted, quantiles=True)


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_files_and_names_are_those_of_v21(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from RoboRenForce.data import episode_files

    monkeypatch.setattr(episode_files, "CHUNK_SIZE", 2)
    root = record(tmp_path / "data", LENGTHS, version="v2.1", robot_type="toy")
    assert sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()) == [
        "data/chunk-000/episode_000000.parquet",
        "data/chunk-000/episode_000001.parquet",
        "data/chunk-001/episode_000002.parquet",
        "meta/episodes.jsonl",
        "meta/episodes_stats.jsonl",
        "meta/info.json",
        "meta/tasks.jsonl",
        f"videos/chunk-000/{FRONT}/episode_000000.mp4",
        f"videos/chunk-000/{FRONT}/episode_000001.mp4",
        f"videos/chunk-001/{FRONT}/episode_000002.mp4",
    ]
    info = json.loads((root / "meta/info.json").read_text())
    features = info.pop("features")
    assert info == {
        "codebase_version": "v2.1",
        "robot_type": "toy",
        "total_episodes": 3,
        "total_frames": 19,
        "total_tasks": 2,
        "total_videos": 3,
        "total_chunks": 2,
        "chunks_size": 2,
        "fps": 10,
        "splits": {"train": "0:3"},
        "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        "video_path": "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
    }
    standard = ["timestamp", "frame_index", "episode_index", "index", "task_index"]
    assert list(features) == [*FEATURES, *standard]
    assert {key: features[FRONT][key] for key in ("dtype", "shape", "names")} == FEATURES[FRONT]
    assert features[FRONT]["info"]["video.codec"] == "av1"
    assert lines(root / "meta/tasks.jsonl") == [{"task_index": n, "task": text} for n, text in enumerate(TASKS)]
    assert lines(root / "meta/episodes.jsonl") == [
        {"episode_index": n, "tasks": [TASKS[n % 2]], "length": length} for n, length in enumerate(LENGTHS)
    ]
    statistics = lines(root / "meta/episodes_stats.jsonl")
    assert [row.pop("episode_index") for row in statistics] == [0, 1, 2]
    for row, length in zip(statistics, LENGTHS, strict=True):
        assert row.keys() == {"stats"} and list(row["stats"]) == [
            FRONT,
            WRIST,
            "observation.state",
            "action",
            *standard,
        ]
        for key, entry in row["stats"].items():
            assert entry["count"] == [length]
            shape = (3, 1, 1) if "images" in key else tuple(features[key]["shape"])
            assert all(np.shape(entry[name]) == shape for name in ("min", "max", "mean", "std")), key


def test_every_file_is_one_episode(tmp_path: Path) -> None:
    root = record(tmp_path / "data", LENGTHS, version="v2.1")
    for episode, (length, first) in enumerate(zip(LENGTHS, (0, 5, 13), strict=True)):
        table = pq.read_table(root / f"data/chunk-000/episode_{episode:06d}.parquet")
        assert set(table.column_names) == FEATURES.keys() - {FRONT} | {
            *("timestamp", "frame_index", "episode_index", "index", "task_index")
        }
        columns = table.to_pydict()
        assert columns["index"] == list(range(first, first + length))
        assert columns["frame_index"] == list(range(length)) and columns["episode_index"] == [episode] * length
        # LeRobot 0.3 makes pictures of bytes only where the file itself calls them so.
        named = json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]
        assert named == {WRIST: {"_type": "Image"}}
        with av.open(str(root / f"videos/chunk-000/{FRONT}/episode_{episode:06d}.mp4")) as video:
            assert [float(frame.pts * frame.time_base) for frame in video.decode(video=0)] == pytest.approx(
                [frame / FPS for frame in range(length)]
            )


def test_without_videos_there_is_no_path_of_videos(tmp_path: Path) -> None:
    root = record(tmp_path / "data", LENGTHS, NUMBERS | {WRIST: FEATURES[WRIST]}, version="v2.1")
    info = json.loads((root / "meta/info.json").read_text())
    assert info["video_path"] is None and info["total_videos"] == 0
    picture = open_dataset(root)[7][WRIST].numpy()
    np.testing.assert_array_equal(picture, noisy(1, 2))


# ----------------------------------------------------------------------------------------------- crashes, appending


def append_and_die(root: Path, last: str) -> None:
    """Append an episode, and die in the merge before the file `last` is written."""
    from RoboRenForce.data import episode_files
    from RoboRenForce.utils import run_dir

    writer = LeRobotWriter.resume(root)
    record_episode(writer, 2, 5, VIDEO_ONLY)

    def die_at(function: object, place: int) -> object:
        def call(*args: object) -> object:
            if Path(str(args[place])).match(last):
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args)  # type: ignore[operator]

        return call

    episode_files.shutil.copyfile = die_at(shutil.copyfile, 1)
    run_dir.os.replace = die_at(os.replace, 1)
    writer.finalize()


@pytest.mark.parametrize(
    "last", ["*.parquet", "*.mp4", "tasks.jsonl", "episodes.jsonl", "episodes_stats.jsonl", "info.json"]
)
def test_an_interrupted_merge_is_done_again(tmp_path: Path, last: str) -> None:
    """Whatever was written before the process died: the old episodes are readable, and nothing is lost or doubled."""
    root = record(tmp_path / "data", (3, 4), VIDEO_ONLY, version="v2.1")
    before = read_metadata(root)
    with forked(append_and_die, root, last, log=tmp_path / "log") as process:
        assert exit_code(process) == -signal.SIGKILL
    require_episodes(root, (3, 4))
    after = read_metadata(root)
    assert {key: entry.to_json() for key, entry in after.statistics.items()} == {
        key: entry.to_json() for key, entry in before.statistics.items()
    }
    with LeRobotWriter.resume(root) as again:
        assert again.saved_episodes == 3
        record_episode(again, 3, 2, VIDEO_ONLY)
    require_episodes(root, (3, 4, 5, 2))
    whole = record(tmp_path / "whole", (3, 4, 5, 2), VIDEO_ONLY, version="v2.1")
    for name in ("tasks.jsonl", "episodes.jsonl", "episodes_stats.jsonl", "info.json"):
        assert (root / "meta" / name).read_bytes() == (whole / "meta" / name).read_bytes()


def test_appending_leaves_the_files_of_other_episodes_alone(tmp_path: Path) -> None:
    """Of another recorder, with folders of two episodes, and with statistics that do not know the new ones."""
    root = write_v21(tmp_path / "old", LENGTHS, chunks_size=2)
    untouched = {path: path.read_bytes() for path in [*root.glob("data/*/*"), *root.glob("videos/*/*/*")]}
    of_episodes = lines(root / "meta/episodes_stats.jsonl")
    (root / "meta/stats.json").write_text("{}")
    with LeRobotWriter.resume(root) as writer:
        record_episode(writer, 3, 4, VIDEO_ONLY)
        writer.finalize()
        record_episode(writer, 4, 3, VIDEO_ONLY)
    require_episodes(root, (*LENGTHS, 4, 3))
    assert all(path.read_bytes() == content for path, content in untouched.items())
    assert (root / "data/chunk-001/episode_000003.parquet").is_file()
    assert (root / f"videos/chunk-002/{FRONT}/episode_000004.mp4").is_file()
    info = json.loads((root / "meta/info.json").read_text())
    assert (info["chunks_size"], info["total_chunks"], info["total_videos"]) == (2, 3, 5)
    assert lines(root / "meta/episodes_stats.jsonl")[:3] == of_episodes
    assert read_metadata(root).statistics["action"].count == 26


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("v2.0", r"nothing can be appended: it has 0 of the 3 episodes; convert it with .*lerobot_v21_to_v30"),
        ("names", r"its last episode is in data/train-1/2.parquet, not data/chunk-001/episode_000002.parquet; convert"),
    ],
)
def test_what_can_not_be_appended_to_is_said(tmp_path: Path, name: str, sentence: str) -> None:
    root = write_v21(tmp_path / "old", LENGTHS)
    if name == "v2.0":
        (root / "meta/episodes_stats.jsonl").unlink()
        edit_json(root / "meta/info.json", codebase_version="v2.0")
    else:
        edit_json(root / "meta/info.json", data_path="data/train-{episode_chunk}/{episode_index}.parquet")
    with pytest.raises(DatasetFileError, match=sentence):
        LeRobotWriter.resume(root)
    assert not (root / ".recording").exists()


def test_a_video_of_another_length_is_refused(tmp_path: Path) -> None:
    writer = LeRobotWriter.create(tmp_path / "data", fps=FPS, features=VIDEO_ONLY, version="v2.1")
    record_episode(writer, 0, 4, VIDEO_ONLY)
    video = tmp_path / f"data/.recording/episode-000000000/{FRONT}.mp4"
    write_video(video, [frame_of(0, frame)[FRONT] for frame in range(3)])
    with pytest.raises(DatasetFileError, match=r"front.mp4', episode 0: it has 3 frames, the episode has 4"):
        writer.finalize()


def test_there_is_no_other_version(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"version is 'v2\.0', expected v3\.0 or v2\.1"):
        LeRobotWriter.create(tmp_path / "data", fps=FPS, features=NUMBERS, version="v2.0")  # type: ignore[arg-type]
    assert not (tmp_path / "data").exists()
