"""Presets of PPO with regularizers of smoothness: PPO with other `loss_terms`, and nothing else."""

from __future__ import annotations

from ...configclass import configclass
from ..loss_terms import CAPSCfg, L2C2Cfg, LipsCfg, LossTermCfg
from .ppo import PPOCfg


@configclass
class CAPSPPOCfg(PPOCfg):
    """PPO with CAPS (arXiv 2012.06644)."""

    loss_terms: list[LossTermCfg] = [CAPSCfg()]


@configclass
class L2C2PPOCfg(PPOCfg):
    """PPO with L2C2 (arXiv 2202.07152)."""

    loss_terms: list[LossTermCfg] = [L2C2Cfg()]


@configclass
class LipsPPOCfg(PPOCfg):
    """PPO with a penalty on the policy's Jacobian; other modes are fields of `LipsCfg`."""

    loss_terms: list[LossTermCfg] = [LipsCfg()]


@configclass
class LipsCAPSPPOCfg(PPOCfg):
    """PPO with CAPS and a penalty on the policy's Jacobian."""

    loss_terms: list[LossTermCfg] = [CAPSCfg(), LipsCfg()]


@configclass
class L2C2LipsPPOCfg(PPOCfg):
    """PPO with L2C2 and a penalty on the policy's Jacobian."""

    loss_terms: list[LossTermCfg] = [L2C2Cfg(), LipsCfg()]
