"""Algorithms that learn a model of the environment."""

from .planner_policy import PlannerPolicy
from .tdmpc import TDMPCCfg, tdmpc_policy
from .tdmpc2 import TDMPC2, TDMPC2Cfg, discount_for, tdmpc2_policy

__all__ = [
    "TDMPC2",
    "PlannerPolicy",
    "TDMPC2Cfg",
    "TDMPCCfg",
    "discount_for",
    "tdmpc2_policy",
    "tdmpc_policy",
]
