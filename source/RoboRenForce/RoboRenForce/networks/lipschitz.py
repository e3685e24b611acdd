"""MLPs whose output changes no faster than a Lipschitz constant allows.

- `LipsNet` divides by the norm of its own Jacobian (Song et al. 2023, ICML) and multiplies by a learned constant.
- `SpectralMLP` keeps the largest singular value of every weight below a bound, by projection after each gradient step
  (Gouk et al. 2018, arXiv 1804.04368; singular values by power iteration as in Miyato et al. 2018, arXiv 1802.05957).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Annotated, Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from ..configclass import Range, configclass
from .constraints import Constrained, constrain_
from .mlp import MLP, MLPCfg
from .network import Network, NetworkCfg

_SLOPES: dict[type, Callable[[Any, Tensor, Tensor], Tensor]] = {
    nn.Tanh: lambda layer, x, y: 1.0 - y.square(),
    nn.Sigmoid: lambda layer, x, y: y * (1.0 - y),
    nn.ReLU: lambda layer, x, y: (x > 0).to(x.dtype),
    nn.LeakyReLU: lambda layer, x, y: torch.where(x > 0, 1.0, layer.negative_slope),
    nn.ELU: lambda layer, x, y: torch.where(x > 0, 1.0, y + layer.alpha),
    nn.SiLU: lambda layer, x, y: x.sigmoid() * (1.0 + x - y),
    nn.Softplus: lambda layer, x, y: (layer.beta * x).sigmoid(),
}
"""Activation -> its derivative, from the layer, its input and its output."""

_CONTRACTIONS = (nn.Tanh, nn.Sigmoid, nn.ReLU, nn.LeakyReLU, nn.ELU, nn.Softplus)
"""Activations that change no faster than their input (with the parameters that they have by default)."""


def mlp_jacobian(mlp: MLP, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the output `(..., out)` of an MLP and its Jacobian `(..., out, in)`, by the chain rule.

    Plain tensor operations, so a loss of the Jacobian has an ordinary backward pass, and the network can be exported.
    """
    slopes: list[Tensor | nn.Linear] = []
    for layer in mlp.layers:
        y = layer(x)
        slopes.append(layer if isinstance(layer, nn.Linear) else _SLOPES[type(layer)](layer, x, y))
        x = y
    jacobian = torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)
    for slope in reversed(slopes):
        jacobian = jacobian @ slope.weight if isinstance(slope, nn.Linear) else jacobian * slope.unsqueeze(-2)
    return x, jacobian.expand(*x.shape[:-1], *jacobian.shape[-2:])


class LipsNet(Network):
    """`K(x) f(x) / (||df/dx||_F + 1e-4)` for an MLP f: its slope is about K(x), wherever it is evaluated.

    K is one learned number, or a small network of x. With `LipsCfg(mode="mgn")` it becomes as small as the task allows.
    """

    def __init__(self, cfg: LipsNetCfg, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features)
        self.cfg = cfg
        self.net: MLP = cfg.net_cfg.build(in_features, out_features)
        raw = math.log(math.expm1(cfg.initial))  # softplus of it is `initial`
        self.raw_constant = nn.Parameter(torch.tensor(raw), requires_grad=cfg.constant_cfg is None)
        self.change: Network | None = None
        if cfg.constant_cfg is not None:
            change: Any = cfg.constant_cfg.build(in_features, 1)
            # K begins as `initial` everywhere.
            nn.init.zeros_(change.output_layer.weight)
            nn.init.zeros_(change.output_layer.bias)
            self.change = change

    def lipschitz(self, x: Tensor) -> Tensor:
        """Return K(x) `(..., 1)`."""
        change = x.new_zeros(()) if self.change is None else self.change(x)
        return nn.functional.softplus(self.raw_constant + change).expand(*x.shape[:-1], 1)

    @override
    def forward(self, x: Tensor) -> Tensor:
        output, jacobian = mlp_jacobian(self.net, x)
        norm = jacobian.square().sum((-1, -2)).clamp_min(torch.finfo(x.dtype).tiny).sqrt()
        return self.lipschitz(x) * output / (norm + 1e-4).unsqueeze(-1)


@configclass
class LipsNetCfg(NetworkCfg):
    """Configuration of a `LipsNet`; for actors whose backbone has no output but the mean."""

    class_type: type = LipsNet
    net_cfg: MLPCfg = MLPCfg()
    """f."""
    constant_cfg: MLPCfg | None = None
    """Network of K(x), with a linear output; None: one number for all x."""
    initial: Annotated[float, Range(gt=0)] = 1.0
    """K before learning."""

    def check(self) -> Iterable[str]:
        """Check that the Jacobian is known, and that K can have any value."""
        yield from _activation_problems("net_cfg", self.net_cfg, tuple(_SLOPES))
        given = "" if self.constant_cfg is None else self.constant_cfg.activations
        if not isinstance(given, str) and given[-1]:
            yield "constant_cfg: ends in an activation; end `activations` with [], the constant is positive anyway"


class SpectralMLP(MLP, Constrained):
    """MLP with ||f(x) - f(y)|| <= `bound` ||x - y||: no weight has a singular value above `bound ** (1 / layers)`.

    A weight that is larger after a gradient step is scaled down. Its largest singular value comes from a power
    iteration that goes on from step to step, so in fast changes the bound holds up to a few percent.
    """

    def __init__(self, cfg: SpectralMLPCfg, in_features: int, out_features: int) -> None:
        super().__init__(cfg, in_features, out_features)
        self.largest = cfg.bound ** (1.0 / (1 + len(cfg.hidden_features)))
        for index, layer in enumerate(self._linears()):
            direction = torch.ones(layer.out_features) / layer.out_features**0.5
            self.register_buffer(f"direction_{index}", direction)
        for _ in range(20):
            constrain_(self)

    def _linears(self) -> list[nn.Linear]:
        return [layer for layer in self.layers if isinstance(layer, nn.Linear)]

    @override
    def constrain_(self) -> None:
        """Continue the power iteration by a step and scale weights that are too large."""
        for index, layer in enumerate(self._linears()):
            direction, weight = self.get_buffer(f"direction_{index}"), layer.weight
            right = nn.functional.normalize(weight.t() @ direction, dim=0)
            image = weight @ right
            direction.copy_(nn.functional.normalize(image, dim=0))
            weight.mul_((self.largest / image.norm().clamp_min(1e-12)).clamp(max=1.0))


@configclass
class SpectralMLPCfg(MLPCfg):
    """Configuration of a `SpectralMLP`."""

    class_type: type = SpectralMLP
    bound: Annotated[float, Range(gt=0)] = 1.0
    """Lipschitz constant that is not exceeded, in units of the output per unit of the (normalized) input."""

    def check(self) -> Iterable[str]:
        """Check that no layer between the weights can change faster than its input."""
        yield from super().check()
        yield from _activation_problems("", self, _CONTRACTIONS)


def _activation_problems(name: str, cfg: MLPCfg, known: tuple[type, ...]) -> Iterator[str]:
    place = f"{name}." if name else ""
    if cfg.layer_norm:
        yield f"{place}layer_norm: divides by the size of its input, which has no Lipschitz constant; set it to False"
    names = {kind.__name__.lower() for kind in known}
    used = [cfg.activations] if isinstance(cfg.activations, str) else [n for row in cfg.activations for n, _ in row]
    for activation in used:
        if activation.lower() not in names:
            listed = ", ".join(kind.__name__ for kind in known)
            yield f"{place}activations: {activation} is not supported here; use one of {listed}"
