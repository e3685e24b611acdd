"""On-policy algorithms."""

from .collector import ActorCriticCollector
from .ppo import PPO, PPOCfg
from .rollout import OnPolicyRollout
from .sapg import SAPG, SAPGPPOCfg, sapg_policy

__all__ = ["PPO", "SAPG", "ActorCriticCollector", "OnPolicyRollout", "PPOCfg", "SAPGPPOCfg", "sapg_policy"]
