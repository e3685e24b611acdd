"""On-policy algorithms."""

from .collector import ActorCriticCollector
from .ppo import PPO, PPOCfg
from .rollout import OnPolicyRollout
from .smooth import CAPSPPOCfg, L2C2LipsPPOCfg, L2C2PPOCfg, LipsCAPSPPOCfg, LipsPPOCfg, with_loss_terms

__all__ = [
    "PPO",
    "ActorCriticCollector",
    "CAPSPPOCfg",
    "L2C2LipsPPOCfg",
    "L2C2PPOCfg",
    "LipsCAPSPPOCfg",
    "LipsPPOCfg",
    "OnPolicyRollout",
    "PPOCfg",
    "with_loss_terms",
]
