"""Concatenation of the last few inputs: the simplest history encoder."""

from __future__ import annotations

from torch import Tensor
from typing_extensions import override

from ..configclass import configclass
from .window import WindowNetwork, WindowNetworkCfg


class Stack(WindowNetwork):
    """MLP over the last `window` inputs of the episode."""

    def __init__(self, cfg: StackCfg, in_features: int, out_features: int) -> None:
        super().__init__(cfg, in_features, out_features, head_features=cfg.window * in_features)

    @override
    def features_of(self, windows: Tensor) -> Tensor:
        return windows.flatten(-2)


@configclass
class StackCfg(WindowNetworkCfg):
    """Configuration of a `Stack`."""

    class_type: type = Stack
