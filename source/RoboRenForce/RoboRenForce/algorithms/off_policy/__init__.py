"""Algorithms that learn from a replay of past experience."""

from .dsac import DSAC, DSACCfg, DSACTCfg
from .fast import FastSACCfg, FastTD3Cfg, FlashSACCfg, fast_sac_policy, fast_td3_policy, flash_sac_policy
from .off_policy_algorithm import OffPolicyAlgorithm, OffPolicyAlgorithmCfg
from .sac import SAC, SACCfg
from .sac_seq import SACSeqCfg, SACTransCfg, sac_seq_policy, sac_trans_policy
from .td3 import TD3, TD3Cfg

__all__ = [
    "DSAC",
    "SAC",
    "TD3",
    "DSACCfg",
    "DSACTCfg",
    "FastSACCfg",
    "FastTD3Cfg",
    "FlashSACCfg",
    "OffPolicyAlgorithm",
    "OffPolicyAlgorithmCfg",
    "SACCfg",
    "SACSeqCfg",
    "SACTransCfg",
    "TD3Cfg",
    "fast_sac_policy",
    "fast_td3_policy",
    "flash_sac_policy",
    "sac_seq_policy",
    "sac_trans_policy",
]
