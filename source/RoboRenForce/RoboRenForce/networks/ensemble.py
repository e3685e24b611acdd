"""Several MLPs of one shape as a single batched network."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from typing_extensions import override

from .activation import build_activation
from .mlp import MLPCfg, initialize_linear, mlp_plan
from .network import Network


class EnsembleLinear(nn.Module):
    """`E` independent linear layers, `(E, B, in) -> (E, B, out)`; weights `(E, in, out)`, biases `(E, 1, out)`."""

    def __init__(self, cfg: MLPCfg, num_members: int, in_features: int, out_features: int, is_output: bool) -> None:
        super().__init__()
        members = [nn.Linear(in_features, out_features) for _ in range(num_members)]
        for member in members:
            initialize_linear(member.weight, member.bias, cfg, is_output)
        self.weight = nn.Parameter(torch.stack([member.weight.detach().T for member in members]))
        self.bias = nn.Parameter(torch.stack([member.bias.detach().unsqueeze(0) for member in members]))

    @override
    def forward(self, x: Tensor, members: Tensor | None = None) -> Tensor:
        """Return the layers' outputs, of those numbered `members`, int64 `(M,)`, if given: `x` is `(M, B, in)` then."""
        weight, bias = _chosen(self.weight, members), _chosen(self.bias, members)
        if torch.compiler.is_compiling():  # the bias becomes part of the next kernel; baddbmm copies it first
            product = torch.bmm(x, weight)
            return product + bias.to(product.dtype)
        return torch.baddbmm(bias, x, weight)


class EnsembleLayerNorm(nn.Module):
    """`E` independent layer normalizations, `(E, B, features) -> (E, B, features)`."""

    def __init__(self, num_members: int, features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(num_members, 1, features))
        self.bias = nn.Parameter(torch.zeros(num_members, 1, features))

    @override
    def forward(self, x: Tensor, members: Tensor | None = None) -> Tensor:
        normalized = torch.nn.functional.layer_norm(x, x.shape[-1:])
        return normalized * _chosen(self.weight, members) + _chosen(self.bias, members)


def _chosen(parameter: Tensor, members: Tensor | None) -> Tensor:
    return parameter if members is None else parameter.index_select(0, members)


class EnsembleMLP(Network):
    """`E` MLPs that see the same input, `(..., in) -> (E, ..., out)`, without a loop over members."""

    def __init__(self, cfg: MLPCfg, num_members: int, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features)
        self.num_members = num_members
        layers: list[nn.Module] = []
        for size_in, size_out, activations, is_output in mlp_plan(cfg, in_features, out_features):
            layers.append(EnsembleLinear(cfg, num_members, size_in, size_out, is_output))
            if cfg.layer_norm and not is_output:
                layers.append(EnsembleLayerNorm(num_members, size_out))
            layers += [build_activation(name, **kwargs) for name, kwargs in activations]
        self.layers = nn.Sequential(*layers)

    @override
    def forward(self, x: Tensor) -> Tensor:
        flat = x.reshape(-1, x.shape[-1]).expand(self.num_members, -1, -1)
        return self.layers(flat).view(self.num_members, *x.shape[:-1], self.out_features)

    def forward_members(self, x: Tensor) -> Tensor:
        """Map an input of its own for each member, `(E, B, in) -> (E, B, out)`."""
        return self.layers(x)
