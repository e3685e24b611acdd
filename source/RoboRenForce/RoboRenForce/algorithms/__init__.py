"""What is minimized: algorithms, their regularizers and learned rewards."""

from .actor_policy import ActorPolicy
from .algorithm import ActOut, Algorithm, AlgorithmCfg, Policy, RunContext, StepOut
from .loss_terms import SymmetryCfg
from .on_policy import PPO, PPOCfg
from .reward_terms import RNDCfg

__all__ = [
    "PPO",
    "ActOut",
    "ActorPolicy",
    "Algorithm",
    "AlgorithmCfg",
    "PPOCfg",
    "Policy",
    "RNDCfg",
    "RunContext",
    "StepOut",
    "SymmetryCfg",
]
