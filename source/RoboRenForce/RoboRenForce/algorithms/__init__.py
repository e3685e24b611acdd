"""What is minimized: algorithms, their regularizers and learned rewards."""

from .algorithm import ActOut, Algorithm, AlgorithmCfg, Policy, RunContext, StepOut
from .loss_terms import SymmetryCfg
from .on_policy import PPO, PPOCfg
from .reward_terms import RNDCfg

__all__ = [
    "PPO",
    "ActOut",
    "Algorithm",
    "AlgorithmCfg",
    "PPOCfg",
    "Policy",
    "RNDCfg",
    "RunContext",
    "StepOut",
    "SymmetryCfg",
]
