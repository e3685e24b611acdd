"""MJLab environments without chance: random ranges shrink to points, so that two ways to step can be compared."""

from __future__ import annotations

import contextlib
import io
import os
import pathlib
from collections.abc import Iterator

# Compiled kernels are kept between runs of the tests; the first run compiles for about a minute.
os.environ.setdefault("WARP_CACHE_PATH", str(pathlib.Path.home() / ".cache" / "warp"))
os.environ.setdefault("MJLAB_WARP_QUIET", "1")

import mjlab.tasks  # noqa: F401 - registers the tasks
import torch
from mjlab.envs import ManagerBasedRlEnv
from mjlab.tasks.registry import load_env_cfg

GO1, G1 = "Mjlab-Velocity-Flat-Unitree-Go1", "Mjlab-Velocity-Flat-Unitree-G1"
CARTPOLE, LIFT = "Mjlab-Cartpole-Swingup", "Mjlab-Lift-Cube-Yam"
TRACKING = "Mjlab-Tracking-Flat-Unitree-G1"


def fixed_cfg(task: str, num_envs: int, episode_length_s: float | None = 1.2):
    """The configuration of `task` with every random range at one point inside it."""
    cfg = load_env_cfg(task)
    cfg.scene.num_envs, cfg.seed = num_envs, 3
    cfg.episode_length_s = episode_length_s or cfg.episode_length_s
    for group in cfg.observations.values():
        group.enable_corruption = False
    for event in cfg.events.values():
        if event.mode != "startup":
            _fix_event(event)
    for command in cfg.commands.values():
        _fix_command(command)
    if "command_vel" in cfg.curriculum:
        first = {"step": 0, "lin_vel_x": (0.7, 0.7), "ang_vel_z": (0.4, 0.4)}
        cfg.curriculum["command_vel"].params["velocity_stages"] = [first, {"step": 20, "lin_vel_x": (0.9, 0.9)}]
    return cfg


def _point(bounds, share=0.6):
    return (bounds[0] + share * (bounds[1] - bounds[0]),) * 2


def _fix_event(event) -> None:
    for name, value in event.params.items():
        if name.endswith("_range") or name == "ranges":
            fixed = (
                {axis: _point(bounds) for axis, bounds in value.items()} if isinstance(value, dict) else _point(value)
            )
            event.params[name] = fixed
    if event.mode == "interval":
        event.interval_range_s = (0.21, 0.21)


def _fix_command(command) -> None:
    command.resampling_time_range = (0.33, 0.33)
    for holder in ("ranges", "target_position_range", "object_pose_range"):
        ranges = getattr(command, holder, None)
        for name, bounds in vars(ranges).items() if ranges is not None else ():
            setattr(ranges, name, None if bounds is None else _point(bounds))
    for name in ("rel_standing_envs", "rel_world_envs", "rel_forward_envs"):
        if name in vars(command):
            setattr(command, name, 0.0)


def build(cfg, device: str = "cpu") -> ManagerBasedRlEnv:
    """An environment that was reset, with time-outs at different steps."""
    with contextlib.redirect_stdout(io.StringIO()):
        env = ManagerBasedRlEnv(cfg, device=device)
        env.reset()
    env.episode_length_buf[:] = torch.arange(env.num_envs, device=device) * 7 % max(2, env.max_episode_length - 10)
    return env


def quantities(env: ManagerBasedRlEnv, obs) -> Iterator[tuple[str, torch.Tensor]]:
    """Everything that a step has computed."""
    yield from ((f"observations {name}", value) for name, value in obs.items())
    yield "rewards", env.reward_buf
    yield "reward terms", env.reward_manager._step_reward
    yield "terminated", env.termination_manager.terminated
    yield "time-outs", env.termination_manager.time_outs
    yield "episode lengths", env.episode_length_buf
    yield "qpos", env.sim.data.qpos._tensor
    yield "qvel", env.sim.data.qvel._tensor
    yield "actions", env.action_manager.prev_action
    for name, term in env.command_manager._terms.items():
        yield f"command {name}", term.command
        yield f"time left of {name}", term.time_left
        yield from ((f"metric {key} of {name}", value) for key, value in term.metrics.items())


def differences(expected, expected_obs, got, got_obs, tolerance: float = 1e-5) -> list[str]:
    """Quantities of two environments that differ, with the largest difference."""
    found = []
    for (name, here), (_, there) in zip(quantities(expected, expected_obs), quantities(got, got_obs), strict=True):
        if not torch.allclose(here.float(), there.float(), atol=tolerance, rtol=tolerance, equal_nan=True):
            found.append(f"{name} by {float((here.float() - there.float()).abs().max()):.2g}")
    return found
