"""FlashSAC's network (arXiv 2604.04539): residual blocks with bounded weights, features and hence gradients.

    x = W_in BN(input);   x = x + ReLU(BN(W_2 ReLU(BN(W_1 x))))  for every block;   y = W_out RMSNorm(x) + b

Rows of every W have length 1, scale and bias of every BN a joint length of sqrt(d), the scale of the RMSNorm sqrt(d).
The optimizer does not enforce these constraints: the learner calls `constrain_` after each of its steps. The learner
also chooses the batches that update the BN layers, see `batch_norm`.
"""

from __future__ import annotations

import math
from typing import Annotated, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from ..configclass import Range, configclass
from .activation import MOST_FEATURES
from .batch_norm import BatchNorm
from .constraints import Constrained, constrain_, scale_to_norm_
from .network import Network, NetworkCfg


class UnitLinear(Constrained):
    """Linear map whose rows have length 1, `(..., B, in) -> (..., B, out)`; weights `(*members, out, in)`."""

    def __init__(self, in_features: int, out_features: int, members: tuple[int, ...], *, bias: bool = False) -> None:
        super().__init__()
        weight = torch.empty(*members, out_features, in_features)
        for member in weight.view(-1, out_features, in_features):
            nn.init.orthogonal_(member)
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(torch.zeros(*members, out_features)) if bias else None

    @override
    def forward(self, x: Tensor) -> Tensor:
        y = x @ self.weight.mT
        return y if self.bias is None else y + self.bias.unsqueeze(-2)

    @override
    def constrain_(self) -> None:
        scale_to_norm_(1.0, self.weight)


class RMSNorm(Constrained):
    """Division by the root mean square of the features, then a scale of length sqrt(d); `(..., B, d)`."""

    def __init__(self, features: int, members: tuple[int, ...]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(*members, features))

    @override
    def forward(self, x: Tensor) -> Tensor:
        exact = x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
        root = (exact.square().mean(-1, keepdim=True) + 1e-6).rsqrt()
        return (exact * root * self.weight.unsqueeze(-2)).to(x.dtype)

    @override
    def constrain_(self) -> None:
        scale_to_norm_(math.sqrt(self.weight.shape[-1]), self.weight)


class FlashBlock(nn.Module):
    """A residual block, `(..., B, d) -> (..., B, d)`."""

    def __init__(self, width: int, expansion: int, members: tuple[int, ...], momentum: float) -> None:
        super().__init__()
        wide = width * expansion
        self.up, self.up_norm = UnitLinear(width, wide, members), BatchNorm(wide, members, momentum)
        self.down, self.down_norm = UnitLinear(wide, width, members), BatchNorm(width, members, momentum)

    @override
    def forward(self, x: Tensor) -> Tensor:
        hidden = F.relu(self.up_norm(self.up(x)))
        return x + F.relu(self.down_norm(self.down(hidden)))


class FlashNet(Network):
    """FlashSAC's network, `(..., in) -> (..., out)`, or `(E, ..., out)` for E members that see the same input.

    All leading dimensions of the input are one batch to the normalization.
    """

    def __init__(self, cfg: FlashNetCfg, in_features: int, out_features: int, num_members: int | None = None) -> None:
        super().__init__(in_features, out_features)
        self.cfg = cfg
        self.num_members = num_members
        members = () if num_members is None else (num_members,)
        self.input_norm = BatchNorm(in_features, members, cfg.momentum)
        self.embedding = UnitLinear(in_features, cfg.width, members)
        self.blocks = nn.Sequential(
            *(FlashBlock(cfg.width, cfg.expansion, members, cfg.momentum) for _ in range(cfg.num_blocks))
        )
        self.output_norm = RMSNorm(cfg.width, members)
        self.head = UnitLinear(cfg.width, out_features, members, bias=True)
        constrain_(self)

    @override
    def forward(self, x: Tensor) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])
        if self.num_members is not None:
            flat = flat.expand(self.num_members, -1, -1)
        y = self.blocks(self.embedding(self.input_norm(flat)))
        return self.head(self.output_norm(y)).view(*flat.shape[:-2], *x.shape[:-1], self.out_features)


@configclass
class FlashNetCfg(NetworkCfg):
    """Configuration of a `FlashNet`."""

    class_type: type = FlashNet
    width: Annotated[int, Range(ge=1, le=MOST_FEATURES)] = 256
    """Number of features between the blocks."""
    num_blocks: Annotated[int, Range(ge=0, le=1024)] = 2
    """Number of residual blocks."""
    expansion: Annotated[int, Range(ge=1, le=1024)] = 4
    """Width inside a block as a multiple of `width`."""
    momentum: Annotated[float, Range(gt=0, le=1)] = 0.01
    """Weight of a new batch in the running statistics."""

    @override
    def build_ensemble(self, num_members: int, in_features: int, out_features: int) -> Network:
        return cast(Network, self.build(in_features, out_features, num_members=num_members))
