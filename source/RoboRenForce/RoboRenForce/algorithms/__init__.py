"""What is minimized: algorithms, their regularizers and learned rewards."""

from ..buffer.transition import ActOut, Transition
from .actor_policy import ActorPolicy
from .algorithm import Algorithm, AlgorithmCfg, Policy, RunContext
from .dataset_learner import DatasetLearner, DatasetLearnerCfg
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
    OffPolicyAlgorithm,
    OffPolicyAlgorithmCfg,
    SACCfg,
    SACSeqCfg,
    SACTransCfg,
    TD3Cfg,
    fast_sac_policy,
    fast_td3_policy,
    flash_sac_policy,
    sac_seq_policy,
    sac_trans_policy,
)
from .offline import BC, CQL, IQL, TD3BC, BCCfg, CQLCfg, IQLCfg, ReBRAC, ReBRACCfg, TD3BCCfg
from .on_policy import PPO, PPOCfg
from .reward_terms import RNDCfg

__all__ = [
    "BC",
    "CQL",
    "DSAC",
    "IQL",
    "PPO",
    "SAC",
    "TD3",
    "TD3BC",
    "ActOut",
    "ActorPolicy",
    "Algorithm",
    "AlgorithmCfg",
    "BCCfg",
    "CQLCfg",
    "DSACCfg",
    "DSACTCfg",
    "DatasetLearner",
    "DatasetLearnerCfg",
    "FastSACCfg",
    "FastTD3Cfg",
    "FlashSACCfg",
    "IQLCfg",
    "OffPolicyAlgorithm",
    "OffPolicyAlgorithmCfg",
    "PPOCfg",
    "Policy",
    "RNDCfg",
    "ReBRAC",
    "ReBRACCfg",
    "RunContext",
    "SACCfg",
    "SACSeqCfg",
    "SACTransCfg",
    "SymmetryCfg",
    "TD3BCCfg",
    "TD3Cfg",
    "Transition",
    "fast_sac_policy",
    "fast_td3_policy",
    "flash_sac_policy",
    "sac_seq_policy",
    "sac_trans_policy",
]
