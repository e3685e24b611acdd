"""Diffusion transformer over the actions of a chunk (DiT, arXiv 2212.09748; cross-attention as in 2503.14734).

Tokens are the actions of a chunk, at learned positions. Every block modulates its normalized input by time and state
(adaLN-Zero: blocks begin as the identity), lets actions attend to one another, then to the features of the
observation and the state, whose keys and values are computed once per observation.

Shape letters: B observations, H actions of a chunk, A dimensions of an action, L tokens of the observation, D = dim.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Annotated, ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from ..configclass import Range, configclass
from ..utils.precision import weights_cast_once
from .activation import MOST_FEATURES
from .denoiser import Context, Denoiser, DenoiserCfg, time_embedding
from .prefix_attention import CrossAttention, PrefixTokens, join_heads, split_heads
from .vlm.backbone import Taps
from .vlm.prefix import Prefix


class DiTBlock(nn.Module):
    """Self-attention, cross-attention and MLP, each scaled, shifted and gated by the condition."""

    def __init__(self, dim: int, num_heads: int, mlp_ratio: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm = nn.LayerNorm(dim, elementwise_affine=False)
        self.modulation = nn.Linear(dim, 9 * dim)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.output = nn.Linear(dim, dim)
        self.cross = CrossAttention(dim, num_heads)
        self.mlp = nn.Sequential(nn.Linear(dim, mlp_ratio * dim), nn.GELU(), nn.Linear(mlp_ratio * dim, dim))
        _zero(self.modulation)

    @override
    def forward(self, x: Tensor, condition: Tensor, key_value: Tensor, mask: Tensor) -> Tensor:
        """Map `(B, H, D)` to the same; the condition is `(B, 1 or H, D)`, the mask bool `(B, 1, 1, L)`."""
        parts = self.modulation(condition).chunk(9, -1)
        shift, scale, gate = parts[:3]
        qkv = self.qkv(modulate(self.norm(x), shift, scale)).chunk(3, -1)
        query, key, value = (split_heads(part, self.num_heads) for part in qkv)
        seen = F.scaled_dot_product_attention(query, key, value)
        x = x + gate * self.output(join_heads(seen))
        shift, scale, gate = parts[3:6]
        x = x + gate * self.cross(modulate(self.norm(x), shift, scale), key_value, mask)
        shift, scale, gate = parts[6:]
        return x + gate * self.mlp(modulate(self.norm(x), shift, scale))


class DiT(Denoiser):
    """Transformer from a noisy chunk, its time (one per chunk or per action) and a prefix to a chunk."""

    def __init__(self, cfg: DiTCfg, *, chunk_size: int, action_dim: int, width: int, state_dim: int) -> None:
        super().__init__()
        self.cfg = cfg
        dim = cfg.dim
        self.action = nn.Linear(action_dim, dim)
        self.position = nn.Parameter(0.02 * torch.randn(chunk_size, dim))
        self.time = nn.Sequential(nn.Linear(dim, dim), nn.SiLU(), nn.Linear(dim, dim))
        self.prefix = PrefixTokens(width, state_dim, dim, cfg.num_layers if cfg.layerwise else 0)
        self.blocks = nn.ModuleList(DiTBlock(dim, cfg.num_heads, cfg.mlp_ratio) for _ in range(cfg.num_layers))
        self.norm = nn.LayerNorm(dim, elementwise_affine=False)
        self.modulation = nn.Linear(dim, 2 * dim)
        self.output = nn.Linear(dim, action_dim)
        _zero(self.modulation)
        _zero(self.output)  # the first prediction is zero, whatever the features are

    @override
    def encode(self, prefix: Prefix) -> Context:
        tokens, mask, state = self.prefix(prefix)
        context: Context = {"mask": mask}
        if state is not None:
            context["state"] = state
        for number, block in enumerate(cast("Iterable[DiTBlock]", self.blocks)):
            context[f"key_value.{number}"] = block.cross.encode(tokens[number if self.cfg.layerwise else 0])
        return context

    @override
    def many_passes(self) -> AbstractContextManager[None]:
        return weights_cast_once(self.blocks)

    @override
    def forward(self, x: Tensor, time: Tensor, context: Context) -> Tensor:
        dtype = self.action.weight.dtype
        condition = self.time(time_embedding(time, self.cfg.dim).to(dtype)).reshape(len(x), -1, self.cfg.dim)
        if "state" in context:
            condition = condition + context["state"].unsqueeze(1)
        condition = F.silu(condition)
        y = self.action(x.to(dtype)) + self.position
        for number, block in enumerate(self.blocks):
            y = block(y, condition, context[f"key_value.{number}"], context["mask"])
        shift, scale = self.modulation(condition).chunk(2, -1)
        return self.output(modulate(self.norm(y), shift, scale)).float()


@configclass
class DiTCfg(DenoiserCfg):
    """Configuration of a `DiT`."""

    class_type: type = DiT
    time_per_action: ClassVar[bool] = True

    dim: Annotated[int, Range(ge=2, le=MOST_FEATURES)] = 256
    """Width of the tokens."""
    num_layers: Annotated[int, Range(ge=1, le=1024)] = 4
    """Blocks on top of one another."""
    num_heads: Annotated[int, Range(ge=1, le=1024)] = 4
    """Attention heads."""
    mlp_ratio: Annotated[int, Range(ge=1, le=64)] = 4
    """Width of a block's MLP as a multiple of `dim`."""
    layerwise: bool = False
    """Block by block, attend to the last `num_layers` layers of the backbone, instead of all to the last one."""

    def check(self) -> Iterable[str]:
        """Sentences on sizes that do not divide."""
        if self.dim % self.num_heads or self.dim % 2:
            yield f"dim: {self.dim} is not even and a multiple of num_heads = {self.num_heads}"

    @override
    def taps(self) -> Taps:
        return Taps(num_layers=self.num_layers if self.layerwise else 0)


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Shift and scale what is normalized."""
    return x * (1 + scale) + shift


def _zero(linear: nn.Linear) -> None:
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
