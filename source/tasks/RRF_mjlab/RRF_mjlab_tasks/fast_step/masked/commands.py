"""Command terms with fixed sizes: `CommandTerm.compute` and `reset` for a mask of rows.

A term is run by an adapter. `CommandRows` serves terms that only implement `_resample_command`, `_update_metrics` and
`_update_command` with code that is separable by environment; mjlab's own terms that branch on values have their own. A
term without a fitting adapter runs mjlab's code, with a sync.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from mjlab.managers.command_manager import CommandTerm
from mjlab.tasks.manipulation.mdp.commands import MultiCubeLiftingCommand
from mjlab.utils.lab_api.math import wrap_to_pi

from ..errors import NotMaskableError
from .rows import RowCaller, masked_mean


class CommandRows:
    """Adapter of a term that inherits `compute` and `reset` from `CommandTerm`."""

    moves_bodies = False
    """True if a resample writes simulation state, so that `forward()` has to follow."""
    reads_kinematics = False
    """True if it reads positions and velocities only, so that the forces of `forward()` need not precede it."""

    def __init__(self, term: CommandTerm, rows: RowCaller) -> None:
        self.term: Any = term
        self.rows = rows

    def advance(self, dt: float | torch.Tensor, metric_rows: torch.Tensor | None) -> None:
        """Advance the command by one step; metrics are updated in `metric_rows`, or everywhere."""
        self._update_metrics(metric_rows)
        self.term.time_left -= dt
        self.resample(self.term.time_left <= 0.0)
        self._update(None)

    def refresh(self, mask: torch.Tensor) -> None:
        """Do the step of duration 0 that follows a reset, in the rows of `mask`."""
        self._update_metrics(mask)
        self.resample(mask & (self.term.time_left <= 0.0))
        self._update(mask)

    def reset(self, mask: torch.Tensor, count: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
        """Start an episode in the rows of `mask`; yields the mean metrics of the finished ones."""
        for name, value in self.term.metrics.items():
            yield name, masked_mean(value, mask, count)
            value.masked_fill_(mask, 0.0)
        self.term.command_counter.masked_fill_(mask, 0)
        self.resample(mask)

    def _update_metrics(self, mask: torch.Tensor | None) -> None:
        if mask is None:
            self.term._update_metrics()
        else:
            self.rows.call(lambda _ids: self.term._update_metrics(), mask, self.term)

    def resample(self, mask: torch.Tensor) -> None:
        """Call `_resample` in the rows of `mask`."""
        term = self.term
        low, high = term.cfg.resampling_time_range
        torch.where(mask, torch.empty_like(term.time_left).uniform_(low, high), term.time_left, out=term.time_left)
        self._resample_command(mask)
        term.command_counter += mask

    def _resample_command(self, mask: torch.Tensor) -> None:
        self.rows.call(self.term._resample_command, mask, self.term)

    def _update(self, mask: torch.Tensor | None) -> None:
        if mask is None:
            self.term._update_command(None)
        else:
            self.rows.call(self.term._update_command, mask, self.term)

    def after_forward(self) -> None:
        """Finish a resample after the `forward()` that followed it."""

    def end_step(self) -> None:
        """Do what comes once per step, after its last resample."""


class VelocityRows(CommandRows):
    """Adapter of mjlab's velocity command, with its headings, world frames and standing environments."""

    reads_kinematics = True

    def advance(self, dt: float | torch.Tensor, metric_rows: torch.Tensor | None) -> None:
        """See `CommandRows.advance`."""
        if self.term._joystick_enabled is not None:
            raise NotMaskableError("a viewer's joystick drives the command")
        super().advance(dt, metric_rows)

    def reset(self, mask: torch.Tensor, count: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
        """See `CommandRows.reset`; some episodes start at the commanded velocity."""
        yield from super().reset(mask, count)
        term = self.term
        if term.cfg.init_velocity_prob > 0.0:
            moving = mask & (torch.rand_like(term.time_left) < term.cfg.init_velocity_prob)
            velocity = torch.zeros(term.num_envs, 6, device=term.device)
            velocity[:, :2] = term.vel_command_b[:, :2]
            velocity[:, 5] = term.vel_command_b[:, 2]
            self.rows.call(lambda ids: term.robot.write_root_link_velocity_b_to_sim(velocity, env_ids=ids), moving)

    def _update_metrics(self, mask: torch.Tensor | None) -> None:
        term = self.term
        steps = term.cfg.resampling_time_range[1] / term._env.step_dt  # errors are shares of the longest command
        data, command = term.robot.data, term.vel_command_b
        xy = torch.norm(command[:, :2] - data.root_link_lin_vel_b[:, :2], dim=-1) / steps
        yaw = torch.abs(command[:, 2] - data.root_link_ang_vel_b[:, 2]) / steps
        for name, error in (("error_vel_xy", xy), ("error_vel_yaw", yaw)):
            term.metrics[name] += error if mask is None else torch.where(mask, error, 0.0)

    def _resample_command(self, mask: torch.Tensor) -> None:
        term, cfg, ranges = self.term, self.term.cfg, self.term.cfg.ranges
        draws = torch.rand(8, term.num_envs, device=term.device)
        drawn = [
            low + draw * (high - low)
            for draw, (low, high) in zip(draws, (ranges.lin_vel_x, ranges.lin_vel_y, ranges.ang_vel_z), strict=False)
        ]
        command = torch.stack(drawn, dim=1)  # (num_envs, 3)
        rows = mask.unsqueeze(1)
        if cfg.heading_command:
            low, high = ranges.heading
            set_rows(term.heading_target, mask, low + draws[3] * (high - low))
            set_rows(term.is_heading_env, mask, draws[4] <= cfg.rel_heading_envs)
        set_rows(term.is_standing_env, mask, draws[5] <= cfg.rel_standing_envs)
        set_rows(term.is_world_env, mask, draws[6] <= cfg.rel_world_envs)
        set_rows(term.vel_command_w, rows, command)
        set_rows(term.is_forward_env, mask, draws[7] <= cfg.rel_forward_envs)
        forward = torch.zeros_like(command)
        forward[:, 0] = command[:, 0].abs().clamp(min=0.3)
        command = torch.where(term.is_forward_env.unsqueeze(1), forward, command)
        set_rows(term.vel_command_b, rows, command)

    def _update(self, mask: torch.Tensor | None) -> None:
        term, cfg = self.term, self.term.cfg
        command = term.vel_command_b.clone()
        heading = term.robot.data.heading_w
        if cfg.heading_command:
            error = wrap_to_pi(term.heading_target - heading)
            set_rows(term.heading_error, True if mask is None else mask, error)
            low, high = cfg.ranges.ang_vel_z
            turn = torch.clip(cfg.heading_control_stiffness * error, min=low, max=high)
            command[:, 2] = torch.where(term.is_heading_env, turn, command[:, 2])
        cos, sin = torch.cos(heading), torch.sin(heading)
        world_x, world_y = term.vel_command_w[:, 0], term.vel_command_w[:, 1]
        in_body = torch.stack([cos * world_x + sin * world_y, cos * world_y - sin * world_x], dim=1)
        command[:, :2] = torch.where(term.is_world_env.unsqueeze(1), in_body, command[:, :2])
        standing = term.is_standing_env.unsqueeze(1)
        command.masked_fill_(standing, 0.0)
        set_rows(term.vel_command_b, True if mask is None else mask.unsqueeze(1), command)
        stopped = standing if mask is None else standing & mask.unsqueeze(1)
        term.vel_command_w.masked_fill_(stopped, 0.0)


class LiftingRows(CommandRows):
    """Adapter of the cube-lifting commands, whose resample teleports the cubes."""

    moves_bodies = True

    def _resample_command(self, mask: torch.Tensor) -> None:
        super()._resample_command(mask)
        self.term._pending_forward = False  # forward() follows as a stage of its own

    def _update(self, mask: torch.Tensor | None) -> None:
        pass  # mjlab's only calls `forward()` here

    def after_forward(self) -> None:
        """Read the current positions of the cubes."""
        if isinstance(self.term, MultiCubeLiftingCommand):
            self.term._cached_target_obj_pos = self.term._target_object_pos_from_sim()


def set_rows(target: torch.Tensor, mask: torch.Tensor | bool, value: torch.Tensor) -> None:
    """Write `value` into the rows of `mask`; True means all."""
    if mask is True:
        target.copy_(value)
    else:
        torch.where(mask, value, target, out=target)  # type: ignore[call-overload]
