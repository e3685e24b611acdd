"""Recording: nothing saved is lost, nothing wrong is accepted, and appending and converting keep everything."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
from forked import exit_code, forked
from lerobot_files import (
    FEATURES,
    FPS,
    NUMBERS,
    TASKS,
    VIDEO_ONLY,
    frame_of,
    open_dataset,
    pq,
    record,
    record_episode,
    require_episodes,
    smooth,
    state,
    write_v21,
)
from RoboRenForce.data import DatasetFileError, LeRobotWriter, read_metadata
from RoboRenForce.data.converters.lerobot_v21 import convert_v21
from RoboRenForce.data.metadata import FormatVersion
from RoboRenForce.utils.errors import UserError

pytestmark = pytest.mark.contract


# ----------------------------------------------------------------------------------------------- crashes, appending


def record_and_die(root: Path, version: FormatVersion) -> None:
    writer = LeRobotWriter.create(root, fps=FPS, features=FEATURES, version=version)
    for episode in range(3):
        record_episode(writer, episode, 4)
    for frame in range(2):
        writer.add_frame(frame_of(3, frame), task=TASKS[1])
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("version", ["v3.0", "v2.1"])
def test_a_killed_recording_keeps_every_saved_episode(tmp_path: Path, version: FormatVersion) -> None:
    root = tmp_path / "data"
    with forked(record_and_die, root, version, log=tmp_path / "log") as process:
        assert exit_code(process) == -signal.SIGKILL
    with pytest.raises(DatasetFileError, match="its recording was not finished; run `rrf data finalize"):
        read_metadata(root)
    with LeRobotWriter.resume(root) as writer:
        assert (writer.saved_episodes, writer.saved_frames, writer.version) == (3, 12, version)
        record_episode(writer, 3, 5)
    require_episodes(root, (4, 4, 4, 5))
    assert read_metadata(root).version == version and not (root / ".recording").exists()


def test_an_error_in_the_block_keeps_the_saved_episodes(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), LeRobotWriter.create(tmp_path / "a", fps=FPS, features=NUMBERS) as writer:
        record_episode(writer, 0, 4, NUMBERS)
        writer.add_frame(frame_of(1, 0, NUMBERS), task="x")
        raise ZeroDivisionError
    require_episodes(tmp_path / "a", (4,))


@pytest.mark.parametrize("last", ["data", "videos", "meta/episodes", "meta/tasks.parquet", "meta/stats.json"])
def test_an_interrupted_merge_is_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, last: str) -> None:
    """The process dies after `last` was written: the old episodes are readable, and nothing is lost or doubled."""
    root = record(tmp_path / "data", (3, 4), VIDEO_ONLY)
    writer = LeRobotWriter.resume(root)
    record_episode(writer, 2, 5, VIDEO_ONLY)
    from RoboRenForce.data import merge

    class Died(BaseException):
        pass

    def die(*args: object, **options: object) -> None:
        raise Died

    place = {
        "data": (merge.EpisodeMerger, "_append_video"),
        "videos": (merge, "write_parquet"),
        "meta/episodes": (merge, "write_tasks"),
        "meta/tasks.parquet": (merge, "write_statistics"),
        "meta/stats.json": (merge, "write_info"),
    }[last]
    with monkeypatch.context() as patch:
        patch.setattr(*place, die)
        with pytest.raises(Died):
            writer.finalize()
    require_episodes(root, (3, 4))
    with LeRobotWriter.resume(root) as again:
        assert again.saved_episodes == 3
        record_episode(again, 3, 2, VIDEO_ONLY)
    require_episodes(root, (3, 4, 5, 2))
    assert len(list(root.glob("data/*/*.parquet"))) == 2
    whole = read_metadata(record(tmp_path / "whole", (3, 4, 5, 2), VIDEO_ONLY)).statistics
    found = read_metadata(root).statistics
    assert {key: entry.count for key, entry in found.items()} == {key: entry.count for key, entry in whole.items()}


def test_appending_twice(tmp_path: Path) -> None:
    root = record(tmp_path / "data", (3, 4), VIDEO_ONLY)
    untouched = {path: path.read_bytes() for path in root.glob("*/**/file-*")}
    with LeRobotWriter.resume(root) as writer:
        record_episode(writer, 2, 5, VIDEO_ONLY)
        writer.finalize()
        require_episodes(root, (3, 4, 5))
        record_episode(writer, 3, 6, VIDEO_ONLY)
    require_episodes(root, (3, 4, 5, 6))
    assert all(path.read_bytes() == content for path, content in untouched.items())
    metadata = read_metadata(root)
    states = np.stack([state(e, f) for e, n in enumerate((3, 4, 5, 6)) for f in range(n)]).astype(np.float64)
    found = metadata.statistics["observation.state"]
    np.testing.assert_allclose(found.mean, states.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(found.std, states.std(axis=0), rtol=1e-9)
    np.testing.assert_allclose(found.quantiles["q10"], np.quantile(states, 0.1, axis=0))
    camera = metadata.statistics["observation.images.front"]
    assert camera.count == 18
    pixels = np.stack([smooth(e, f) for e, n in enumerate((3, 4, 5, 6)) for f in range(n)]) / 255
    np.testing.assert_allclose(camera.mean[:, 0, 0], pixels.mean(axis=(0, 1, 2)), rtol=1e-9)
    np.testing.assert_allclose(camera.std[:, 0, 0], pixels.std(axis=(0, 1, 2)), rtol=1e-9)


def test_large_files_are_divided(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from RoboRenForce.data import merge

    monkeypatch.setattr(merge, "DATA_MB", 0.005)
    monkeypatch.setattr(merge, "VIDEO_MB", 0.0)
    monkeypatch.setattr(merge, "CHUNK_SIZE", 2)
    lengths = (4, 5, 6, 3, 5, 4)
    root = record(tmp_path / "data", lengths, VIDEO_ONLY)
    require_episodes(root, lengths)
    names = sorted(path.relative_to(root).as_posix() for path in root.glob("data/*/*"))
    assert names[:3] == [f"data/chunk-{n // 2:03d}/file-{n % 2:03d}.parquet" for n in range(3)]
    assert len(list(root.glob("videos/*/*/*.mp4"))) == 6


def test_row_groups_are_episodes_and_short_where_they_hold_pictures(tmp_path: Path) -> None:
    numbers = record(tmp_path / "numbers", (3, 40), NUMBERS)
    file = pq.ParquetFile(numbers / "data/chunk-000/file-000.parquet")
    assert [file.metadata.row_group(n).num_rows for n in range(file.num_row_groups)] == [3, 40]
    pictures = record(tmp_path / "pictures", (3, 40))
    file = pq.ParquetFile(pictures / "data/chunk-000/file-000.parquet")
    assert [file.metadata.row_group(n).num_rows for n in range(file.num_row_groups)] == [3, 16, 16, 8]


# ----------------------------------------------------------------------------------------------- what is refused


def changed(**changes: object) -> dict[str, object]:
    return frame_of(0, 0) | {key.replace("__", "."): value for key, value in changes.items()}


REFUSED = {
    "unknown": (changed(observation__stat=1), r"no feature 'observation.stat': did you mean 'observation.state'"),
    "shape": (changed(action=np.zeros(3)), r"'action' has the shape \[3\], expected \[2\]"),
    "NaN": (changed(action=np.asarray([0, np.nan])), r"'action' holds nan, expected finite numbers"),
    "overflow": (changed(action=np.asarray([0, 1e300])), r"'action' holds inf"),
    "text": (changed(action=["a", "b"]), r"'action' is <U1, expected float32"),
    "float picture": (changed(observation__images__front=np.zeros((32, 48, 3))), r"is float64, expected uint8"),
    "channels first": (
        changed(observation__images__front=np.zeros((3, 32, 48), np.uint8)),
        r"has the shape \[3, 32, 48\], expected \[32, 48, 3\]",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_wrong_frame_is_refused_and_the_episode_stays(tmp_path: Path, name: str) -> None:
    frame, message = REFUSED[name]
    with LeRobotWriter.create(tmp_path / "data", fps=FPS, features=FEATURES) as writer:
        writer.add_frame(frame_of(0, 0), task=TASKS[0])
        with pytest.raises(UserError, match=f"Episode 0, frame 1: .*{message}"):
            writer.add_frame(frame, task=TASKS[0])
        writer.add_frame(frame_of(0, 1), task=TASKS[0])
        writer.save_episode()
    require_episodes(tmp_path / "data", (2,))


def test_missing_features_and_tasks_are_refused(tmp_path: Path) -> None:
    writer = LeRobotWriter.create(tmp_path / "data", fps=FPS, features=NUMBERS)
    with pytest.raises(UserError, match="feature 'action' is missing"):
        writer.add_frame({"observation.state": state(0, 0)}, task="x")
    with pytest.raises(UserError, match="the task is '', expected an instruction"):
        writer.add_frame(frame_of(0, 0, NUMBERS), task="")
    with pytest.raises(UserError, match="Episode 0 has no frames"):
        writer.save_episode()
    with pytest.raises(UserError, match="has no episodes: save one"):
        writer.finalize()


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ({"a": {"dtype": "video", "shape": [31, 48, 3]}}, "31 x 48 pixels: both must be even"),
        ({"a": {"dtype": "complex64", "shape": [2]}}, "dtype 'complex64', expected one of"),
        ({"a": {"dtype": "float32", "shape": [2, -1]}}, "expected a list of positive integers"),
        ({"../a": {"dtype": "float32", "shape": [2]}}, "feature name '../a' is not allowed"),
        ({"index": {"dtype": "int64", "shape": [1]}}, "'index' is written by the recorder itself"),
        ({"a": {"dtype": "image", "shape": [32, 48, 1]}}, "expected three colours"),
    ],
)
def test_features_that_cannot_be_recorded(tmp_path: Path, features: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        LeRobotWriter.create(tmp_path / "data", fps=FPS, features=features)
    assert not (tmp_path / "data").exists()


def test_a_folder_with_something_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="is not empty"):
        LeRobotWriter.create(tmp_path, fps=FPS, features=NUMBERS)


def test_simulators_may_reuse_their_arrays(tmp_path: Path) -> None:
    with LeRobotWriter.create(tmp_path / "data", fps=FPS, features=NUMBERS) as writer:
        buffers = frame_of(0, 0, NUMBERS)
        for frame in range(3):
            for key, value in frame_of(0, frame, NUMBERS).items():
                buffers[key][:] = value
            writer.add_frame(buffers, task="x")
        writer.save_episode()
    require_episodes(tmp_path / "data", (3,))


# ----------------------------------------------------------------------------------------------- v2.1 to v3.0


@pytest.mark.parametrize("video", [{}, {"g": "12", "bf": "2"}], ids=["plain", "B-frames"])
def test_conversion_of_v21(tmp_path: Path, video: dict[str, str]) -> None:
    lengths = (5, 8, 6)
    old = write_v21(tmp_path / "old", lengths, **video)
    metadata = convert_v21(old, tmp_path / "new")
    assert metadata.version == "v3.0" and metadata.robot_type == "toy" and metadata.tasks == dict(enumerate(TASKS))
    require_episodes(tmp_path / "new", lengths)
    before, after = open_dataset(old), open_dataset(tmp_path / "new")
    everything = np.arange(sum(lengths))
    for key, values in before.get_batch(everything).items():
        assert np.array_equal(values, after.get_batch(everything)[key]), key
    assert len(list((tmp_path / "new").glob("videos/*/*/*.mp4"))) == 1
    assert json.loads((tmp_path / "new/meta/info.json").read_text())["codebase_version"] == "v3.0"
    with LeRobotWriter.resume(tmp_path / "new") as writer:
        record_episode(writer, 3, 4, VIDEO_ONLY)
    require_episodes(tmp_path / "new", (*lengths, 4))


def test_videos_of_different_encoders_are_not_joined(tmp_path: Path) -> None:
    """One stream has one header: episodes after the first would decode to garbage."""
    from lerobot_files import write_video

    old = write_v21(tmp_path / "old", (5, 8, 6), crf="20")
    path = old / "videos/chunk-000/observation.images.front/episode_000001.mp4"
    write_video(path, [smooth(1, frame) for frame in range(8)], profile="baseline", bf="0")
    convert_v21(old, tmp_path / "new")
    require_episodes(tmp_path / "new", (5, 8, 6))
    assert len(list((tmp_path / "new").glob("videos/*/*/*.mp4"))) == 3


def test_a_conversion_that_fails_leaves_nothing(tmp_path: Path) -> None:
    from lerobot_files import write_video

    old = write_v21(tmp_path / "old", (5, 8, 6))
    path = old / "videos/chunk-000/observation.images.front/episode_000001.mp4"
    write_video(path, [smooth(1, frame) for frame in range(7)])
    with pytest.raises(DatasetFileError, match=r"episode_000001.mp4', episode 1: it has 7 frames, the episode has 8"):
        convert_v21(old, tmp_path / "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["old"]
    with pytest.raises(UserError, match="exists: choose a new folder"):
        convert_v21(old, old)
    with pytest.raises(DatasetFileError, match=r"its version is v3\.0, expected v2\.1"):
        convert_v21(record(tmp_path / "v3", (2,), NUMBERS), tmp_path / "new")
