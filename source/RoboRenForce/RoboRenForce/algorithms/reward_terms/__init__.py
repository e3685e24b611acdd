"""Learned rewards listed in `reward_terms`."""

from .reward_term import RewardTerm, RewardTermCfg
from .rnd import RND, RNDCfg

__all__ = ["RND", "RNDCfg", "RewardTerm", "RewardTermCfg"]
