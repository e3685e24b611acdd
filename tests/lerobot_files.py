"""Small datasets for tests: recorded with our writer, or written by hand by the rules of LeRobot v2.1."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from RoboRenForce.data import LeRobotDataset, LeRobotDatasetCfg, LeRobotWriter

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

FPS = 10
HEIGHT, WIDTH = 32, 48
TASKS = ("put the red block on the blue plate", "open the drawer")
FEATURES: dict[str, Any] = {
    "observation.state": {"dtype": "float32", "shape": [3], "names": ["x", "y", "z"]},
    "action": {"dtype": "float32", "shape": [2]},
    "observation.images.front": {
        "dtype": "video",
        "shape": [HEIGHT, WIDTH, 3],
        "names": ["height", "width", "channels"],
    },
    "observation.images.wrist": {
        "dtype": "image",
        "shape": [HEIGHT, WIDTH, 3],
        "names": ["height", "width", "channels"],
    },
}


def state(episode: int, frame: int) -> np.ndarray:
    return np.asarray([episode, frame, episode * 0.5 + frame * 0.25], np.float32)


def action(episode: int, frame: int) -> np.ndarray:
    return np.asarray([frame * 0.1, -episode], np.float32)


def smooth(episode: int, frame: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """A picture that a video codec keeps: brightness says the frame, the gradient the episode."""
    y, x = np.mgrid[:height, :width]
    red = 40 + 10 * frame + 0 * y
    return np.stack([red, 30 + 4 * y + 0 * x, 60 + 20 * episode + x], -1).clip(0, 255).astype(np.uint8)


def noisy(episode: int, frame: int) -> np.ndarray:
    """A picture that only lossless files keep."""
    return np.random.default_rng([episode, frame]).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)


def frame_of(episode: int, frame: int, features: dict[str, Any] = FEATURES) -> dict[str, Any]:
    values = {
        "observation.state": state(episode, frame),
        "action": action(episode, frame),
        "observation.images.front": smooth(episode, frame),
        "observation.images.wrist": noisy(episode, frame),
    }
    return {key: values[key] for key in features}


def record_episode(writer: LeRobotWriter, episode: int, length: int, features: dict[str, Any] = FEATURES) -> None:
    for frame in range(length):
        writer.add_frame(frame_of(episode, frame, features), task=TASKS[episode % len(TASKS)])
    writer.save_episode()


def record(
    root: Path, lengths: tuple[int, ...] = (5, 8, 6), features: dict[str, Any] = FEATURES, **options: Any
) -> Path:
    """A finished dataset with episodes of these lengths."""
    with LeRobotWriter.create(root, fps=FPS, features=features, **options) as writer:
        for episode, length in enumerate(lengths):
            record_episode(writer, episode, length, features)
    return root


def open_dataset(root: Path, **options: Any) -> LeRobotDataset:
    return LeRobotDatasetCfg(data_root=str(root), **options).build()


def require_episodes(root: Path, lengths: tuple[int, ...]) -> None:
    """The dataset holds what was recorded in episodes of these lengths, and nothing else."""
    dataset = open_dataset(root)
    assert dataset.metadata.episodes.length.tolist() == list(lengths)
    batch = dataset.get_batch(np.arange(len(dataset)))
    places = [(e, f) for e, length in enumerate(lengths) for f in range(length)]
    np.testing.assert_array_equal(batch["observation.state"], [state(e, f) for e, f in places])
    np.testing.assert_array_equal(batch["action"], [action(e, f) for e, f in places])
    for camera in dataset.cameras:
        if "front" in camera:
            for image, (e, f) in zip(batch[camera].numpy(), places, strict=True):
                assert np.abs(image.astype(int) - smooth(e, f)).mean() < 4, (e, f)


NUMBERS = {key: FEATURES[key] for key in ("observation.state", "action")}
"""Features without cameras: recorded in no time."""
VIDEO_ONLY = NUMBERS | {"observation.images.front": FEATURES["observation.images.front"]}


def cut(path: Path, share: float) -> None:
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])


def edit_json(path: Path, **changes: Any) -> None:
    data = json.loads(path.read_text())
    path.write_text(json.dumps(data | changes))


def edit_table(path: Path, edit: Any) -> None:
    """Rewrite a parquet file as `edit(table)`, in row groups of its own."""
    table = pq.read_table(path)
    pq.write_table(edit(table), path)


def column_of(path: Path, key: str, row: int, value: Any) -> None:
    """Replace one value of a parquet file."""

    def edit(table: pa.Table) -> pa.Table:
        values = table.column(key).to_pylist()
        values[row] = value
        return table.set_column(table.schema.get_field_index(key), key, pa.array(values, table.schema.field(key).type))

    edit_table(path, edit)


def write_video(path: Path, pictures: list[np.ndarray], fps: int = FPS, codec: str = "libx264", **options: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=fps, options=options)
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


def write_v21(root: Path, lengths: tuple[int, ...] = (5, 8, 6), chunks_size: int = 2, **video: str) -> Path:
    """A dataset of v2.1 with one video, written by the rules of the format and without our writer."""
    index = 0
    statistics = []
    for episode, length in enumerate(lengths):
        chunk = episode // chunks_size
        counter = np.arange(length)
        states = np.stack([state(episode, frame) for frame in range(length)])
        actions = np.stack([action(episode, frame) for frame in range(length)])
        columns = {
            "observation.state": pa.FixedSizeListArray.from_arrays(pa.array(states.reshape(-1)), 3),
            "action": pa.array(actions.tolist(), pa.list_(pa.float32())),
            "timestamp": pa.array((counter / FPS).astype(np.float32)),
            "frame_index": pa.array(counter),
            "episode_index": pa.array(np.full(length, episode)),
            "index": pa.array(index + counter),
            "task_index": pa.array(np.full(length, episode % 2)),
        }
        path = root / f"data/chunk-{chunk:03d}/episode_{episode:06d}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(columns), path)
        name = f"videos/chunk-{chunk:03d}/observation.images.front/episode_{episode:06d}.mp4"
        write_video(root / name, [smooth(episode, frame) for frame in range(length)], **video)
        statistics.append({"episode_index": episode, "stats": _statistics(states, actions)})
        index += length
    standard = {key: {"dtype": "int64", "shape": [1], "names": None}
                for key in ("frame_index", "episode_index", "index", "task_index")}  # fmt: skip
    features = VIDEO_ONLY | {"timestamp": {"dtype": "float32", "shape": [1], "names": None}} | standard
    info = {
        "codebase_version": "v2.1",
        "robot_type": "toy",
        "total_episodes": len(lengths),
        "total_frames": index,
        "total_tasks": 2,
        "total_videos": len(lengths),
        "total_chunks": -(-len(lengths) // chunks_size),
        "chunks_size": chunks_size,
        "fps": FPS,
        "splits": {"train": f"0:{len(lengths)}"},
        "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        "video_path": "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
        "features": features,
    }
    (root / "meta").mkdir()
    (root / "meta/info.json").write_text(json.dumps(info))
    _write_lines(root / "meta/tasks.jsonl", [{"task_index": n, "task": text} for n, text in enumerate(TASKS)])
    episodes = [{"episode_index": n, "tasks": [TASKS[n % 2]], "length": length} for n, length in enumerate(lengths)]
    _write_lines(root / "meta/episodes.jsonl", episodes)
    _write_lines(root / "meta/episodes_stats.jsonl", statistics)
    return root


def _statistics(states: np.ndarray, actions: np.ndarray) -> dict[str, Any]:
    return {
        key: {name: getattr(values, name)(axis=0).tolist() for name in ("min", "max", "mean", "std")}
        | {"count": [len(values)]}
        for key, values in {"observation.state": states, "action": actions}.items()
    }


def _write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
