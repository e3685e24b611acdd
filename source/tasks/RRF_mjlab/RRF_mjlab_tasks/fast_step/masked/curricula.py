"""Curriculum terms: those that depend on the step counter run on the host, terrain levels run with a mask.

A stage of a host curriculum starts at its step here; in mjlab it starts at the first reset from that step on. With
thousands of environments that is the same step.
"""

from __future__ import annotations

from typing import Any

import torch
from mjlab.envs import ManagerBasedRlEnv
from mjlab.envs.mdp.curriculums import reward_curriculum, termination_curriculum
from mjlab.tasks.velocity.mdp.curriculums import commands_vel, terrain_levels_vel

from ..errors import NotMaskableError
from .rows import RowCaller


class HostCurricula:
    """Curricula that are functions of the step counter alone."""

    def __init__(self, env: ManagerBasedRlEnv) -> None:
        self._env = env
        terms = [(name, cfg) for name, cfg in curriculum_terms(env) if is_host_curriculum(cfg)]
        # The resets of this step draw from the new ranges of commands; its rewards had the old weights.
        self._before = [(name, cfg) for name, cfg in terms if cfg.func is commands_vel]
        self._after = [(name, cfg) for name, cfg in terms if cfg.func is not commands_vel]

    def before_step(self) -> None:
        """Run the curricula of commands."""
        self._run(self._before)

    def after_step(self) -> None:
        """Run the curricula of rewards and terminations."""
        self._run(self._after)

    def log(self) -> dict[str, float]:
        """Return their last results."""
        state = self._env.curriculum_manager._curriculum_state
        found = {}
        for name, _ in self._before + self._after:
            found |= {f"Curriculum/{name}/{key}": float(value) for key, value in (state[name] or {}).items()}
        return found

    def _run(self, terms: list[tuple[str, Any]]) -> None:
        for name, cfg in terms:
            self._env.curriculum_manager._curriculum_state[name] = cfg.func(self._env, None, **cfg.params)


def curriculum_terms(env: ManagerBasedRlEnv) -> list[tuple[str, Any]]:
    """Return name and configuration of every curriculum term."""
    manager = env.curriculum_manager
    return list(zip(manager.active_terms, getattr(manager, "_term_cfgs", []), strict=True))


def is_host_curriculum(cfg: Any) -> bool:
    """Return True if `HostCurricula` runs the term."""
    return cfg.func is commands_vel or isinstance(cfg.func, (reward_curriculum, termination_curriculum))


def curriculum_rows(env: ManagerBasedRlEnv, cfg: Any, rows: RowCaller, mask: torch.Tensor) -> dict[str, torch.Tensor]:
    """Run `terrain_levels_vel` for a mask: robots that walk far move to harder terrain, others to easier one.

    Returns:
        Mean and maximum level, and the mean of each terrain.
    """
    if cfg.func is not terrain_levels_vel:
        raise NotMaskableError("is not known to be separable by environment")
    terrain, params = env.scene.terrain, cfg.params
    robot = env.scene[params["asset_cfg"].name if "asset_cfg" in params else "robot"]
    command = env.command_manager.get_command(params["command_name"])
    walked = torch.norm(robot.data.root_link_pos_w[:, :2] - env.scene.env_origins[:, :2], dim=1)
    move_up = walked > terrain.cfg.terrain_generator.size[0] / 2
    move_down = walked < torch.norm(command[:, :2], dim=1) * env.max_episode_length_s * 0.5
    move_down = move_down & ~move_up
    rows.call(lambda ids: terrain.update_env_origins(ids, move_up, move_down), mask)

    levels = terrain.terrain_levels.float()
    result = {"mean": levels.mean(), "max": levels.max()}
    names = list(terrain.cfg.terrain_generator.sub_terrains)
    if terrain.terrain_origins.shape[1] == len(names):
        for index, name in enumerate(names):
            here = terrain.terrain_types == index
            result[name] = torch.where(here, levels, 0.0).sum() / here.sum()
    return result
