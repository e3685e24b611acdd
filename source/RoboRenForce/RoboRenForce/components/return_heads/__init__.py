"""Return heads: the prediction of a Q critic, a value or a distribution of returns."""

from .categorical import CategoricalHead, CategoricalHeadCfg, project
from .gaussian import GaussianHead, GaussianHeadCfg
from .quantile import QuantileHead, QuantileHeadCfg, quantile_huber
from .return_head import Aggregate, ReturnHead, ReturnHeadCfg
from .scalar import ScalarHead, ScalarHeadCfg
from .two_hot import TwoHotHead, TwoHotHeadCfg

__all__ = [
    "Aggregate",
    "CategoricalHead",
    "CategoricalHeadCfg",
    "GaussianHead",
    "GaussianHeadCfg",
    "QuantileHead",
    "QuantileHeadCfg",
    "ReturnHead",
    "ReturnHeadCfg",
    "ScalarHead",
    "ScalarHeadCfg",
    "TwoHotHead",
    "TwoHotHeadCfg",
    "project",
    "quantile_huber",
]
