"""On-policy algorithms."""

from .collector import ActorCriticCollector
from .epo import EPOCfg, Evolution, EvolutionCfg
from .ppo import PPO, PPOCfg
from .rollout import OnPolicyRollout
from .sapg import SAPG, SAPGPPOCfg, sapg_policy
from .smooth import CAPSPPOCfg, L2C2LipsPPOCfg, L2C2PPOCfg, LipsCAPSPPOCfg, LipsPPOCfg, with_loss_terms

__all__ = [
    "PPO",
    "SAPG",
    "ActorCriticCollector",
    "CAPSPPOCfg",
    "EPOCfg",
    "Evolution",
    "EvolutionCfg",
    "L2C2LipsPPOCfg",
    "L2C2PPOCfg",
    "LipsCAPSPPOCfg",
    "LipsPPOCfg",
    "OnPolicyRollout",
    "PPOCfg",
    "SAPGPPOCfg",
    "sapg_policy",
    "with_loss_terms",
]
