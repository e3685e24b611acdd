"""Reinforcement learning of vision-language-action policies."""

from .dsrl import DSRLCfg, StartNoise, StartNoiseCfg
from .grpo import GRPO, GRPOCfg
from .latent_actions import LatentActions, LatentActionsCfg
from .parity import evaluation_mode, require_parity
from .residual_chunk import ResidualChunk, ResidualChunkCfg
from .vla_sac import VLASAC, VLASACCfg

__all__ = [
    "GRPO",
    "VLASAC",
    "DSRLCfg",
    "GRPOCfg",
    "LatentActions",
    "LatentActionsCfg",
    "ResidualChunk",
    "ResidualChunkCfg",
    "StartNoise",
    "StartNoiseCfg",
    "VLASACCfg",
    "evaluation_mode",
    "require_parity",
]
