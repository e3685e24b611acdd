"""Environments for evaluation and videos, and videos of a trained policy."""

from __future__ import annotations

import logging
from dataclasses import fields
from pathlib import Path
from typing import Any

from ..envs.env_cfg import evaluation_cfg
from ..utils.console import say
from ..utils.errors import UserError
from ..utils.registry import Task
from .trainer import Trainer
from .video import record_video

logger = logging.getLogger(__name__)

MOST_PLAY_ENVS = 16
_MOST_VIDEO_STEPS = 500


def eval_cfg(task: Task, num_envs: int, seed: int, *, render: bool = False) -> Any:
    """Return the environment configuration of a task for evaluation or, with `render`, for videos."""
    cfg = evaluation_cfg(task.env_cfg, num_envs, seed)
    if render:
        if "render" not in {field.name for field in fields(cfg)}:
            raise RuntimeError(f"the environment of {task.id} has no option 'render'.")
        cfg.render = True
    return cfg


def film(
    task: Task, runner: Trainer, path: Path, *, steps: int | None = None, deterministic: bool = True
) -> Path | None:
    """Film a runner's policy in an environment of its own; without a renderer, log the reason and continue."""
    try:
        env = eval_cfg(task, 1, task.env_cfg.seed, render=True).build()
        try:
            length = steps or min(env.max_episode_length or _MOST_VIDEO_STEPS, _MOST_VIDEO_STEPS)
            record_video(env, runner.policy(), path, steps=length, deterministic=deterministic, seed=task.env_cfg.seed)
        finally:
            env.close()
    except (RuntimeError, UserError) as error:  # what can't render says so
        logger.warning("No video: %s", error)
        return None
    except Exception as error:  # simulators, encoders and disks fail in any way: the rest goes on
        logger.warning("No video: %s: %s", type(error).__name__, error, exc_info=error)
        return None
    say(f"video         {path}")
    return path
