"""The return as its mean: ordinary temporal-difference learning."""

from __future__ import annotations

from torch import Tensor
from typing_extensions import override

from ...configclass import configclass
from .return_head import Aggregate, ReturnHead, ReturnHeadCfg, scalar_target


class ScalarHead(ReturnHead):
    """Squared error `(Q - y)^2` of a value, without a factor 1/2; targets are `(...)`."""

    out_features = 1
    target_dims = 0

    @override
    def mean(self, output: Tensor) -> Tensor:
        return output.squeeze(-1)

    @override
    def _target(self, next_output: Tensor, shift: Tensor, discount: Tensor, aggregate: Aggregate) -> Tensor:
        return scalar_target(next_output.squeeze(-1), shift, discount, aggregate)

    @override
    def _loss(self, output: Tensor, target: Tensor, weight: Tensor | None) -> Tensor:
        return (output.squeeze(-1) - target).square()


@configclass
class ScalarHeadCfg(ReturnHeadCfg):
    """Configuration of a `ScalarHead`."""

    class_type: type = ScalarHead
