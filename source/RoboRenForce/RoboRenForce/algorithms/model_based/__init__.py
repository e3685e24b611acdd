"""Learning models of the environment, and policies in them."""

from .fit import DynamicsFitCfg
from .imagination_env import ImaginationCfg, ImaginationEnv
from .imagined_task import ImaginationEnvCfg
from .mbpo import MBPO, MBPOCfg
from .mbpo_ppo import MBPOPPO, MBPOPPOCfg
from .saved_model import SavedModel
from .starts import Starts
from .system_dynamics import SystemDynamicsLearner, SystemDynamicsLearnerCfg

__all__ = [
    "MBPO",
    "MBPOPPO",
    "DynamicsFitCfg",
    "ImaginationCfg",
    "ImaginationEnv",
    "ImaginationEnvCfg",
    "MBPOCfg",
    "MBPOPPOCfg",
    "SavedModel",
    "Starts",
    "SystemDynamicsLearner",
    "SystemDynamicsLearnerCfg",
]
