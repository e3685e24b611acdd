"""Gymnasium and EnvPool tasks for RoboRenForce; importing this registers them."""

from .envpool_env import EnvPoolCfg, EnvPoolEnv
from .gym_env import GymEnvCfg, GymVecEnv
from .registration import register_tasks, task_from_gym_id

__all__ = ["EnvPoolCfg", "EnvPoolEnv", "GymEnvCfg", "GymVecEnv", "register_tasks", "task_from_gym_id"]

register_tasks()
