"""Learning models of the environment, and policies in them."""

from .fit import DynamicsFitCfg
from .imagination_env import ImaginationCfg, ImaginationEnv, Starts
from .system_dynamics import SystemDynamicsLearner, SystemDynamicsLearnerCfg

__all__ = [
    "DynamicsFitCfg",
    "ImaginationCfg",
    "ImaginationEnv",
    "Starts",
    "SystemDynamicsLearner",
    "SystemDynamicsLearnerCfg",
]
