"""Action heads: from the features of a backbone to chunks of normalized actions."""

from .action_head import ActionHead, ActionHeadCfg, Evaluation, LossSum
from .regression import RegressionHead, RegressionHeadCfg

__all__ = [
    "ActionHead",
    "ActionHeadCfg",
    "Evaluation",
    "LossSum",
    "RegressionHead",
    "RegressionHeadCfg",
]
