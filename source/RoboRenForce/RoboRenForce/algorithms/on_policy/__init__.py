"""On-policy algorithms."""

from .collector import ActorCriticCollector
from .imitation import AMPPPOCfg, GAILPPOCfg
from .ppo import PPO, PPOCfg
from .rollout import OnPolicyRollout

__all__ = ["PPO", "AMPPPOCfg", "ActorCriticCollector", "GAILPPOCfg", "OnPolicyRollout", "PPOCfg"]
