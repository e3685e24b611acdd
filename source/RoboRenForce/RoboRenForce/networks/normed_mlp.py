"""MLP of normalized layers with an optional simplicial output (SimNorm), the network of TD-MPC2 (arXiv 2310.16828)."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import Annotated, Literal

import torch
from torch import Tensor, nn
from typing_extensions import override

from ..configclass import Range, configclass
from .activation import MOST_FEATURES, activation_problem, build_activation
from .ensemble import EnsembleLayerNorm, EnsembleLinear
from .mlp import MLPCfg
from .network import Network, NetworkCfg

INIT_STD = 0.02
"""Standard deviation of the weights at the start, cut off at two of them."""


class SimNorm(nn.Module):
    """Softmax over groups of `group_size` features (Lavoie et al. 2022, arXiv 2204.00616): each group sums to 1."""

    def __init__(self, group_size: int = 8) -> None:
        super().__init__()
        self.group_size = group_size

    @override
    def forward(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (-1, self.group_size)).softmax(-1).flatten(-2)


class NormedMLP(Network):
    """Layers `activation(norm(dropout(linear(x))))`, then a linear or simplicial output: `(..., in) -> (..., out)`.

    With `num_members` it is as many networks that see the same input, `(..., in) -> (num_members, ..., out)`.
    """

    def __init__(self, cfg: NormedMLPCfg, in_features: int, out_features: int, num_members: int | None = None) -> None:
        super().__init__(in_features, out_features)
        self.num_members = num_members
        hidden: list[nn.Module] = []
        for index, sizes in enumerate(pairwise([in_features, *cfg.hidden_features])):
            dropout = [nn.Dropout(cfg.dropout)] if cfg.dropout and index == 0 else []
            hidden += [self._linear(*sizes), *dropout, self._norm(sizes[1]), build_activation(cfg.activation)]
        self.hidden = nn.ModuleList(hidden)
        self.output = self._linear([in_features, *cfg.hidden_features][-1], out_features)
        simplex = [self._norm(out_features), SimNorm(cfg.simnorm_dim)] if cfg.output == "simnorm" else []
        self.simplex = nn.ModuleList(simplex)
        with torch.no_grad():
            for layer in self.modules():
                if isinstance(layer, nn.Linear | EnsembleLinear):
                    # On the stacked weights of all members: each draws its own.
                    nn.init.trunc_normal_(layer.weight, std=INIT_STD, a=-2 * INIT_STD, b=2 * INIT_STD)
                    layer.bias.zero_()
            if cfg.zero_output:
                self.output.weight.zero_()

    def _linear(self, size_in: int, size_out: int) -> nn.Linear | EnsembleLinear:
        if self.num_members is None:
            return nn.Linear(size_in, size_out)
        return EnsembleLinear(MLPCfg(), self.num_members, size_in, size_out, is_output=False)

    def _norm(self, features: int) -> nn.Module:
        return nn.LayerNorm(features) if self.num_members is None else EnsembleLayerNorm(self.num_members, features)

    @override
    def forward(self, x: Tensor) -> Tensor:
        if self.num_members is None:
            return self._compute(x, None)
        return self._members(x, self.num_members, None)

    def forward_members(self, x: Tensor, members: Tensor) -> Tensor:
        """Return the outputs `(M, ..., out)` of the members of an ensemble numbered `members`, int64 `(M,)`."""
        return self._members(x, len(members), members)

    def _members(self, x: Tensor, count: int, members: Tensor | None) -> Tensor:
        flat = x.reshape(-1, x.shape[-1]).expand(count, -1, -1)
        return self._compute(flat, members).view(count, *x.shape[:-1], self.out_features)

    def _compute(self, x: Tensor, members: Tensor | None) -> Tensor:
        for layer in (*self.hidden, self.output, *self.simplex):
            of_members = members is not None and isinstance(layer, EnsembleLinear | EnsembleLayerNorm)
            x = layer(x, members) if of_members else layer(x)
        return x


@configclass
class NormedMLPCfg(NetworkCfg):
    """Configuration of a `NormedMLP`."""

    class_type: type = NormedMLP
    hidden_features: list[int] = [512, 512]
    """Width of each hidden layer."""
    activation: str = "Mish"
    """Activation of the hidden layers, a class of `torch.nn` in any case."""
    dropout: Annotated[float, Range(ge=0, lt=1)] = 0.0
    """Share of the first layer's features that is dropped in training."""
    output: Literal["linear", "simnorm"] = "linear"
    """"simnorm" normalizes the output and applies `SimNorm`."""
    simnorm_dim: Annotated[int, Range(ge=1)] = 8
    """Features of a group of SimNorm."""
    zero_output: bool = False
    """True to start with the output 0."""

    @override
    def build_ensemble(self, num_members: int, in_features: int, out_features: int) -> Network:
        self.validate()
        return NormedMLP(self.copy(), in_features, out_features, num_members)

    def check(self) -> Iterable[str]:
        """Check the widths and the activation."""
        yield from (
            f"hidden_features: entry {index} is {width}; expected 1 to {MOST_FEATURES:,}"
            for index, width in enumerate(self.hidden_features)
            if not 1 <= width <= MOST_FEATURES
        )
        if (problem := activation_problem(self.activation, {})) is not None:
            yield f"activation: {problem}"
