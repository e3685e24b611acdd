"""Observation, reward and termination terms: functions of mjlab's environment, `(num_envs, ...)`.

Observations are in the frame of the robot's base, which stands at the origin unturned. `site` is the grasp point,
between the finger tips.
"""

from __future__ import annotations

from typing import Any

import torch
from mjlab.managers.scene_entity_config import SceneEntityCfg

from .command import TargetCube

COMMAND = "target"

UPRIGHT = 0.8
"""Cosine of the angle to straight down, 37 degrees, up to which the hand counts as pointing down."""


def _target(env: Any) -> TargetCube:
    return env.command_manager.get_term(COMMAND)


def _grasp_position(env: Any, site: SceneEntityCfg) -> torch.Tensor:
    return env.scene[site.name].data.site_pos_w[:, site.site_ids].squeeze(1)


def pointing_down(env: Any, site: SceneEntityCfg) -> torch.Tensor:
    """1 where the hand points at the ground, 1/2 at 48 degrees, 0 where it lies on its side, `(num_envs,)`.

    Pressed against the ground the hand rolls over, and as a lever it brings the cube to 10 cm: more is paid on the way
    there than on the way out, down again and up by the arm. Whoever rolls over is to gain nothing.
    """
    _, x, y, _ = env.scene[site.name].data.site_quat_w[:, site.site_ids].squeeze(1).unbind(-1)
    cosine = 2.0 * (x * x + y * y) - 1.0  # of the site's z axis to straight down
    return (cosine / UPRIGHT).clamp(0.0, 1.0) ** 4


# --- observations ----------------------------------------------------------------------------------------------------


def grasp_to_cubes(env: Any, site: SceneEntityCfg) -> torch.Tensor:
    """From the grasp point to each cube, the target first and the others in order behind it, `(num_envs, C * 3)`."""
    term = _target(env)
    cubes = term.positions() - _grasp_position(env, site).unsqueeze(1)
    count = cubes.shape[1]
    order = (term.target.unsqueeze(1) + torch.arange(count, device=cubes.device)) % count
    return cubes.gather(1, order.unsqueeze(2).expand(-1, -1, 3)).flatten(1)


def target_pose(env: Any) -> torch.Tensor:
    """Height of the target in m, and its yaw as sine and cosine of four times the angle, `(num_envs, 3)`.

    A cube looks the same after a quarter turn, and so does this.
    """
    term = _target(env)
    rows = torch.arange(env.num_envs, device=term.target.device)
    w, x, y, z = term.quaternions()[rows, term.target].unbind(-1)
    yaw = torch.atan2(2.0 * (w * z + x * y), 1.0 - 2.0 * (y * y + z * z))
    return torch.stack([term.target_position()[:, 2], torch.sin(4.0 * yaw), torch.cos(4.0 * yaw)], dim=-1)


def grasp_pose(env: Any, site: SceneEntityCfg) -> torch.Tensor:
    """Position (m) and orientation (w, x, y, z) of the grasp point, `(num_envs, 7)`."""
    data = env.scene[site.name].data
    return torch.cat([_grasp_position(env, site), data.site_quat_w[:, site.site_ids].squeeze(1)], dim=-1)


def camera_image(env: Any, sensor_name: str) -> torch.Tensor:
    """Return the image of a camera, uint8 `(num_envs, H, W, 3)`."""
    return env.scene[sensor_name].data.rgb


# --- rewards ---------------------------------------------------------------------------------------------------------


def reach(env: Any, std: float, site: SceneEntityCfg) -> torch.Tensor:
    """1 where the target is between the fingers, falling with its distance."""
    distance = (_target(env).target_position() - _grasp_position(env, site)).norm(dim=-1)
    return 1.0 - torch.tanh(distance / std)


def grasp(env: Any, near: float, site: SceneEntityCfg, finger: SceneEntityCfg) -> torch.Tensor:
    """Return how far an upright hand has closed on the target, 0 to 1; 0 if it is not between the fingers."""
    data, size = env.scene[finger.name].data, _target(env).cfg.cube_size
    opening = data.joint_pos[:, finger.joint_ids].squeeze(1)  # from the middle
    opened = data.default_joint_pos[:, finger.joint_ids].squeeze(1)
    closed = ((opened - opening) / (opened - size)).clamp(0.0, 1.0)
    distance = (_target(env).target_position() - _grasp_position(env, site)).norm(dim=-1)
    return closed * torch.exp(-torch.square(distance / near)) * pointing_down(env, site)


def lift(env: Any, near: float, site: SceneEntityCfg) -> torch.Tensor:
    """Return the lifted share of the goal height, 0 to 1, while the target is between the fingers of an upright hand.

    Nothing is to be gained by throwing it, by tilting it, or by rolling the hand over on the ground.
    """
    term = _target(env)
    position = term.target_position()
    start = term.cfg.cube_size
    height = ((position[:, 2] - start) / (term.cfg.goal_height - start)).clamp(0.0, 1.0)
    distance = (position - _grasp_position(env, site)).norm(dim=-1)
    return height * torch.exp(-torch.square(distance / near)) * pointing_down(env, site)


def at_goal(env: Any) -> torch.Tensor:
    """1 in every step in which the target is lifted."""
    return (_target(env).held > 0).float()


# --- ends of episodes ------------------------------------------------------------------------------------------------


def target_lifted(env: Any) -> torch.Tensor:
    """Return True where the target has been held long enough."""
    return _target(env).episode_success > 0


def wrong_cube_lifted(env: Any) -> torch.Tensor:
    """Return True where another cube was lifted."""
    return _target(env).wrong_cube > 0
