"""What an action-value network predicts about the return."""

from .return_head import Aggregate, ReturnHead, ReturnHeadCfg
from .scalar import ScalarHead, ScalarHeadCfg

__all__ = ["Aggregate", "ReturnHead", "ReturnHeadCfg", "ScalarHead", "ScalarHeadCfg"]
