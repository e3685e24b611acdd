"""Reinforcement learning of vision-language-action policies."""

from .dsrl import DSRL, DSRLCfg, StartNoise, StartNoiseCfg
from .grpo import GRPO, GRPOCfg
from .latent_actions import LatentActions, LatentActionsCfg
from .parity import evaluation_mode, require_parity
from .residual_chunk import ResidualChunk, ResidualChunkCfg
from .rlpd import RLPDCfg
from .vla_sac import VLASAC, VLASACCfg, vla_sac_networks

__all__ = [
    "DSRL",
    "GRPO",
    "VLASAC",
    "DSRLCfg",
    "GRPOCfg",
    "LatentActions",
    "LatentActionsCfg",
    "RLPDCfg",
    "ResidualChunk",
    "ResidualChunkCfg",
    "StartNoise",
    "StartNoiseCfg",
    "VLASACCfg",
    "evaluation_mode",
    "require_parity",
    "vla_sac_networks",
]
