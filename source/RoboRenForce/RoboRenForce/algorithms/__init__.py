"""What is minimized: algorithms, their regularizers and learned rewards."""

from .actor_policy import ActorPolicy
from .algorithm import ActOut, Algorithm, AlgorithmCfg, Policy, RunContext, StepOut
from .loss_terms import SymmetryCfg
from .off_policy import (
    DSAC,
    SAC,
    TD3,
    DSACCfg,
    DSACTCfg,
    FastSACCfg,
    FastTD3Cfg,
    FlashSACCfg,
    ReplayLearner,
    ReplayLearnerCfg,
    SACCfg,
    TD3Cfg,
    fast_sac_policy,
    fast_td3_policy,
    flash_sac_policy,
)
from .on_policy import PPO, PPOCfg
from .reward_terms import RNDCfg

__all__ = [
    "DSAC",
    "PPO",
    "SAC",
    "TD3",
    "ActOut",
    "ActorPolicy",
    "Algorithm",
    "AlgorithmCfg",
    "DSACCfg",
    "DSACTCfg",
    "FastSACCfg",
    "FastTD3Cfg",
    "FlashSACCfg",
    "PPOCfg",
    "Policy",
    "RNDCfg",
    "ReplayLearner",
    "ReplayLearnerCfg",
    "RunContext",
    "SACCfg",
    "StepOut",
    "SymmetryCfg",
    "TD3Cfg",
    "fast_sac_policy",
    "fast_td3_policy",
    "flash_sac_policy",
]
