"""Reinforcement learning of vision-language-action policies."""

from .dsrl import DSRL, DSRLCfg, StartNoise, StartNoiseCfg
from .grpo import GRPO, GRPOCfg
from .latent_actions import LatentActions, LatentActionsCfg
from .parity import evaluation_mode, require_parity
from .reinforce_pp import ReinforcePP, ReinforcePPCfg
from .residual_chunk import ResidualChunk, ResidualChunkCfg
from .rlpd import RLPDCfg
from .vla_ppo import VLAPPO, VLAPPOCfg
from .vla_sac import VLASAC, VLASACCfg, vla_sac_networks

__all__ = [
    "DSRL",
    "GRPO",
    "VLAPPO",
    "VLASAC",
    "DSRLCfg",
    "GRPOCfg",
    "LatentActions",
    "LatentActionsCfg",
    "RLPDCfg",
    "ReinforcePP",
    "ReinforcePPCfg",
    "ResidualChunk",
    "ResidualChunkCfg",
    "StartNoise",
    "StartNoiseCfg",
    "VLAPPOCfg",
    "VLASACCfg",
    "evaluation_mode",
    "require_parity",
    "vla_sac_networks",
]
