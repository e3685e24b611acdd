"""Action heads: from the features of a backbone to chunks of normalized actions."""

from .action_head import ActionHead, ActionHeadCfg, Evaluation, LossSum
from .continuation import Continuation, continuation_weights
from .dit import DiTHeadCfg
from .flow import FlowHead, FlowHeadCfg
from .regression import RegressionHead, RegressionHeadCfg

__all__ = [
    "ActionHead",
    "ActionHeadCfg",
    "Continuation",
    "DiTHeadCfg",
    "Evaluation",
    "FlowHead",
    "FlowHeadCfg",
    "LossSum",
    "RegressionHead",
    "RegressionHeadCfg",
    "continuation_weights",
]
