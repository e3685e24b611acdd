"""Motion files, resampling and the features of style."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from RoboRenForce.buffer import DatasetError
from RoboRenForce.buffer.motion import MotionDatasetCfg, MotionFrames, read_motion, rotate_back

pytestmark = pytest.mark.oracle

SPEED, RATE = 1.2, 0.9
"""Of a circle: m/s along x of the root, and rad/s about z."""


def circle(count: int = 31, fps: float = 30.0, heading: float = 0.0) -> dict[str, Any]:
    """Walk a circle at constant speed, starting at `heading`, with two joints that turn evenly."""
    time = np.arange(count) / fps
    yaw = heading + RATE * time
    radius = SPEED / RATE
    pos = np.stack([radius * np.sin(yaw), -radius * np.cos(yaw), np.full(count, 0.3)], axis=1)
    quat = np.stack([np.cos(yaw / 2), 0 * yaw, 0 * yaw, np.sin(yaw / 2)], axis=1)
    joints = np.stack([0.5 * time, -time], axis=1)
    return {"fps": np.array(fps), "root_pos": pos, "root_quat": quat, "joint_pos": joints}


def written(path: Path, **changes: Any) -> Path:
    np.savez(path, **(circle() | changes))
    return path


def test_style_of_a_circle_is_constant_but_for_the_joints(tmp_path: Path) -> None:
    style = read_motion(written(tmp_path / "a.npz"), 0.02).style()
    expected = torch.tensor([0.3, 0, 0, -1, SPEED, 0, 0, 0, 0, RATE], dtype=torch.float64)
    # Chords of the 30 frames, and velocities half a step ahead of the heading.
    torch.testing.assert_close(style[:, :10], expected.expand(len(style), 10), atol=0.03, rtol=0)
    torch.testing.assert_close(style[:, 9], torch.full((len(style),), RATE, dtype=torch.float64), atol=1e-3, rtol=0)
    time = 0.02 * torch.arange(len(style), dtype=torch.float64)
    torch.testing.assert_close(style[:, 10:], torch.stack([0.5 * time, -time, 0 * time + 0.5, 0 * time - 1], dim=1))
    assert len(style) == 50  # one second


def test_style_does_not_depend_on_place_and_heading(tmp_path: Path) -> None:
    turned = circle(heading=2.0)
    turned["root_pos"] = turned["root_pos"] + [5.0, -3.0, 0.0]
    plain, moved = (read_motion(written(tmp_path / f"{i}.npz", **c), 0.02) for i, c in enumerate([circle(), turned]))
    torch.testing.assert_close(plain.style(), moved.style())


def test_all_formats_are_one_motion(tmp_path: Path) -> None:
    motion = circle()
    own = read_motion(written(tmp_path / "own.npz"), 0.02)
    rows = np.concatenate([motion["root_pos"], motion["root_quat"][:, [1, 2, 3, 0]], motion["joint_pos"]], axis=1)
    np.savetxt(tmp_path / "m.csv", rows, delimiter=",", fmt="%.17g")
    bodies = {"body_pos_w": motion["root_pos"][:, None], "body_quat_w": motion["root_quat"][:, None]}
    np.savez(tmp_path / "mjlab.npz", fps=[30.0], joint_pos=motion["joint_pos"], **bodies)
    for name in ("m.csv", "mjlab.npz"):
        torch.testing.assert_close(read_motion(tmp_path / name, 0.02).style(), own.style())


def test_quaternions_of_either_sign_are_one_rotation(tmp_path: Path) -> None:
    quat = circle()["root_quat"]
    quat[::2] *= -1.0
    flipped = read_motion(written(tmp_path / "a.npz", root_quat=quat), 0.02)
    torch.testing.assert_close(flipped.style(), read_motion(written(tmp_path / "b.npz"), 0.02).style())


def test_joints_are_sorted_by_name(tmp_path: Path) -> None:
    path = written(tmp_path / "a.npz", joint_names=np.array(["knee", "hip"]))
    assert read_motion(path, 0.02, ["hip", "knee"]).joint_vel[0].tolist() == pytest.approx([-1.0, 0.5])
    with pytest.raises(DatasetError, match="has the joints knee, hip, and the robot 2: hip, ankle"):
        read_motion(path, 0.02, ["hip", "ankle"])


def test_rotate_back_turns_the_world_into_the_root() -> None:
    """Yaw by 90 degrees: what points along y of the world is ahead."""
    quat = torch.tensor([math.cos(math.pi / 4), 0.0, 0.0, math.sin(math.pi / 4)])
    torch.testing.assert_close(rotate_back(quat, torch.tensor([0.0, 2.0, 1.0])), torch.tensor([2.0, 0.0, 1.0]))


def test_pairs_never_straddle_two_motions(tmp_path: Path) -> None:
    files = [written(tmp_path / "a.npz"), written(tmp_path / "b.npz", **circle(heading=1.0, count=61))]
    data = MotionDatasetCfg(files=[str(path) for path in files]).build()
    lengths = [len(read_motion(path, 0.02)) for path in files]
    assert len(data) == sum(lengths) - 2
    joint = data.obs["amp"][:, 10]
    torch.testing.assert_close(data.next_obs["amp"][:, 10] - joint, torch.full_like(joint, 0.01), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"joint_pos": np.full((31, 2), np.nan)}, "joint_pos has 31 rows"),
        ({"joint_pos": np.zeros((30, 2))}, "joint_pos has 30 rows"),
    ],
)
def test_broken_motions_are_refused(tmp_path: Path, content: dict[str, Any], message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        read_motion(written(tmp_path / "a.npz", **content), 0.02)


def test_a_file_without_its_keys_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", joint_pos=np.zeros((5, 2)))
    with pytest.raises(DatasetError, match="lacks fps, body_pos_w, body_quat_w"):
        read_motion(tmp_path / "a.npz", 0.02)


def test_motions_are_joined() -> None:
    frames = MotionFrames(*(torch.zeros(3, width) for width in (3, 4, 3, 3, 2, 2)))
    assert len(MotionFrames.join([frames, frames])) == 6
