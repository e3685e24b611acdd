"""Reference motions of legged robots, and the transitions of their style that AMP compares a policy with.

Files (`read_motion`), with T frames and J joints:

    .csv   LAFAN1 as retargeted by Unitree, without a header: x y z, qx qy qz qw, J joint angles
    .npz   fps, root_pos (T, 3), root_quat (T, 4) as w x y z, joint_pos (T, J), joint_names (J,)
    .npz   mjlab's: fps, joint_pos (T, J), body_pos_w (T, B, 3), body_quat_w (T, B, 4) as w x y z; body 0 is the root

Metres, radians, seconds; the z axis points up. Motions are resampled to the control rate, because a pair of frames
means something only at the time step of the policy; velocities are differences of the resampled frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from torch import Tensor

from ..configclass import Range, configclass
from ..envs.spec import ActionSpec
from .dataset import DatasetCfg, DatasetLoader, TransitionDataset
from .dataset_checks import DatasetError
from .dataset_episodes import EpisodeArrays

STYLE_GROUP = "amp"
"""Observation group of `style_features`."""


@dataclass(frozen=True)
class MotionFrames:
    """States of a robot, `(T, ...)`; quaternions are w x y z, velocities of the root in the world's frame."""

    root_pos: Tensor
    root_quat: Tensor
    root_lin_vel: Tensor
    root_ang_vel: Tensor
    joint_pos: Tensor
    joint_vel: Tensor

    def __len__(self) -> int:
        return len(self.root_pos)

    def style(self) -> Tensor:
        """Return `style_features` of all frames, `(T, 10 + 2 J)`."""
        return style_features(**vars(self))

    @classmethod
    def join(cls, parts: Sequence[MotionFrames]) -> MotionFrames:
        """Concatenate motions."""
        return cls(**{name: torch.cat([vars(part)[name] for part in parts]) for name in vars(parts[0])})

    def to(self, device: torch.device | str) -> MotionFrames:
        """Return the frames on a device, in float32."""
        return MotionFrames(**{name: x.to(device, torch.float32) for name, x in vars(self).items()})


def style_features(
    root_pos: Tensor,
    root_quat: Tensor,
    root_lin_vel: Tensor,
    root_ang_vel: Tensor,
    joint_pos: Tensor,
    joint_vel: Tensor,
) -> Tensor:
    """Return phi(s) `(..., 10 + 2 J)`: what a motion looks like, whatever its place and heading.

    Height, direction of gravity, linear and angular velocity, the last three in the root's frame; joint angles and
    velocities.
    """
    down = torch.zeros_like(root_pos)
    down[..., 2] = -1.0
    local = [rotate_back(root_quat, vector) for vector in (down, root_lin_vel, root_ang_vel)]
    return torch.cat([root_pos[..., 2:3], *local, joint_pos, joint_vel], dim=-1)


def rotate_back(quat: Tensor, vector: Tensor) -> Tensor:
    """Return `vector` `(..., 3)` of the world in the frame that `quat` `(..., 4)` turns to, R(q)^T v."""
    w, axis = quat[..., :1], quat[..., 1:]
    twice = 2.0 * torch.linalg.cross(axis, vector)
    return vector - w * twice + torch.linalg.cross(axis, twice)


def read_motion(
    path: Path | str, step_dt: float, joint_names: Sequence[str] = (), csv_fps: float = 30.0
) -> MotionFrames:
    """Read a motion file and resample it.

    Args:
        path: File, see the module.
        step_dt: Time between two frames of the result, in s.
        joint_names: The robot's joints in its order. Files that name their joints are sorted by it, others have to
            have this order; empty: the order of the file.
        csv_fps: Frame rate of .csv files, which don't have it.

    Raises:
        DatasetError: There is no such file, or it is no motion of this robot.
    """
    path = Path(path)
    if not path.is_file():
        raise DatasetError(
            f"There is no motion '{path}': give a .csv or .npz, or make one, see docs/algorithms/amp.md."
        )
    fps, pos, quat, joints, names = _csv(path, csv_fps) if path.suffix == ".csv" else _npz(path)
    if joint_names:
        joints = _in_order(path, joints, names, joint_names)
    arrays = {"root_pos": pos, "root_quat": quat, "joint_pos": joints}
    for name, array in arrays.items():
        if not np.isfinite(array).all() or len(array) != len(pos) or len(array) < 3:
            raise DatasetError(
                f"{path}: {name} has {len(array)} rows, some perhaps not finite; expected 3 or more finite ones, as "
                "many as the other arrays."
            )
    root_pos, root_quat, joint_pos = (torch.from_numpy(np.asarray(array, np.float64)) for array in arrays.values())
    return resampled(root_pos, root_quat, joint_pos, 1.0 / fps, step_dt)


def resampled(pos: Tensor, quat: Tensor, joints: Tensor, dt: float, step_dt: float) -> MotionFrames:
    """Return frames every `step_dt` seconds of a motion with one every `dt`, with forward differences as velocities."""
    count = int((len(pos) - 1) * dt / step_dt + 1e-6) + 1
    place = (torch.arange(count, dtype=torch.float64) * (step_dt / dt)).clamp(max=len(pos) - 1)
    before = place.long().clamp(max=len(pos) - 2)
    share = (place - before).unsqueeze(-1)
    pos, joints = (torch.lerp(x[before], x[before + 1], share) for x in (pos, joints))
    # q and -q are one rotation; the nearer one is meant. Frames are close: a normalized lerp is a slerp.
    near = quat[before + 1] * torch.where((quat[before] * quat[before + 1]).sum(-1, keepdim=True) < 0, -1.0, 1.0)
    quat = torch.nn.functional.normalize(torch.lerp(quat[before], near, share), dim=-1)
    return MotionFrames(
        root_pos=pos[:-1],
        root_quat=quat[:-1],
        root_lin_vel=pos.diff(dim=0) / step_dt,
        root_ang_vel=_turned(quat[:-1], quat[1:]) / step_dt,
        joint_pos=joints[:-1],
        joint_vel=joints.diff(dim=0) / step_dt,
    )


def _turned(first: Tensor, second: Tensor) -> Tensor:
    """Return the rotation vector `(..., 3)`, in the world's frame, from one orientation to the other."""
    w1, v1, w2, v2 = first[..., :1], first[..., 1:], second[..., :1], second[..., 1:]
    w = w1 * w2 + (v1 * v2).sum(-1, keepdim=True)
    vector = w1 * v2 - w2 * v1 - torch.linalg.cross(v2, v1)  # q2 * conj(q1)
    vector = torch.where(w < 0, -vector, vector)
    norm = vector.norm(dim=-1, keepdim=True)
    return vector * torch.where(norm > 1e-9, 2.0 * torch.atan2(norm, w.abs()) / norm.clamp(min=1e-9), 2.0)


def _csv(path: Path, fps: float) -> tuple[float, np.ndarray, np.ndarray, np.ndarray, list[str] | None]:
    try:
        rows = np.loadtxt(path, delimiter=",", ndmin=2)
    except ValueError as error:
        raise DatasetError(f"{path} is no motion: {error}; expected numbers only, x y z qx qy qz qw joints.") from error
    if rows.shape[1] < 8:
        raise DatasetError(f"{path} has {rows.shape[1]} columns, expected x y z qx qy qz qw and the joints.")
    return fps, rows[:, :3], rows[:, [6, 3, 4, 5]], rows[:, 7:], None


def _npz(path: Path) -> tuple[float, np.ndarray, np.ndarray, np.ndarray, list[str] | None]:
    try:
        with np.load(path, allow_pickle=False) as file:
            data = {name: file[name] for name in file.files}
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path} is no .npz file of plain arrays: {error}") from error
    own = "root_pos" in data
    keys = ("root_pos", "root_quat") if own else ("body_pos_w", "body_quat_w")
    if missing := [key for key in ("fps", *keys, "joint_pos") if key not in data]:
        raise DatasetError(f"{path} lacks {', '.join(missing)} (it has {', '.join(data)}); see docs/algorithms/amp.md.")
    pos, quat = (data[key] if own else data[key][:, 0] for key in keys)
    names = [str(name) for name in data["joint_names"]] if "joint_names" in data else None
    return float(np.ravel(data["fps"])[0]), pos, quat, data["joint_pos"], names


def _in_order(path: Path, joints: np.ndarray, names: list[str] | None, wanted: Sequence[str]) -> np.ndarray:
    if names is None and joints.shape[1] == len(wanted):
        return joints
    if names is None or sorted(names) != sorted(wanted):
        there = f"{joints.shape[1]} joints" if names is None else f"the joints {', '.join(names)}"
        raise DatasetError(f"{path} has {there}, and the robot {len(wanted)}: {', '.join(wanted)}.")
    return joints[:, [names.index(name) for name in wanted]]


class MotionDataset(DatasetLoader):
    """Reader of the files of a `MotionDatasetCfg`; every file is an episode."""

    cfg: MotionDatasetCfg

    def read(self) -> TransitionDataset:
        """See `DatasetLoader.read`; actions and rewards are 0."""
        cfg = self.cfg
        episodes = []
        for number, path in enumerate(cfg.files):
            style = read_motion(path, cfg.step_dt, cfg.joint_names, cfg.csv_fps).style().numpy()
            steps = len(style) - 1
            ended = np.arange(steps) == steps - 1
            nothing = np.zeros(steps)
            episodes.append(
                EpisodeArrays(
                    f"motion_{number}", {STYLE_GROUP: style}, nothing[:, None], nothing, np.zeros_like(ended), ended
                )
            )
        return TransitionDataset.from_episodes(
            episodes, source=", ".join(cfg.files) or "motions", action=ActionSpec("continuous", 1, (-1.0,), (1.0,))
        )


@configclass
class MotionDatasetCfg(DatasetCfg):
    """Motions as an expert of AMP: pairs of `style_features` in the group `amp`."""

    class_type: type = MotionDataset
    files: list[str] = []
    """Motion files, .csv or .npz."""
    step_dt: Annotated[float, Range(gt=0)] = 0.02
    """Time step of the policy in s, to which motions are resampled."""
    joint_names: list[str] = []
    """The robot's joints in its order; empty: files have this order already."""
    csv_fps: Annotated[float, Range(gt=0)] = 30.0
    """Frame rate of .csv files."""
