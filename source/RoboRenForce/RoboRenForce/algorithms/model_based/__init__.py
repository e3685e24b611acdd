"""Learning models of the environment, and policies in them."""

from .fit import DynamicsFitCfg
from .imagination_env import ImaginationCfg, ImaginationEnv
from .imagined_task import ImaginationEnvCfg
from .mbpo import MBPO, MBPOCfg
from .mbpo_ppo import MBPOPPO, MBPOPPOCfg
from .planner_policy import PlannerPolicy
from .saved_model import SavedModel
from .starts import Starts
from .system_dynamics import SystemDynamicsLearner, SystemDynamicsLearnerCfg
from .tdmpc import TDMPCCfg, tdmpc_policy
from .tdmpc2 import TDMPC2, TDMPC2Cfg, discount_for, tdmpc2_policy

__all__ = [
    "MBPO",
    "MBPOPPO",
    "TDMPC2",
    "DynamicsFitCfg",
    "ImaginationCfg",
    "ImaginationEnv",
    "ImaginationEnvCfg",
    "MBPOCfg",
    "MBPOPPOCfg",
    "PlannerPolicy",
    "SavedModel",
    "Starts",
    "SystemDynamicsLearner",
    "SystemDynamicsLearnerCfg",
    "TDMPC2Cfg",
    "TDMPCCfg",
    "discount_for",
    "tdmpc2_policy",
    "tdmpc_policy",
]
