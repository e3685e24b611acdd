"""MLP of pre-norm residual blocks (the MLP-ResNet of action heads, as in OpenVLA-OFT, arXiv 2502.19645)."""

from __future__ import annotations

from typing import Annotated

from torch import Tensor, nn
from typing_extensions import override

from ..configclass import Range, configclass
from .activation import MOST_FEATURES, build_activation
from .network import Network, NetworkCfg


class ResidualMLP(Network):
    """A projection, blocks `x + activation(linear(norm(x)))`, and a linear output: `(..., in) -> (..., out)`."""

    def __init__(self, cfg: ResidualMLPCfg, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features)
        self.input = nn.Sequential(nn.Linear(in_features, cfg.dim), build_activation(cfg.activation))
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(cfg.dim), nn.Linear(cfg.dim, cfg.dim), build_activation(cfg.activation))
            for _ in range(cfg.num_blocks)
        )
        self.norm = nn.LayerNorm(cfg.dim)
        self.output = nn.Linear(cfg.dim, out_features)

    @property
    @override
    def output_layer(self) -> nn.Linear:
        return self.output

    @override
    def forward(self, x: Tensor) -> Tensor:
        x = self.input(x)
        for block in self.blocks:
            x = x + block(x)
        return self.output(self.norm(x))


@configclass
class ResidualMLPCfg(NetworkCfg):
    """Configuration of a `ResidualMLP`."""

    class_type: type = ResidualMLP
    dim: Annotated[int, Range(ge=1, le=MOST_FEATURES)] = 256
    """Width of the blocks."""
    num_blocks: Annotated[int, Range(ge=0, le=1024)] = 2
    """Residual blocks."""
    activation: str = "GELU"
    """A class of `torch.nn`, in any case."""
