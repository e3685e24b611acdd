"""Multi-layer perceptron (MLP)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn
from typing_extensions import override

from ..configclass import configclass
from ..configclass.validated import is_validated
from .activation import MOST_FEATURES, activations_problems, build_activation, per_layer_activations
from .network import Network, NetworkCfg


class MLP(Network):
    """Linear layers with activations between them, `(..., in) -> (..., out)`."""

    def __init__(self, cfg: MLPCfg, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features)
        layers: list[nn.Module] = []
        for size_in, size_out, activations, is_output in mlp_plan(cfg, in_features, out_features):
            linear = nn.Linear(size_in, size_out)
            initialize_linear(linear.weight, linear.bias, cfg, is_output)
            layers.append(linear)
            if cfg.layer_norm and not is_output:
                layers.append(nn.LayerNorm(size_out))
            layers += [build_activation(name, **kwargs) for name, kwargs in activations]
        self.layers = nn.Sequential(*layers)

    @property
    @override
    def output_layer(self) -> nn.Linear | None:
        last = self.layers[-1]
        return last if isinstance(last, nn.Linear) else None

    @override
    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


@configclass
class MLPCfg(NetworkCfg):
    """Configuration of an `MLP`."""

    class_type: type = MLP
    hidden_features: list[int] = [256, 256]
    """Width of each hidden layer; empty for a linear map."""
    activations: str | list[list[tuple[str, dict[str, Any]]]] = "ELU"
    """Name of the activation of all hidden layers, or one list of (name, keyword arguments) per layer.

    The list has one more entry for the output: `[[("ELU", {})]] * 3 + [[]]`. Names are classes of `torch.nn`, in any
    case.
    """
    layer_norm: bool = False
    """True to normalize every hidden layer before its activation."""
    init: Literal["default", "orthogonal"] = "default"
    """"default" is PyTorch's uniform initialization, "orthogonal" has zero biases."""
    hidden_gain: float = math.sqrt(2.0)
    """Gain of orthogonal hidden layers."""
    output_gain: float = 1.0
    """Gain of an orthogonal output layer; a factor on the output layer of the default initialization."""

    @override
    def build_ensemble(self, num_members: int, in_features: int, out_features: int) -> Network:
        from .ensemble import EnsembleMLP  # it builds on this module

        if not is_validated(self):
            self.validate()
        return EnsembleMLP(self.copy(), num_members, in_features, out_features)

    def check(self) -> Iterable[str]:
        """Check sizes and activations."""
        yield from (
            f"hidden_features: entry {i} is {n}; expected a positive width"
            for i, n in enumerate(self.hidden_features)
            if n < 1
        )
        yield from (
            f"hidden_features: entry {i} is {n}; expected a width of at most {MOST_FEATURES:,}"
            for i, n in enumerate(self.hidden_features)
            if n > MOST_FEATURES
        )
        yield from activations_problems(self.activations, self.hidden_features)


def mlp_plan(cfg: MLPCfg, in_features: int, out_features: int) -> Iterator[tuple[int, int, Any, bool]]:
    """Return for each linear layer its input and output size, its activations, and whether it is the output."""
    sizes = [in_features, *cfg.hidden_features, out_features]
    activations = per_layer_activations(cfg.activations, len(cfg.hidden_features))
    last = len(sizes) - 2
    for index, (size_in, size_out) in enumerate(pairwise(sizes)):
        yield size_in, size_out, activations[index], index == last


@torch.no_grad()
def initialize_linear(weight: Tensor, bias: Tensor, cfg: MLPCfg, is_output: bool) -> None:
    """Initialize a new linear layer `(out, in)`, `(out,)` as `cfg.init` says."""
    gain = cfg.output_gain if is_output else cfg.hidden_gain
    if cfg.init == "orthogonal":
        nn.init.orthogonal_(weight, gain=gain)
        bias.zero_()
    elif is_output:
        weight.mul_(gain)
        bias.mul_(gain)
