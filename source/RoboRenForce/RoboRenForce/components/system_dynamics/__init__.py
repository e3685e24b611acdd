"""Learned models of a system: the next state, the reward, contacts and the end of an episode."""

from .layout import StateLayout
from .mlp import SystemDynamicsMLP, SystemDynamicsMLPCfg
from .system_dynamics import Imagined, Memory, Steps, SystemDynamics, SystemDynamicsCfg
from .transformer import SystemDynamicsTransformer, SystemDynamicsTransformerCfg

__all__ = [
    "Imagined",
    "Memory",
    "StateLayout",
    "Steps",
    "SystemDynamics",
    "SystemDynamicsCfg",
    "SystemDynamicsMLP",
    "SystemDynamicsMLPCfg",
    "SystemDynamicsTransformer",
    "SystemDynamicsTransformerCfg",
]
