"""On-policy algorithms."""

from .ppo import PPO, PPOCfg

__all__ = ["PPO", "PPOCfg"]
