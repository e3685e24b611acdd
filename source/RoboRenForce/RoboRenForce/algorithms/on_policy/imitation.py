"""Presets of PPO that imitate: PPO with other `reward_terms`, and nothing else."""

from __future__ import annotations

from ...configclass import configclass
from ..reward_terms import AMPCfg, GAILCfg, RewardTermCfg
from .ppo import PPOCfg


@configclass
class GAILPPOCfg(PPOCfg):
    """PPO on the reward of a discriminator of (s, a) (arXiv 1606.03476)."""

    reward_terms: list[RewardTermCfg] = [GAILCfg()]


@configclass
class AMPPPOCfg(PPOCfg):
    """PPO on half the task's reward and half that of a motion's style (arXiv 2104.02180)."""

    reward_terms: list[RewardTermCfg] = [AMPCfg()]
