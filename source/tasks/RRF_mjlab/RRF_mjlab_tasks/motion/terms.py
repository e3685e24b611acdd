"""mjlab's terms of AMP: what style observes, and reference-state initialisation."""

from __future__ import annotations

from typing import Any

import torch
from mjlab.managers import EventTermCfg, ObservationGroupCfg, ObservationTermCfg
from RoboRenForce.buffer.motion import STYLE_GROUP, MotionFrames, read_motion, rotate_back, style_features


def add_style(cfg: Any, options: Any) -> Any:
    """Add the group `amp` and, with motions, the reset event to mjlab's configuration; `options` name the motions."""
    term = ObservationTermCfg(func=style)
    cfg.observations[STYLE_GROUP] = ObservationGroupCfg({"style": term}, enable_corruption=False)
    if options.motions:
        # The last reset event: it overwrites what the task's own ones have written.
        params = {"files": tuple(options.motions), "share": options.motion_share}
        cfg.events["reference_state"] = EventTermCfg(func=reset_to_motion, mode="reset", params=params)
    return cfg


def style(env: Any) -> torch.Tensor:
    """`style_features` of the robot, `(N, 10 + 2 J)`."""
    data = env.scene["robot"].data
    return style_features(
        root_pos=data.root_link_pos_w - env.scene.env_origins,
        root_quat=data.root_link_quat_w,
        root_lin_vel=data.root_link_lin_vel_w,
        root_ang_vel=data.root_link_ang_vel_w,
        joint_pos=data.joint_pos,
        joint_vel=data.joint_vel,
    )


class reset_to_motion:  # noqa: N801 - a term of mjlab is named like a function
    """Set a share of the environments to random frames of motions, at their own place.

    Everything is drawn for all rows that reset, so the fast step can run it on masked rows.
    """

    def __init__(self, cfg: Any, env: Any) -> None:
        robot = env.scene["robot"]
        read = [read_motion(path, env.step_dt, robot.joint_names) for path in cfg.params["files"]]
        self.frames = MotionFrames.join(read).to(env.device)
        self.frames.root_pos[:, :2] = 0.0  # the height is the motion's, place and terrain are the environment's

    def reset(self, env_ids: Any = None) -> None:
        """Forget nothing: the term has no memory."""

    def __call__(self, env: Any, env_ids: torch.Tensor, files: tuple[str, ...], share: float) -> None:
        """Write root and joint states of `env_ids`."""
        del files
        robot, frames, count = env.scene["robot"], self.frames, len(env_ids)
        row = torch.randint(len(frames), (count,), device=env.device)
        chosen = torch.rand(count, 1, device=env.device) < share
        data = robot.data
        pos, quat = frames.root_pos[row] + env.scene.env_origins[env_ids], frames.root_quat[row]
        spin = rotate_back(quat, frames.root_ang_vel[row])  # a free joint turns in its own frame
        self._mix(data.data.qpos, env_ids, data.indexing.free_joint_q_adr, torch.cat([pos, quat], -1), chosen)
        velocity = torch.cat([frames.root_lin_vel[row], spin], -1)
        self._mix(data.data.qvel, env_ids, data.indexing.free_joint_v_adr, velocity, chosen)
        low, high = data.soft_joint_pos_limits[env_ids].unbind(-1)
        joint_pos = torch.where(chosen, frames.joint_pos[row].clamp(low, high), data.joint_pos[env_ids])
        joint_vel = torch.where(chosen, frames.joint_vel[row], data.joint_vel[env_ids])
        robot.write_joint_state_to_sim(joint_pos, joint_vel, env_ids=env_ids)

    def _mix(self, state: Any, env_ids: torch.Tensor, columns: torch.Tensor, new: torch.Tensor, chosen: Any) -> None:
        """Write the chosen rows of columns of the simulator's state, which the link poses follow only later."""
        index = (env_ids.unsqueeze(1), columns)
        state[index] = torch.where(chosen, new, state[index])
