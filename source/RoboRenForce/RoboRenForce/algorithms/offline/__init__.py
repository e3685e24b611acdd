"""Algorithms that learn from recorded data alone."""

from .bc import BC, BCCfg
from .belief_model import BeliefModel, BeliefModelCfg
from .cql import CQL, CQLCfg
from .iql import IQL, IQLCfg
from .rebrac import ReBRAC, ReBRACCfg
from .td3_bc import TD3BC, TD3BCCfg

__all__ = [
    "BC",
    "CQL",
    "IQL",
    "TD3BC",
    "BCCfg",
    "BeliefModel",
    "BeliefModelCfg",
    "CQLCfg",
    "IQLCfg",
    "ReBRAC",
    "ReBRACCfg",
    "TD3BCCfg",
]
