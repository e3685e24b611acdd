"""Motion files of mjlab's robots: one .npz with the keys of `RoboRenForce.buffer.motion`, and mjlab's beside.

So one file serves AMP and mjlab's tracking task.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mujoco
import numpy as np
from mjlab.entity import Entity
from RoboRenForce.utils.errors import UserError


def robot_model(cfg: Any) -> tuple[Entity, Any]:
    """Return the entity of a robot's configuration, and MuJoCo's model of it alone.

    Raises:
        UserError: It has no floating base.
    """
    entity = Entity(cfg)
    model = entity.spec.compile()
    if len(entity.joint_names) != model.nq - 7:
        raise UserError(
            f"The robot has {model.nq} positions and {len(entity.joint_names)} joints; motions need a floating base."
        )
    return entity, model


def require_new(path: Path) -> None:
    """Refuse a path that no motion can be written to."""
    if path.suffix != ".npz" or path.exists():
        raise UserError(f"'{path}' can't be written: expected a new file that ends in .npz, choose another --output.")


def write_motion(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write the arrays of a motion to a new .npz file."""
    require_new(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **arrays)


def motion_arrays(model: Any, qpos: np.ndarray, joints: list[str], fps: float) -> dict[str, np.ndarray]:
    """Return the arrays of a file; velocities are central differences.

    Args:
        model: Model of `robot_model`.
        qpos: `(T, 7 + J)`, place and orientation (w x y z) of the root, and the joints.
        joints: Names of the joints.
        fps: Frames per second.
    """
    data = mujoco.MjData(model)
    velocity = np.zeros((len(qpos), model.nv))
    for row, last, following in zip(velocity, [qpos[0], *qpos[:-1]], [*qpos[1:], qpos[-1]], strict=True):
        mujoco.mj_differentiatePos(model, row, 2.0 / fps, last, following)
    velocity[[0, -1]] *= 2.0  # one-sided at both ends
    bodies: dict[str, list[np.ndarray]] = {name: [] for name in ("pos", "quat", "lin_vel", "ang_vel")}
    spatial = np.zeros(6)
    for position, speed in zip(qpos, velocity, strict=True):
        data.qpos[:], data.qvel[:] = position, speed
        mujoco.mj_forward(model, data)
        speeds = []
        for body in range(1, model.nbody):
            mujoco.mj_objectVelocity(model, data, mujoco.mjtObj.mjOBJ_XBODY, body, spatial, 0)
            speeds.append(spatial.copy())
        bodies["pos"].append(data.xpos[1:].copy())
        bodies["quat"].append(data.xquat[1:].copy())
        bodies["lin_vel"].append(np.stack(speeds)[:, 3:])
        bodies["ang_vel"].append(np.stack(speeds)[:, :3])
    return {
        "fps": np.array(fps),
        "root_pos": qpos[:, :3],
        "root_quat": qpos[:, 3:7],
        "joint_pos": qpos[:, 7:],
        "joint_vel": velocity[:, 6:],
        "joint_names": np.array(joints),
        **{f"body_{name}_w": np.stack(values) for name, values in bodies.items()},
    }
