"""Reinforcement learning of vision-language-action policies."""

from .dsrl import DSRL, DSRLCfg, StartNoise, StartNoiseCfg
from .latent_actions import LatentActions, LatentActionsCfg
from .residual_chunk import ResidualChunk, ResidualChunkCfg
from .rlpd import RLPDCfg
from .vla_sac import VLASAC, VLASACCfg, vla_sac_networks

__all__ = [
    "DSRL",
    "VLASAC",
    "DSRLCfg",
    "LatentActions",
    "LatentActionsCfg",
    "RLPDCfg",
    "ResidualChunk",
    "ResidualChunkCfg",
    "StartNoise",
    "StartNoiseCfg",
    "VLASACCfg",
    "vla_sac_networks",
]
