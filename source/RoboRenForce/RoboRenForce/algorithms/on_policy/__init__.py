"""On-policy algorithms."""

from .collector import ActorCriticCollector
from .ppo import PPO, PPOCfg
from .rollout import OnPolicyRollout

__all__ = ["PPO", "ActorCriticCollector", "OnPolicyRollout", "PPOCfg"]
