"""Learning models of the environment, and policies in them."""

from .fit import DynamicsFitCfg
from .imagination_env import ImaginationCfg, ImaginationEnv
from .mbpo import MBPO, MBPOCfg
from .starts import Starts
from .system_dynamics import SystemDynamicsLearner, SystemDynamicsLearnerCfg

__all__ = [
    "MBPO",
    "DynamicsFitCfg",
    "ImaginationCfg",
    "ImaginationEnv",
    "MBPOCfg",
    "Starts",
    "SystemDynamicsLearner",
    "SystemDynamicsLearnerCfg",
]
