"""A table with coloured blocks, in pure PyTorch; importing this registers its tasks."""

from .expert import Expert, ExpertCfg
from .registration import register_tasks
from .tabletop_env import TabletopCfg, TabletopEnv

__all__ = ["Expert", "ExpertCfg", "TabletopCfg", "TabletopEnv", "register_tasks"]

register_tasks()
