"""MJLab tasks for RoboRenForce; importing this registers them and imports no simulator."""

from .env_cfg import MJLabEnvCfg
from .registration import mjlab_tasks, register_tasks

__all__ = ["MJLabEnvCfg", "mjlab_tasks", "register_tasks"]

register_tasks()
