"""The tasks of this package: mjlab's own ids, those of packages that extend mjlab, and four names of ours.

mjlab registers tasks in a registry of its own, and third-party packages add to it through mjlab's entry-point group.
Any id that is found there can be trained: its environment is mjlab's, its training configuration mjlab's translated
into ours.
"""

from __future__ import annotations

import importlib.util
from typing import Any

import gymnasium as gym
from RoboRenForce.utils.errors import MissingPackageError, UnknownTaskError, UserError, did_you_mean
from RoboRenForce.utils.registry import ENV_KEY, RUNNER_KEY, Task, add_task_finder

from .env_cfg import MJLabEnvCfg

OURS = {
    f"RoboRenForce-MJLab-{robot}{ground}-PPO": f"Mjlab-Velocity-{ground}-Unitree-{robot}"
    for robot in ("Go1", "G1")
    for ground in ("Flat", "Rough")
}
"""Our id -> mjlab's."""


def register_tasks() -> None:
    """Tell Gymnasium's registry about our ids and let `load_task` find mjlab's; calling it twice is harmless."""
    for task_id, mjlab_id in OURS.items():
        if task_id not in gym.registry:
            gym.register(
                id=task_id,
                entry_point="RRF_mjlab_tasks.registration:refuse_gym_make",
                disable_env_checker=True,
                kwargs={
                    ENV_KEY: env_cfg(mjlab_id),
                    RUNNER_KEY: f"RRF_mjlab_tasks.registration:{agent_name(task_id)}",
                },
            )
    add_task_finder(find_mjlab_task)


def mjlab_tasks() -> list[str]:
    """Ids in mjlab's registry, those of third-party packages included."""
    _require_mjlab()
    import mjlab.tasks  # noqa: F401 - registers the tasks
    from mjlab.tasks.registry import list_tasks

    return list_tasks()


def find_mjlab_task(task_id: str) -> Task | None:
    """The task of an id of mjlab's, or None if mjlab does not know it.

    Raises:
        UnknownTaskError: the id looks like mjlab's and is not; its registry knows the nearest names.
    """
    if importlib.util.find_spec("mjlab") is None:
        return None
    known = mjlab_tasks()
    if task_id not in known:
        if task_id.lower().startswith("mjlab-"):
            raise UnknownTaskError(f"mjlab has no task {task_id!r}: {did_you_mean(task_id, known, limit=3)}")
        return None
    return Task(task_id, env_cfg(task_id), runner_cfg(task_id))


def env_cfg(mjlab_id: str) -> MJLabEnvCfg:
    """The environment of a PPO task: like rsl_rl it bootstraps time-outs without final observations."""
    return MJLabEnvCfg(task=mjlab_id, final_observations=False)


def runner_cfg(mjlab_id: str) -> Any:
    """Our training configuration for one of mjlab's tasks."""
    _require_mjlab()
    import mjlab.tasks  # noqa: F401 - registers the tasks
    from mjlab.tasks.registry import load_rl_cfg

    from .agents import runner_cfg_from_mjlab

    return runner_cfg_from_mjlab(load_rl_cfg(mjlab_id), mjlab_id)


def go1_flat_ppo() -> Any:
    """PPO for a Go1 that follows velocity commands on flat ground."""
    return runner_cfg(OURS["RoboRenForce-MJLab-Go1Flat-PPO"])


def go1_rough_ppo() -> Any:
    """PPO for a Go1 that follows velocity commands on rough terrain."""
    return runner_cfg(OURS["RoboRenForce-MJLab-Go1Rough-PPO"])


def g1_flat_ppo() -> Any:
    """PPO for a G1 humanoid that follows velocity commands on flat ground."""
    return runner_cfg(OURS["RoboRenForce-MJLab-G1Flat-PPO"])


def g1_rough_ppo() -> Any:
    """PPO for a G1 humanoid that follows velocity commands on rough terrain."""
    return runner_cfg(OURS["RoboRenForce-MJLab-G1Rough-PPO"])


def agent_name(task_id: str) -> str:
    """`go1_flat_ppo` for `RoboRenForce-MJLab-Go1Flat-PPO`."""
    robot_and_ground = task_id.split("-")[2]
    ground = "Flat" if robot_and_ground.endswith("Flat") else "Rough"
    return f"{robot_and_ground.removesuffix(ground)}_{ground}_ppo".lower()


def refuse_gym_make(**kwargs: Any) -> gym.Env[Any, Any]:
    """Our ids name a task, that is an environment and how to train on it; Gymnasium can't make that."""
    raise UserError(
        "gymnasium.make can't build a RoboRenForce task: train it with scripts/renforce/train_mjlab.py --task <id>, "
        "or build its environments with load_task(<id>).env_cfg.build()."
    )


def _require_mjlab() -> None:
    if importlib.util.find_spec("mjlab") is None:
        raise MissingPackageError(
            "MJLab tasks need mjlab, which is not installed: run `pip install -e source/tasks/RRF_mjlab`.", name="mjlab"
        )
