"""Made-up gaits of mjlab's robots: a trot for the Go1, a walk for the G1, as motions to try AMP and tracking with.

Joints follow sinusoids around the standing pose; a leg is bent while it swings. The root follows from kinematics: the
lowest foot stands on the ground and does not slip, so height and speed are those of the legs.

    phase of a leg   0 ---- swing, bent, forwards ---- 1/2 ---- stance, straight, backwards ---- 1
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import mujoco
import numpy as np
from mjlab.asset_zoo.robots import get_g1_robot_cfg, get_go1_robot_cfg

from .files import motion_arrays, robot_model

Robot = Literal["Go1", "G1"]


@dataclass(frozen=True)
class Gait:
    """Shape of a gait; angles in rad."""

    make: Any
    legs: dict[str, float]
    """Prefix of the leg's names -> its phase."""
    period: float
    """Duration of a stride in s."""
    stride: float
    """Amplitude of the hip."""
    lift: float
    """How much the knee is bent in the middle of the swing."""
    hip: str
    knee: str
    ankle: str | None
    """Joint that keeps the foot level."""
    knee_sign: float
    """Sign of the knee's angle when bent."""


GAITS: dict[Robot, Gait] = {
    "Go1": Gait(
        get_go1_robot_cfg,
        legs={"FR": 0.0, "RL": 0.0, "FL": 0.5, "RR": 0.5},
        period=0.5,
        stride=0.25,
        lift=0.5,
        hip="{}_thigh_joint",
        knee="{}_calf_joint",
        ankle=None,
        knee_sign=-1.0,
    ),
    "G1": Gait(
        get_g1_robot_cfg,
        legs={"left": 0.0, "right": 0.5},
        period=0.9,
        stride=0.25,
        lift=0.6,
        hip="{}_hip_pitch_joint",
        knee="{}_knee_joint",
        ankle="{}_ankle_pitch_joint",
        knee_sign=1.0,
    ),
}


def make_gait(robot: Robot, seconds: float = 4.0, fps: float = 50.0) -> dict[str, np.ndarray]:
    """Return the arrays of a motion file, see `files`.

    Args:
        robot: Go1 or G1.
        seconds: Duration.
        fps: Frames per second.
    """
    gait = GAITS[robot]
    entity, model = robot_model(gait.make())
    joints = list(entity.joint_names)
    count = round(seconds * fps) + 1
    qpos = np.tile(model.key_qpos[0], (count, 1))
    for leg, offset in gait.legs.items():
        phase = 2.0 * np.pi * (np.arange(count) / fps / gait.period + offset)
        bent = gait.knee_sign * gait.lift * np.clip(np.sin(phase), 0.0, None) ** 2
        # The hip is foremost (its angle least) at the end of the swing, half a period after its start. Half of the
        # bend goes into it, so that the foot is lifted rather than drawn back.
        moves = {gait.hip: gait.stride * np.cos(phase) - 0.5 * bent, gait.knee: bent}
        if gait.ankle is not None:
            moves[gait.ankle] = -moves[gait.hip] - moves[gait.knee]
        for name, values in moves.items():
            qpos[:, 7 + joints.index(name.format(leg))] += values
    _stand_on_lowest_foot(model, qpos, list(gait.legs))
    return motion_arrays(model, qpos, joints, fps)


def _stand_on_lowest_foot(model: Any, qpos: np.ndarray, legs: list[str]) -> None:
    """Set the root's position in all frames, in place."""
    feet = [[i for i in range(model.ngeom) if _is_foot(model.geom(i).name, leg)] for leg in legs]
    data = mujoco.MjData(model)
    before, place = None, np.zeros(2)
    for row in qpos:
        row[:3] = 0.0
        data.qpos[:] = row
        mujoco.mj_kinematics(model, data)
        points = np.stack([data.geom_xpos[geoms].mean(0) for geoms in feet])
        lowest = [min(data.geom_xpos[i, 2] - model.geom_size[i, 0] for i in geoms) for geoms in feet]
        stance = int(np.argmin(lowest))
        # The foot that stands moves backwards under the root, so the root moves forwards over it.
        if before is not None:
            place = place + (before - points)[stance, :2]
        before = points
        row[:3] = (*place, -lowest[stance])


def _is_foot(name: str, leg: str) -> bool:
    return name.startswith(leg) and "foot" in name and name.endswith("collision")
