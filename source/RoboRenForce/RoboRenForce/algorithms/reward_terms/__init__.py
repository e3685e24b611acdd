"""Learned rewards listed in `reward_terms`."""

from .adversarial import AdversarialReward, AdversarialRewardCfg, AMPCfg, GAILCfg
from .reward_term import RewardTerm, RewardTermCfg
from .rnd import RND, RNDCfg

__all__ = [
    "RND",
    "AMPCfg",
    "AdversarialReward",
    "AdversarialRewardCfg",
    "GAILCfg",
    "RNDCfg",
    "RewardTerm",
    "RewardTermCfg",
]
