"""Action heads: from the features of a backbone to chunks of normalized actions."""

from .action_head import ActionHead, ActionHeadCfg, Evaluation, LossSum
from .continuation import Continuation, continuation_weights
from .diffusion import DiffusionHead, DiffusionHeadCfg
from .dit import DiTHeadCfg
from .flow import FlowHead, FlowHeadCfg
from .regression import RegressionHead, RegressionHeadCfg

__all__ = [
    "ActionHead",
    "ActionHeadCfg",
    "Continuation",
    "DiTHeadCfg",
    "DiffusionHead",
    "DiffusionHeadCfg",
    "Evaluation",
    "FlowHead",
    "FlowHeadCfg",
    "LossSum",
    "RegressionHead",
    "RegressionHeadCfg",
    "continuation_weights",
]
