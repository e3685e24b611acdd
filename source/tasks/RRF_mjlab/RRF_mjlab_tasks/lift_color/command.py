"""The command term: which cube each row has to lift, where the cubes start, and what became of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from mjlab.managers.command_manager import CommandTerm, CommandTermCfg

NEVER_S = 1.0e9
"""Seconds until a target is drawn anew: it stays for the episode."""


class TargetCube(CommandTerm):
    """One target per episode, drawn with the positions of all cubes when the episode begins.

    A cube is lifted where its centre is at `goal_height` or above. Success is to lift the target for `hold_steps` steps
    in a row.
    """

    cfg: TargetCubeCfg

    def __init__(self, cfg: TargetCubeCfg, env: Any) -> None:
        super().__init__(cfg, env)
        self._cubes = [env.scene[name] for name in cfg.entity_names]
        self._rows = torch.arange(self.num_envs, device=self.device)
        self._one_hot = torch.eye(len(self._cubes), device=self.device)
        targets = cfg.entity_names if cfg.targets is None else cfg.targets
        self._drawn = torch.tensor([cfg.entity_names.index(name) for name in targets], device=self.device)
        self.target = torch.zeros(self.num_envs, dtype=torch.int64, device=self.device)
        """Index of the cube to lift, `(num_envs,)`."""
        self.template = torch.zeros_like(self.target)
        """Index of the instruction's wording, `(num_envs,)`."""
        self.held = torch.zeros_like(self.target)
        """Steps in a row for which the target has been lifted, `(num_envs,)`."""
        self.episode_success = torch.zeros(self.num_envs, device=self.device)
        """1 from the step of success on; the name that the adapter reads."""
        self.wrong_cube = torch.zeros_like(self.episode_success)
        """1 once another cube was lifted."""
        self.metrics = {"success": self.episode_success.clone(), "wrong_cube": self.wrong_cube.clone()}

    @property
    def command(self) -> torch.Tensor:
        """The target, one-hot `(num_envs, C)`."""
        return self._one_hot[self.target]

    def positions(self) -> torch.Tensor:
        """Centres of all cubes in world coordinates, `(num_envs, C, 3)`."""
        return torch.stack([cube.data.root_link_pos_w for cube in self._cubes], dim=1)

    def quaternions(self) -> torch.Tensor:
        """Orientations of all cubes, `(num_envs, C, 4)`, (w, x, y, z)."""
        return torch.stack([cube.data.root_link_quat_w for cube in self._cubes], dim=1)

    def target_position(self) -> torch.Tensor:
        """Centre of the target, `(num_envs, 3)`."""
        return self.positions()[self._rows, self.target]

    def _update_metrics(self) -> None:
        pass  # they count steps, and mjlab refreshes metrics more than once in a step

    def _update_command(self, env_ids: torch.Tensor | None) -> None:
        """Count how long the target has been held, after each step and for the first state of an episode."""
        rows = self._rows if env_ids is None else env_ids
        lifted = self.positions()[rows, :, 2] >= self.cfg.goal_height  # (K, C)
        is_target = self._one_hot[self.target[rows]].bool()
        self.held[rows] = torch.where((lifted & is_target).any(1), self.held[rows] + 1, 0)
        success = (self.held[rows] >= self.cfg.hold_steps).float()
        self.episode_success[rows] = torch.maximum(self.episode_success[rows], success)
        self.wrong_cube[rows] = torch.maximum(self.wrong_cube[rows], (lifted & ~is_target).any(1).float())
        self.metrics["success"][rows] = self.episode_success[rows]
        self.metrics["wrong_cube"][rows] = self.wrong_cube[rows]

    def _resample_command(self, env_ids: torch.Tensor) -> None:
        count, num_cubes = len(env_ids), len(self._cubes)
        drawn = self._drawn[torch.randint(len(self._drawn), (count,), device=self.device)]
        self.target[env_ids] = (drawn + self.cfg.exchange) % num_cubes
        self.template[env_ids] = torch.randint(self.cfg.num_templates, (count,), device=self.device)
        self.held[env_ids] = 0
        self.episode_success[env_ids] = 0.0
        self.wrong_cube[env_ids] = 0.0
        poses = self._drawn_poses(count)
        still = torch.zeros(count, 6, device=self.device)
        for cube, pose in zip(self._cubes, poses.unbind(1), strict=True):
            pose[:, :3] += self._env.scene.env_origins[env_ids]
            cube.write_root_link_pose_to_sim(pose, env_ids=env_ids)
            cube.write_root_link_velocity_to_sim(still, env_ids=env_ids)

    def _drawn_poses(self, count: int) -> torch.Tensor:
        """Poses `(count, C, 7)` on the ground: each cube in a lane of its own, so that none begins inside another."""
        num_cubes, cfg = len(self._cubes), self.cfg
        lane = torch.rand(count, num_cubes, device=self.device).argsort(dim=1)
        place, across = torch.rand(count, 2, num_cubes, device=self.device).unbind(1)
        yaw = (torch.rand(count, num_cubes, device=self.device) - 0.5) * torch.pi  # a cube looks alike after pi / 2
        width = (cfg.y_range[1] - cfg.y_range[0]) / num_cubes
        x = cfg.x_range[0] + place * (cfg.x_range[1] - cfg.x_range[0])
        y = cfg.y_range[0] + (lane + 0.5) * width + (across - 0.5) * (width - cfg.clearance)
        zero = torch.zeros_like(x)
        z = zero + cfg.cube_size
        return torch.stack([x, y, z, torch.cos(yaw / 2), zero, zero, torch.sin(yaw / 2)], dim=-1)


@dataclass(kw_only=True)
class TargetCubeCfg(CommandTermCfg):
    """Options of `TargetCube`; lengths in m."""

    entity_names: tuple[str, ...]
    """Names of the cubes in the scene."""
    targets: tuple[str, ...] | None = None
    """Those of them that are asked for; None: all."""
    exchange: int = 0
    """Offset of the target among the cubes: other than 0 gives the same scene another instruction."""
    num_templates: int = 1
    """Wordings of an instruction."""
    cube_size: float = 0.02
    """Half an edge."""
    goal_height: float = 0.15
    """Of the cube's centre above the ground."""
    hold_steps: int = 5
    """Steps in a row at the goal that make success."""
    x_range: tuple[float, float] = (0.25, 0.38)
    """Away from the robot's base."""
    y_range: tuple[float, float] = (-0.18, 0.18)
    """Sideways, shared out among the cubes."""
    clearance: float = 0.075
    """Least distance across between the centres of two cubes."""
    resampling_time_range: tuple[float, float] = (NEVER_S, NEVER_S)

    def build(self, env: Any) -> TargetCube:
        """See `CommandTermCfg.build`."""
        return TargetCube(self, env)
