"""Run by the Python of an environment that has LeRobot 0.4.4, never by ours.

python lerobot_peer.py items ROOT OUT.npz DELTAS     every item of a dataset
python lerobot_peer.py record ROOT                   a small dataset
"""

from __future__ import annotations

import json
import sys

import av
import numpy as np
import torch
from lerobot.datasets import lerobot_dataset, video_utils


def decode_video_frames(path, timestamps, tolerance_s, backend=None):
    """Stands for LeRobot's own, which needs a reader that newer releases of torchvision do not have."""
    times, frames = [], []
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        container.seek(int(min(timestamps) / stream.time_base), stream=stream, backward=True)
        for frame in container.decode(stream):
            times.append(float(frame.pts * stream.time_base))
            frames.append(torch.from_numpy(frame.to_ndarray(format="rgb24")))
            if times[-1] >= max(timestamps):
                break
    distance, nearest = (torch.tensor(timestamps)[:, None] - torch.tensor(times)).abs().min(dim=1)
    assert (distance < tolerance_s).all()
    return torch.stack([frames[index] for index in nearest.tolist()]).permute(0, 3, 1, 2).float() / 255


lerobot_dataset.decode_video_frames = video_utils.decode_video_frames = decode_video_frames


def items(root: str, out: str, deltas: str) -> None:
    dataset = lerobot_dataset.LeRobotDataset("local/test", root=root, delta_timestamps=json.loads(deltas) or None)
    columns: dict[str, list] = {}
    for index in range(len(dataset)):
        for key, value in dataset[index].items():
            columns.setdefault(key, []).append(value.numpy() if torch.is_tensor(value) else value)
    for key, values in columns.items():
        if key.startswith("observation.images.") and values[0].dtype == np.float32:
            columns[key] = [np.round(value * 255).astype(np.uint8) for value in values]
    np.savez_compressed(out, **{key: np.asarray(values) for key, values in columns.items()})


def record(root: str) -> None:
    camera = {"shape": (64, 64, 3), "names": ["height", "width", "channels"]}
    features = {
        "observation.state": {"dtype": "float32", "shape": (3,), "names": ["x", "y", "z"]},
        "action": {"dtype": "float32", "shape": (2,), "names": ["u", "v"]},
        "gripper": {"dtype": "float32", "shape": (1,), "names": ["width"]},
        "pose": {"dtype": "float64", "shape": (2, 3), "names": None},
        "observation.images.front": {"dtype": "video", **camera},
        "observation.images.wrist": {"dtype": "image", **camera},
    }
    dataset = lerobot_dataset.LeRobotDataset.create("local/test", fps=10, root=root, features=features, use_videos=True)
    for episode, length in enumerate((4, 6, 3)):
        for frame in range(length):
            y, x = np.mgrid[:64, :64]
            red = 40 + 15 * frame + 0 * y
            picture = np.stack([red, 30 + 2 * y, 60 + 20 * episode + 2 * x], -1).clip(0, 255).astype(np.uint8)
            dataset.add_frame(
                {
                    "observation.state": np.asarray([episode, frame, 0.5], np.float32),
                    "action": np.asarray([frame * 0.1, -episode], np.float32),
                    "gripper": np.asarray([frame / 8], np.float32),
                    "pose": np.arange(6.0).reshape(2, 3) * frame,
                    "observation.images.front": picture,
                    "observation.images.wrist": picture[::-1].copy(),
                    "task": ("lift", "push")[episode % 2],
                }
            )
        dataset.save_episode()
    dataset.finalize()


if __name__ == "__main__":
    {"items": items, "record": record}[sys.argv[1]](*sys.argv[2:])
