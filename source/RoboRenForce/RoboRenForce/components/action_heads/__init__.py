"""Action heads: from the features of a backbone to chunks of normalized actions."""

from .action_head import ActionHead, ActionHeadCfg, Evaluation, LossSum
from .bins import BinsHead, BinsHeadCfg
from .continuation import Continuation, Schedule, continuation_weights
from .diffusion import DiffusionHead, DiffusionHeadCfg
from .dit import DiTHeadCfg
from .fast import FASTHead, FASTHeadCfg
from .flow import FlowHead, FlowHeadCfg
from .regression import RegressionHead, RegressionHeadCfg

__all__ = [
    "ActionHead",
    "ActionHeadCfg",
    "BinsHead",
    "BinsHeadCfg",
    "Continuation",
    "DiTHeadCfg",
    "DiffusionHead",
    "DiffusionHeadCfg",
    "Evaluation",
    "FASTHead",
    "FASTHeadCfg",
    "FlowHead",
    "FlowHeadCfg",
    "LossSum",
    "RegressionHead",
    "RegressionHeadCfg",
    "Schedule",
    "continuation_weights",
]
