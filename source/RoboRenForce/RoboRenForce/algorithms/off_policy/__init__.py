"""Algorithms that learn from a replay of past experience."""

from .replay_learner import ReplayLearner, ReplayLearnerCfg
from .sac import SAC, SACCfg

__all__ = ["SAC", "ReplayLearner", "ReplayLearnerCfg", "SACCfg"]
