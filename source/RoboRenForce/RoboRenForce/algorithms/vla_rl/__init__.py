"""Reinforcement learning of vision-language-action policies."""

from .dsrl import DSRLCfg, StartNoise, StartNoiseCfg
from .grpo import GRPO, GRPOCfg
from .latent_actions import LatentActions, LatentActionsCfg
from .parity import evaluation_mode, require_parity
from .reinforce_pp import ReinforcePP, ReinforcePPCfg
from .residual_chunk import ResidualChunk, ResidualChunkCfg
from .vla_ppo import VLAPPO, VLAPPOCfg
from .vla_sac import VLASAC, VLASACCfg

__all__ = [
    "GRPO",
    "VLAPPO",
    "VLASAC",
    "DSRLCfg",
    "GRPOCfg",
    "LatentActions",
    "LatentActionsCfg",
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
]
