"""What is minimized: algorithms, their regularizers and learned rewards."""

from .actor_policy import ActorPolicy
from .algorithm import ActOut, Algorithm, AlgorithmCfg, Policy, RunContext, StepOut
from .loss_terms import SymmetryCfg
from .off_policy import DSAC, SAC, DSACCfg, DSACTCfg, ReplayLearner, ReplayLearnerCfg, SACCfg
from .on_policy import PPO, PPOCfg
from .reward_terms import RNDCfg

__all__ = [
    "DSAC",
    "PPO",
    "SAC",
    "ActOut",
    "ActorPolicy",
    "Algorithm",
    "AlgorithmCfg",
    "DSACCfg",
    "DSACTCfg",
    "PPOCfg",
    "Policy",
    "RNDCfg",
    "ReplayLearner",
    "ReplayLearnerCfg",
    "RunContext",
    "SACCfg",
    "StepOut",
    "SymmetryCfg",
]
