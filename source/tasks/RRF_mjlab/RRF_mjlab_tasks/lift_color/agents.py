"""How LiftColor is trained."""

from __future__ import annotations

from RoboRenForce import runners

from ..env_cfg import import_mjlab_tasks


def ppo() -> runners.OnPolicyRunnerCfg:
    """The state-based teacher: mjlab's PPO for lifting one cube, for as long as a short run needs."""
    import_mjlab_tasks()
    from mjlab.tasks.registry import load_rl_cfg

    from ..agents import runner_cfg_from_mjlab

    task = "Mjlab-Lift-Cube-Yam"
    return runner_cfg_from_mjlab(load_rl_cfg(task), task).replace(max_iterations=600, save_interval=50)


def bc() -> runners.OnPolicyRunnerCfg:
    return ppo()


def sft() -> runners.OnPolicyRunnerCfg:
    return ppo()
