"""Networks that turn a noisy action chunk into a velocity, noise or clean chunk: what diffusion and flow heads train.

Shape letters: B observations, H actions of a chunk, A dimensions of an action.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Annotated, ClassVar

import torch
from torch import Tensor, nn
from typing_extensions import override

from ..configclass import Cfg, Range, configclass
from .residual_mlp import ResidualMLPCfg
from .vlm.backbone import Taps
from .vlm.prefix import Prefix

Context = dict[str, Tensor]
"""Encoded observation, computed once and read in every denoising step, `(B, ...)` each."""


class Denoiser(nn.Module, ABC):
    """Built by `DenoiserCfg.build(chunk_size=, action_dim=, width=, state_dim=)`, with the width of the backbone."""

    @abstractmethod
    def encode(self, prefix: Prefix) -> Context:
        """Compute what does not depend on the noisy chunk."""

    @abstractmethod
    def forward(self, x: Tensor, time: Tensor, context: Context) -> Tensor:
        """Map noisy chunks `(B, H, A)` at times `(B,)` within [0, 1] to float32 `(B, H, A)`.

        A denoiser whose configuration says `time_per_action` also takes times `(B, H)`.
        """

    def many_passes(self) -> AbstractContextManager[None]:
        """Return a context for passes that share their weights, as the steps of sampling do."""
        return nullcontext()

    def predict(self, x: Tensor, time: Tensor, prefix: Prefix) -> Tensor:
        """`forward` for observations that are read this once, which learning does."""
        return self(x, time, self.encode(prefix))


@configclass
class DenoiserCfg(Cfg):
    """Base of the configurations of denoisers."""

    class_type: type = Denoiser

    time_per_action: ClassVar[bool] = False
    """True if each action of a chunk may have a time of its own."""

    def taps(self) -> Taps:
        """Say what the network reads of the backbone."""
        return Taps()

    def without_adapters(self) -> DenoiserCfg:
        """The same network once low-rank adapters are part of its weights."""
        return self.copy()

    def chunk_dim(self, action_dim: int) -> int:
        """Dimensions of the noisy actions that it maps, at least A: published weights have their own number."""
        return action_dim


class MLPDenoiser(Denoiser):
    """A residual MLP over the flat chunk, the time, the mean of all tokens and the state."""

    def __init__(self, cfg: MLPDenoiserCfg, *, chunk_size: int, action_dim: int, width: int, state_dim: int) -> None:
        super().__init__()
        self.chunk = (chunk_size, action_dim)
        self.time_dim = cfg.time_dim
        size = chunk_size * action_dim
        self.norm = nn.LayerNorm(width)
        self.network = cfg.network.build(size + cfg.time_dim + width + state_dim, size)

    @override
    def encode(self, prefix: Prefix) -> Context:
        pooled = self.norm(prefix.pooled.to(self.norm.weight.dtype))
        return {"features": torch.cat([pooled, prefix.state.to(pooled.dtype)], -1)}

    @override
    def forward(self, x: Tensor, time: Tensor, context: Context) -> Tensor:
        features = context["features"]
        embedding = time_embedding(time, self.time_dim).to(features.dtype)
        y = self.network(torch.cat([x.flatten(1).to(features.dtype), embedding, features], -1))
        return y.unflatten(-1, self.chunk).float()


@configclass
class MLPDenoiserCfg(DenoiserCfg):
    """Configuration of an `MLPDenoiser`."""

    class_type: type = MLPDenoiser
    network: ResidualMLPCfg = ResidualMLPCfg(num_blocks=3)
    """The MLP."""
    time_dim: Annotated[int, Range(ge=2, le=4096)] = 64
    """Width of the embedding of the time."""

    def check(self) -> Iterable[str]:
        """Sentences on sizes that do not divide."""
        if self.time_dim % 2:
            yield f"time_dim: {self.time_dim} is odd; sines and cosines come in pairs"

    @override
    def taps(self) -> Taps:
        return Taps(reads_tokens=False)


def time_embedding(time: Tensor, dim: int, min_period: float = 4e-3, max_period: float = 4.0) -> Tensor:
    """Sines and cosines of a time within [0, 1], `(...)` to float32 `(..., dim)`, with the periods of pi0.

    A time in float64 is not rounded: angles of the shortest period go up to 1570, where float32 has four digits left.
    """
    time = time if time.dtype == torch.float64 else time.float()
    fraction = torch.linspace(0.0, 1.0, dim // 2, device=time.device, dtype=time.dtype)
    frequency = 2 * math.pi / (min_period * (max_period / min_period) ** fraction)
    angle = time.unsqueeze(-1) * frequency
    return torch.cat([angle.sin(), angle.cos()], -1).float()
