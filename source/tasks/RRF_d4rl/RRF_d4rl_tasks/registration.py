"""Tasks of this package: `RoboRenForce-D4RL-<Env>-<Algorithm>`, and dynamics models of any recorded data."""

from __future__ import annotations

from functools import partial
from typing import Any

import gymnasium as gym
from RoboRenForce.configclass import resolve
from RoboRenForce.envs.env_cfg import NoEnvCfg
from RoboRenForce.utils.errors import UserError
from RoboRenForce.utils.registry import ENV_KEY, RUNNER_KEY

ALGORITHMS = {"BC": "bc", "IQL": "iql", "CQL": "cql", "TD3BC": "td3_bc", "ReBRAC": "rebrac"}
"""Last word of the task id -> suffix of the function's name in `agents`."""
ENVIRONMENTS = {
    "HalfCheetah": ("half_cheetah", "mujoco", "mujoco/halfcheetah/medium-v0", 1000),
    "Hopper": ("hopper", "mujoco", "mujoco/hopper/medium-v0", 1000),
    "Walker2d": ("walker2d", "mujoco", "mujoco/walker2d/medium-v0", 1000),
    "Pendulum": ("pendulum", "classic", "pendulum/mixed-v0", 200),
}
"""Name in the task id -> (function in `environments`, prefix of the name in `agents`, data, longest episode)."""

DYNAMICS = ("system_dynamics_mlp", "system_dynamics_transformer")
"""Tasks that learn a model of the data that `dataset.source` names; also their functions in `agents_dynamics`."""

OWN_AGENTS = {("Hopper", "ReBRAC"): "hopper_rebrac", ("Walker2d", "ReBRAC"): "walker2d_rebrac"}
"""Tasks with a function of their own in `agents`."""


def register_tasks() -> None:
    """Register all tasks with Gymnasium; calling it twice is harmless."""
    for name, (env, family, source, horizon) in ENVIRONMENTS.items():
        for algorithm, agent in ALGORITHMS.items():
            task_id = f"RoboRenForce-D4RL-{name}-{algorithm}"
            if task_id in gym.registry:
                continue
            function = OWN_AGENTS.get((name, algorithm), f"{family}_{agent}")
            gym.register(
                id=task_id,
                entry_point="RRF_d4rl_tasks.registration:refuse_gym_make",
                disable_env_checker=True,
                kwargs={
                    ENV_KEY: f"RRF_d4rl_tasks.environments:{env}",
                    RUNNER_KEY: partial(runner_cfg, f"RRF_d4rl_tasks.agents:{function}", source, horizon),
                },
            )
    for task_id in DYNAMICS:
        if task_id not in gym.registry:
            gym.register(
                id=task_id,
                entry_point="RRF_d4rl_tasks.registration:refuse_gym_make",
                disable_env_checker=True,
                kwargs={ENV_KEY: NoEnvCfg(), RUNNER_KEY: f"RRF_d4rl_tasks.agents_dynamics:{task_id}"},
            )


def runner_cfg(agent: str, source: str, horizon: int) -> Any:
    """Return the configuration of the function `agent` with its data; `dataset.source` selects other data."""
    cfg = resolve(agent)()
    cfg.dataset.source, cfg.dataset.max_episode_length = source, horizon
    return cfg


def refuse_gym_make(**kwargs: Any) -> gym.Env[Any, Any]:
    """Refuse `gym.make`: our ids name a task, which Gymnasium can't make."""
    raise UserError(
        "gymnasium.make can't build a RoboRenForce task: train it with `rrf train --task <id>`, or build the "
        "environment that it is judged in with load_task(<id>).env_cfg.build()."
    )
