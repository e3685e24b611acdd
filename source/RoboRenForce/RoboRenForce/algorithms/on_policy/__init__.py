"""On-policy algorithms."""

from .collector import ActorCriticCollector
from .epo import EPOCfg, Evolution, EvolutionCfg
from .imitation import AMPPPOCfg, GAILPPOCfg
from .ppo import PPO, PPOCfg
from .rollout import OnPolicyRollout
from .sapg import SAPG, SAPGPPOCfg, sapg_policy
from .smooth import CAPSPPOCfg, L2C2LipsPPOCfg, L2C2PPOCfg, LipsCAPSPPOCfg, LipsPPOCfg

__all__ = [
    "PPO",
    "SAPG",
    "AMPPPOCfg",
    "ActorCriticCollector",
    "CAPSPPOCfg",
    "EPOCfg",
    "Evolution",
    "EvolutionCfg",
    "GAILPPOCfg",
    "L2C2LipsPPOCfg",
    "L2C2PPOCfg",
    "LipsCAPSPPOCfg",
    "LipsPPOCfg",
    "OnPolicyRollout",
    "PPOCfg",
    "SAPGPPOCfg",
    "sapg_policy",
]
