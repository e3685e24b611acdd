"""mjlab's configuration of the task: the Yam arm and coloured cubes, cameras, and the terms of `terms` and `command`.

Built from mjlab's own lift-cube task, whose penalties and, by option, friction randomization stay.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from mjlab.asset_zoo.robots import get_yam_robot_cfg
from mjlab.entity import EntityCfg
from mjlab.envs import mdp
from mjlab.managers.observation_manager import ObservationGroupCfg, ObservationTermCfg
from mjlab.managers.reward_manager import RewardTermCfg
from mjlab.managers.scene_entity_config import SceneEntityCfg
from mjlab.managers.termination_manager import TerminationTermCfg
from mjlab.sensor import CameraSensorCfg
from mjlab.tasks.manipulation.config.yam.env_cfgs import get_cube_spec, yam_lift_cube_env_cfg
from mjlab.utils.lab_api.math import quat_from_matrix
from mjlab.utils.noise import UniformNoiseCfg
from mjlab.utils.spec_config import MaterialCfg, TextureCfg

from . import terms
from .command import TargetCubeCfg

if TYPE_CHECKING:
    from .env_cfg import LiftColorEnvCfg

RGB = {
    "red": (0.85, 0.10, 0.10),
    "green": (0.10, 0.65, 0.15),
    "blue": (0.10, 0.25, 0.90),
    "yellow": (0.95, 0.80, 0.10),
    "purple": (0.55, 0.15, 0.70),
}
"""Colours of cubes, told apart in images and in words."""

TABLE = (0.42, 0.36, 0.30)
"""Colour of the ground."""

CUBE_SIZE = 0.02
"""Half an edge in m."""

OPEN_FINGER = 0.035
"""Initial position of the fingers, in m from the middle of the gripper: open, so that a cube fits."""

ACTION_SCALE = {"joint[123]": 0.3, "joint[45]": 0.4, "joint6": 0.8, "left_finger": 0.04}
"""Size of an action of 1, in rad and m from the initial posture. mjlab's scales let untrained noise turn the wrist
from limit to limit."""

PENALTIES = {"action_rate_l2": -0.005, "joint_pos_limits": -1.0, "joint_vel_hinge": -0.005}
"""Weights of mjlab's penalties, small beside 5 a second for holding the cube: a short run has no curriculum."""

DECIMATION = 10
"""Simulator steps of 5 ms per action: 20 actions a second."""

MAX_CONTACTS, MAX_CONSTRAINTS = 120, 300
"""Of one environment; a grasp beside two resting cubes has about 30 contacts and 120 constraints."""

FRONT_POSITION, FRONT_TARGET = (0.76, 0.0, 0.46), (0.27, 0.0, 0.08)
"""Position of the front camera and the point that it looks at, in m."""

FRONT_ANGLE = 42.0
"""Of view, in degrees."""

VISIBLE = (0, 2)
"""Groups of geometries in images: ground and cubes, and what the robot looks like."""


def lift_color_cfg(cfg: LiftColorEnvCfg) -> Any:
    """mjlab's `ManagerBasedRlEnvCfg` for our options."""
    env_cfg: Any = yam_lift_cube_env_cfg()
    _set_scene(env_cfg, cfg)
    site = SceneEntityCfg("robot", site_names=("grasp_site",))
    finger = SceneEntityCfg("robot", joint_names=("left_finger",))
    env_cfg.commands = {
        terms.COMMAND: TargetCubeCfg(
            entity_names=tuple(cfg.colors),
            targets=None if cfg.targets is None else tuple(cfg.targets),
            exchange=int(cfg.exchange),
            num_templates=len(cfg.templates),
            cube_size=CUBE_SIZE,
            goal_height=cfg.goal_height,
            hold_steps=cfg.hold_steps,
        )
    }
    if not cfg.vary_friction:
        env_cfg.events = {name: event for name, event in env_cfg.events.items() if not name.startswith("fingertip_")}
    env_cfg.actions["joint_pos"].scale = ACTION_SCALE
    env_cfg.observations = _observations(cfg, site)
    penalties = {name: replace(env_cfg.rewards[name], weight=weight) for name, weight in PENALTIES.items()}
    env_cfg.rewards = {
        "reach": RewardTermCfg(func=terms.reach, weight=0.5, params={"std": 0.1, "site": site}),
        "grasp": RewardTermCfg(func=terms.grasp, weight=0.5, params={"near": 0.03, "site": site, "finger": finger}),
        "lift": RewardTermCfg(func=terms.lift, weight=2.0, params={"near": 0.06, "site": site}),
        "at_goal": RewardTermCfg(func=terms.at_goal, weight=2.0, params={}),
        **penalties,
    }
    del env_cfg.terminations["ee_ground_collision"]  # whoever fears the ground learns late to grasp what lies on it
    env_cfg.terminations["wrong_cube"] = TerminationTermCfg(func=terms.wrong_cube_lifted)
    if cfg.end_on_success:
        env_cfg.terminations["success"] = TerminationTermCfg(func=terms.target_lifted)
    env_cfg.curriculum = {}
    env_cfg.decimation = DECIMATION
    env_cfg.episode_length_s = cfg.episode_length_s
    return env_cfg


def _set_scene(env_cfg: Any, cfg: LiftColorEnvCfg) -> None:
    robot: Any = get_yam_robot_cfg()
    fingers = {"left_finger": OPEN_FINGER, "right_finger": -OPEN_FINGER}
    robot.init_state = replace(robot.init_state, joint_pos={**robot.init_state.joint_pos, **fingers})
    env_cfg.scene.entities = {"robot": robot, **{color: _cube(color) for color in cfg.colors}}
    env_cfg.scene.env_spacing = 0.0  # every row at the origin, so that equal starts are equal to the last bit
    terrain = env_cfg.scene.terrain
    terrain.textures = (TextureCfg("table", "2d", "flat", rgb1=TABLE, rgb2=TABLE, width=8, height=8),)
    terrain.materials = (MaterialCfg("table", texture="table", reflectance=0.0, geom_names_expr=("terrain$",)),)
    env_cfg.scene.sensors = tuple(_camera(name, cfg.image_size) for name in cfg.cameras)
    env_cfg.scene.spec_fn = _dim_lights
    env_cfg.sim.nconmax, env_cfg.sim.njmax = MAX_CONTACTS, MAX_CONSTRAINTS


def _cube(color: str) -> EntityCfg:
    return EntityCfg(spec_fn=lambda: get_cube_spec(CUBE_SIZE, rgba=(*RGB[color], 1.0)))


def _dim_lights(spec: Any) -> None:
    """Keep colours: the robot's spotlight and mjlab's sun together turn the table white."""
    for light in spec.lights:
        light.diffuse = [0.4 * value for value in light.diffuse]


def _camera(name: str, size: int) -> CameraSensorCfg:
    camera = CameraSensorCfg(name=name, height=size, width=size, enabled_geom_groups=VISIBLE)
    if name == "wrist":
        return replace(camera, camera_name="robot/camera_d405")
    return replace(camera, pos=FRONT_POSITION, quat=look_at(FRONT_POSITION, FRONT_TARGET), fovy=FRONT_ANGLE)


def look_at(position: tuple[float, ...], target: tuple[float, ...]) -> tuple[float, float, float, float]:
    """Orientation (w, x, y, z) of a camera that looks from `position` to `target`, with z up in the image.

    A camera of MuJoCo looks along its negative z axis, with y up.
    """
    back = torch.nn.functional.normalize(torch.tensor(position) - torch.tensor(target), dim=0)
    right = torch.nn.functional.normalize(torch.linalg.cross(torch.tensor([0.0, 0.0, 1.0]), back), dim=0)
    matrix = torch.stack([right, torch.linalg.cross(back, right), back], dim=1)
    w, x, y, z = quat_from_matrix(matrix.unsqueeze(0))[0].tolist()
    return w, x, y, z


def _observations(cfg: LiftColorEnvCfg, site: SceneEntityCfg) -> dict[str, ObservationGroupCfg]:
    """`actor` and `critic` know where the cubes are, `robot` is what the robot knows of itself; a group per camera."""

    def noise(size: float) -> UniformNoiseCfg:
        return UniformNoiseCfg(n_min=-size, n_max=size)

    state = {
        "joint_pos": ObservationTermCfg(func=mdp.joint_pos_rel, noise=noise(0.01)),
        "joint_vel": ObservationTermCfg(func=mdp.joint_vel_rel, noise=noise(0.5)),
        "grasp_pose": ObservationTermCfg(func=terms.grasp_pose, params={"site": site}),
        "grasp_to_cubes": ObservationTermCfg(func=terms.grasp_to_cubes, params={"site": site}, noise=noise(0.005)),
        "target_pose": ObservationTermCfg(func=terms.target_pose),
        "target": ObservationTermCfg(func=mdp.generated_commands, params={"command_name": terms.COMMAND}),
        "actions": ObservationTermCfg(func=mdp.last_action),
    }
    robot = {
        "joint_pos": ObservationTermCfg(func=mdp.joint_pos_rel),
        "joint_vel": ObservationTermCfg(func=mdp.joint_vel_rel),
    }
    groups = {
        "actor": ObservationGroupCfg(state, enable_corruption=cfg.noise),
        "critic": ObservationGroupCfg(dict(state), enable_corruption=False),
        "robot": ObservationGroupCfg(robot, enable_corruption=False),
    }
    for name in cfg.cameras:
        term = ObservationTermCfg(func=terms.camera_image, params={"sensor_name": name})
        groups[name] = ObservationGroupCfg({name: term}, enable_corruption=False)
    return groups
