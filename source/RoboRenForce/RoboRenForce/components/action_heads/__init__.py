"""Action heads: from the features of a backbone to chunks of normalized actions."""

from .action_head import ActionHead, ActionHeadCfg, Evaluation, LossSum
from .bins import BinsHead, BinsHeadCfg
from .continuation import Continuation, Schedule, continuation_weights
from .diffusion import DiffusionHead, DiffusionHeadCfg
from .dit import DiTHeadCfg
from .dppo import DPPOCfg
from .fast import FASTHead, FASTHeadCfg
from .flow import FlowHead, FlowHeadCfg
from .flow_noise import FlowNoiseCfg
from .flow_sde import FlowSDECfg
from .regression import RegressionHead, RegressionHeadCfg

__all__ = [
    "ActionHead",
    "ActionHeadCfg",
    "BinsHead",
    "BinsHeadCfg",
    "Continuation",
    "DPPOCfg",
    "DiTHeadCfg",
    "DiffusionHead",
    "DiffusionHeadCfg",
    "Evaluation",
    "FASTHead",
    "FASTHeadCfg",
    "FlowHead",
    "FlowHeadCfg",
    "FlowNoiseCfg",
    "FlowSDECfg",
    "LossSum",
    "RegressionHead",
    "RegressionHeadCfg",
    "Schedule",
    "continuation_weights",
]
