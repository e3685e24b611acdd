"""On-policy algorithms."""

from .collector import ActorCriticCollector
from .epo import EPOCfg, Evolution, EvolutionCfg
from .ppo import PPO, PPOCfg
from .rollout import OnPolicyRollout
from .sapg import SAPG, SAPGPPOCfg, sapg_policy

__all__ = [
    "PPO",
    "SAPG",
    "ActorCriticCollector",
    "EPOCfg",
    "Evolution",
    "EvolutionCfg",
    "OnPolicyRollout",
    "PPOCfg",
    "SAPGPPOCfg",
    "sapg_policy",
]
