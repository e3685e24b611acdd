"""Datasets of LeRobot are read as LeRobot reads them: files that it wrote, v2.1, and ours opened by it."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from lerobot_files import FPS, HEIGHT, TASKS, WIDTH, action, noisy, open_dataset, record, smooth, state, write_v21
from RoboRenForce.data import LeRobotDataset, instruction_id, read_metadata

pytestmark = pytest.mark.contract

DATA = Path(__file__).parent
LEROBOT = DATA / "lerobot_0_4_4"
"""Written by `lerobot_peer.py record`; `lerobot_0_4_4_items.npz` is what `items` gave, with these windows."""
DELTAS = {"action": [-0.1, 0.0, 0.1], "observation.images.front": [-0.1, 0.0]}
PEER = os.environ.get("LEROBOT_PYTHON")
"""The Python of an environment with LeRobot 0.4.4."""


def require_same_items(dataset: LeRobotDataset, peer: dict[str, np.ndarray]) -> None:
    """All items as LeRobot gives them: channels first, and single numbers without a shape."""
    batch = dataset.get_batch(np.arange(len(dataset)))
    assert batch.keys() - {"instruction_id"} == peer.keys()
    for key, expected in peer.items():
        if key in dataset.cameras:
            images = np.moveaxis(batch[key].numpy(), -1, -3)
            assert images.dtype == np.uint8 and images.shape == expected.shape
            assert np.abs(images.astype(int) - expected).max() <= 1, key  # two releases of FFmpeg round the colours
        elif isinstance(batch[key], list):
            assert batch[key] == expected.tolist()
        else:
            ours = batch[key].numpy()
            declared = dataset.metadata.features.get(key)
            assert ours.dtype == (bool if declared is None else declared.numpy_dtype), key
            # LeRobot goes through Python's floats and makes float32 of them.
            np.testing.assert_array_equal(ours.reshape(expected.shape).astype(expected.dtype), expected, err_msg=key)


def test_files_that_lerobot_wrote_give_the_items_that_it_gives() -> None:
    with np.load(DATA / "lerobot_0_4_4_items.npz") as peer:
        require_same_items(open_dataset(LEROBOT, delta_timestamps=DELTAS), dict(peer))


def test_the_metadata_that_lerobot_wrote() -> None:
    metadata = read_metadata(LEROBOT)
    assert (metadata.version, metadata.fps, metadata.total_frames) == ("v3.0", 10.0, 13)
    assert metadata.episodes.length.tolist() == [4, 6, 3]
    assert metadata.tasks == {0: "lift", 1: "push"}
    assert metadata.cameras == ["observation.images.front", "observation.images.wrist"]
    assert metadata.features["pose"].shape == (2, 3) and metadata.features["pose"].dtype == "float64"
    front, states = metadata.statistics["observation.images.front"], metadata.statistics["observation.state"]
    assert front.mean.shape == (3, 1, 1) and 0 < front.mean.min() < front.mean.max() < 1
    np.testing.assert_allclose(states.mean[0], (0 * 4 + 1 * 6 + 2 * 3) / 13)
    np.testing.assert_allclose(states.max[1], 5)
    assert set(states.quantiles) == {"q01", "q10", "q50", "q90", "q99"} and states.count == 13


@pytest.mark.skipif(PEER is None, reason="LEROBOT_PYTHON names no Python with LeRobot 0.4.4 (docs/vla/data.md)")
def test_lerobot_gives_the_same_items_of_files_that_were_written_here(tmp_path: Path) -> None:
    root = record(tmp_path / "ours", lengths=(5, 8, 6))
    (tmp_path / "home").mkdir()
    script = Path(__file__).with_name("lerobot_peer.py")
    environment = {"PATH": os.environ["PATH"], "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home")}
    command = [str(PEER), str(script), "items", str(root), str(tmp_path / "peer.npz"), json.dumps(DELTAS)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    with np.load(tmp_path / "peer.npz") as peer:
        require_same_items(open_dataset(root, delta_timestamps=DELTAS), dict(peer))


@pytest.mark.skipif(PEER is None, reason="LEROBOT_PYTHON names no Python with LeRobot 0.4.4 (docs/vla/data.md)")
def test_the_committed_files_are_those_of_lerobot(tmp_path: Path) -> None:
    script = Path(__file__).with_name("lerobot_peer.py")
    environment = {"PATH": os.environ["PATH"], "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    command = [str(PEER), str(script), "record", str(tmp_path / "new")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    with np.load(DATA / "lerobot_0_4_4_items.npz") as peer:
        require_same_items(open_dataset(tmp_path / "new", delta_timestamps=DELTAS), dict(peer))


def test_what_was_recorded_is_read(tmp_path: Path) -> None:
    dataset = open_dataset(record(tmp_path / "data", lengths=(5, 8, 6)))
    assert len(dataset) == 19
    for index in range(19):
        item = dataset[index]
        episode, frame = int(item["episode_index"]), int(item["frame_index"])
        assert index == int(item["index"]) == [0, 5, 13][episode] + frame
        np.testing.assert_array_equal(item["observation.state"].numpy(), state(episode, frame))
        np.testing.assert_array_equal(item["action"].numpy(), action(episode, frame))
        np.testing.assert_array_equal(item["observation.images.wrist"].numpy(), noisy(episode, frame))
        error = np.abs(item["observation.images.front"].numpy().astype(int) - smooth(episode, frame))
        assert error.mean() < 3  # a frame differs from the next one by 10
        assert item["task"] == TASKS[episode % 2] and int(item["instruction_id"]) == instruction_id(item["task"])
        assert float(item["timestamp"]) == pytest.approx(frame / FPS)


@pytest.mark.parametrize("codec", ["libsvtav1", "libx264"])
def test_either_codec(tmp_path: Path, codec: str) -> None:
    root = record(tmp_path / "data", lengths=(3, 4), codec=codec)
    item = open_dataset(root)[5]
    assert np.abs(item["observation.images.front"].numpy().astype(int) - smooth(1, 2)).mean() < 3
    info = json.loads((root / "meta/info.json").read_text())["features"]["observation.images.front"]["info"]
    assert info["video.codec"] == {"libsvtav1": "av1", "libx264": "h264"}[codec]
    assert (info["video.height"], info["video.width"]) == (HEIGHT, WIDTH)


@pytest.mark.parametrize("video", [{"g": "2"}, {"g": "30", "bf": "2"}], ids=["short groups", "B-frames"])
def test_v21(tmp_path: Path, video: dict[str, str]) -> None:
    dataset = open_dataset(write_v21(tmp_path / "old", lengths=(5, 8, 6, 1), **video))
    metadata = dataset.metadata
    assert (metadata.version, metadata.total_frames, metadata.tasks) == ("v2.1", 20, dict(enumerate(TASKS)))
    for index in [19, 0, 7, 6, 12, 4, 18, 5]:
        item = dataset[index]
        episode, frame = int(item["episode_index"]), int(item["frame_index"])
        np.testing.assert_array_equal(item["action"].numpy(), action(episode, frame))
        assert np.abs(item["observation.images.front"].numpy().astype(int) - smooth(episode, frame)).mean() < 4
        assert item["task"] == TASKS[episode % 2]
    states = np.stack([state(e, f) for e, n in enumerate((5, 8, 6, 1)) for f in range(n)])
    joined = metadata.statistics["observation.state"]
    np.testing.assert_allclose(joined.mean, states.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(joined.std, states.std(axis=0), rtol=1e-5)
    assert joined.count == 20 and not joined.quantiles


def test_images_are_scaled_while_they_are_decoded(tmp_path: Path) -> None:
    root = record(tmp_path / "data", lengths=(3,))
    small, whole = open_dataset(root, image_size=[16, 24])[1], open_dataset(root)[1]
    for camera in ("observation.images.front", "observation.images.wrist"):
        assert small[camera].shape == (16, 24, 3)
        expected = whole[camera].float().reshape(16, 2, 24, 2, 3).mean(dim=(1, 3))
        assert (small[camera].float() - expected).abs().mean() < (2 if "front" in camera else 20)


def test_only_the_chosen_cameras_are_read(tmp_path: Path) -> None:
    root = record(tmp_path / "data", lengths=(3,))
    (root / "videos/observation.images.front/chunk-000/file-000.mp4").unlink()
    item = open_dataset(root, cameras=["observation.images.wrist"])[0]
    assert "observation.images.front" not in item and item["observation.images.wrist"].dtype == torch.uint8


def test_instruction_ids_are_those_of_blake2b() -> None:
    """RFC 7693 with a digest of 8 bytes; the numbers were computed with `b2sum -l 64`."""
    assert instruction_id("").to_bytes(8, "little", signed=True).hex() == "e4a6a0577479b2b4"
    ids = {instruction_id(f"task {n}") for n in range(1000)}
    assert len(ids) == 1000 and min(ids) < 0 < max(ids) and all(-(2**63) <= number < 2**63 for number in ids)
