"""Algorithms that learn from a replay of past experience."""

from .dsac import DSAC, DSACCfg, DSACTCfg
from .replay_learner import ReplayLearner, ReplayLearnerCfg
from .sac import SAC, SACCfg

__all__ = ["DSAC", "SAC", "DSACCfg", "DSACTCfg", "ReplayLearner", "ReplayLearnerCfg", "SACCfg"]
