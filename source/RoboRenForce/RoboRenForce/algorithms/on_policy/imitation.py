"""Presets of PPO that imitate: PPO with other `reward_terms`, and nothing else."""

from __future__ import annotations

from typing import Any

from ...configclass import configclass
from ...configclass.fields import field_names
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


def with_reward_terms(cfg: Any, preset: type[PPOCfg], *terms: RewardTermCfg) -> PPOCfg:
    """Return `cfg`, a `PPOCfg`, as a preset of this module, with `terms` in place of the preset's own."""
    kept: dict[str, Any] = {name: getattr(cfg, name) for name in field_names(PPOCfg)}
    kept["reward_terms"] = list(terms)
    return preset(**kept)
