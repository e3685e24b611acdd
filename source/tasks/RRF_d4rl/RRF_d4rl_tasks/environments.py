"""Environments in which policies of offline tasks are evaluated, named by the ids of other packages' tasks.

Nothing of those packages is imported; the registry finds the task, or says which package to install.
"""

from __future__ import annotations

from typing import Any

from RoboRenForce.utils.registry import load_task


def eval_env(task_id: str) -> Any:
    """Return a copy of the environment's configuration of another task."""
    return load_task(task_id).env_cfg.replace(num_envs=1)


def half_cheetah() -> Any:
    """HalfCheetah-v5."""
    return eval_env("RoboRenForce-Gym-HalfCheetah-PPO")


def hopper() -> Any:
    """Hopper-v5."""
    return eval_env("RoboRenForce-Gym-Hopper-PPO")


def walker2d() -> Any:
    """Walker2d-v5."""
    return eval_env("RoboRenForce-Gym-Walker2d-PPO")


def pendulum() -> Any:
    """Pendulum-v1."""
    return eval_env("RoboRenForce-Gym-Pendulum-PPO")
