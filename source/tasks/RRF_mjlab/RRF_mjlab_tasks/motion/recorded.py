"""Motions of trained policies: what a velocity policy does when one command is held."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from RoboRenForce.algorithms import Policy
from RoboRenForce.envs.vec_env import VecEnv
from RoboRenForce.runners.evaluation import playing
from RoboRenForce.utils.errors import UserError

from ..env_cfg import MJLabEnvCfg
from .files import motion_arrays, robot_model

SETTLING_S = 2.0
"""Seconds from the standing start that are not recorded."""


def recording_cfg(cfg: MJLabEnvCfg, velocity: Sequence[float]) -> MJLabEnvCfg:
    """Return the play variant of a velocity task with one robot and one command.

    Args:
        cfg: Environment of the task.
        velocity: Forwards and to the left in m/s, turning left in rad/s.
    """
    ranges = zip(("lin_vel_x", "lin_vel_y", "ang_vel_z"), velocity, strict=True)
    command = {f"commands.twist.ranges.{name}": [value, value] for name, value in ranges}
    command |= {f"commands.twist.rel_{kind}_envs": 0.0 for kind in ("standing", "heading", "world", "forward")}
    command |= {"commands.twist.heading_command": False, "commands.twist.ranges.heading": None}
    return cfg.replace(play=True, num_envs=1, groups=None, mjlab=cfg.mjlab | command)


@torch.no_grad()
def record(env: VecEnv, policy: Policy, seconds: float) -> dict[str, np.ndarray]:
    """Play the mode of a policy and return the arrays of a motion file, see `files`.

    Raises:
        UserError: The robot fell.
    """
    simulator: Any = env.unwrapped
    robot, rows = simulator.scene["robot"], []
    entity, model = robot_model(robot.cfg)
    skipped, count = round(SETTLING_S / simulator.step_dt), round(seconds / simulator.step_dt) + 1
    with playing(policy, deterministic=True, seed=0):
        obs, _ = env.reset(seed=0)
        for step in range(skipped + count):
            obs, _, done, _ = env.step(policy(obs))
            if bool(done.any()):
                raise UserError(f"The robot fell after {step + 1} steps: take another checkpoint or --velocity.")
            place = robot.data.root_link_pos_w - simulator.scene.env_origins
            rows.append(torch.cat([place, robot.data.root_link_quat_w, robot.data.joint_pos], dim=-1)[0].cpu().numpy())
    qpos = np.stack(rows[skipped:]).astype(np.float64)
    qpos[:, :2] -= qpos[0, :2]
    return motion_arrays(model, qpos, list(entity.joint_names), 1.0 / simulator.step_dt)
