"""Causal transformer over a sliding window, with the interface of a recurrent network.

Every layer attends to its own last `window` inputs (banded causal attention), so a step needs only the keys and values
of the past: one step at a time and a whole sequence at once give the same numbers. Positions are relative (rotary
embedding, Su et al. 2021, arXiv 2104.09864), therefore the window may slide without limit. Blocks are pre-norm. There
is no dropout: old and new log-probabilities of a policy must come from the same function.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from ..configclass import Range, configclass
from .activation import MOST_FEATURES
from .mlp import MLPCfg
from .network import Network, NetworkCfg, RecurrentNetwork


class Block(nn.Module):
    """Attention over the window, then an MLP, each with a residual connection around it.

    Shape letters: T new steps, C = window - 1 cached steps, N rows, D = dim, H heads.
    """

    def __init__(self, cfg: TransformerCfg) -> None:
        super().__init__()
        self.num_heads = cfg.num_heads
        self.attention_norm = nn.LayerNorm(cfg.dim)
        self.qkv = nn.Linear(cfg.dim, 3 * cfg.dim)
        self.projection = nn.Linear(cfg.dim, cfg.dim)
        self.mlp = nn.Sequential(
            nn.LayerNorm(cfg.dim),
            nn.Linear(cfg.dim, cfg.mlp_ratio * cfg.dim),
            nn.GELU(),
            nn.Linear(cfg.mlp_ratio * cfg.dim, cfg.dim),
        )

    def forward(self, x: Tensor, cache: Tensor, mask: Tensor, rotation: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Compute one layer.

        Args:
            x: `(N, T, D)`.
            cache: Keys and values of the last C steps, not rotated, `(N, C, 2 D)`.
            mask: `(N, 1, T, C + T)`, True where a step may attend.
            rotation: Cosine and sine of the positions, each `(C + T, D / H)`.

        Returns:
            The layer's output `(N, T, D)`, and keys and values of all steps `(N, C + T, 2 D)`.
        """
        steps, dim = x.shape[1], x.shape[2]
        query, key_value = self.qkv(self.attention_norm(x)).split([dim, 2 * dim], dim=-1)
        key_value = torch.cat([cache, key_value], dim=1)
        cos, sin = rotation
        q = _rotate(self._heads(query), cos[-steps:], sin[-steps:])
        k = _rotate(self._heads(key_value[..., :dim]), cos, sin)
        attended = F.scaled_dot_product_attention(q, k, self._heads(key_value[..., dim:]), attn_mask=mask)
        x = x + self.projection(attended.transpose(1, 2).flatten(2))
        return x + self.mlp(x), key_value

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)  # (N, H, steps, D / H)


class Transformer(RecurrentNetwork):
    """Causal transformer; see the module, and `RecurrentNetwork` for the calling convention.

    The state is `(num_layers, N, C * (2 D + 1))` with C = window - 1: per layer and cached step a mark (1 if the step
    belongs to the current episode, 0 if the slot is empty), then its key and value. Zeros are the empty window.
    """

    def __init__(self, cfg: TransformerCfg, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features)
        self.cfg = cfg
        self.embedding = nn.Linear(in_features, cfg.dim)
        self.blocks = nn.ModuleList(Block(cfg) for _ in range(cfg.num_layers))
        self.norm = nn.LayerNorm(cfg.dim)
        head_cfg = MLPCfg(hidden_features=[]) if cfg.head_cfg is None else cfg.head_cfg
        self.head: Network = head_cfg.build(cfg.dim, out_features)

    @override
    def state_shape(self, num_envs: int) -> tuple[int, int, int]:
        return self.cfg.num_layers, num_envs, (self.cfg.window - 1) * (2 * self.cfg.dim + 1)

    def forward(self, x: Tensor, state: Tensor, starts: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the output `(N, out)` or `(T, N, out)` for `x` `(N, in)` or `(T, N, in)`, and the last state."""
        return self._over_time(self._run, x, state, starts)

    def _run(self, x: Tensor, state: Tensor, starts: Tensor | None) -> tuple[Tensor, Tensor]:
        steps, rows = x.shape[0], x.shape[1]
        slots = self.cfg.window - 1
        cache = state.view(self.cfg.num_layers, rows, slots, 2 * self.cfg.dim + 1)
        episode = _episodes(cache[0, :, :, 0], steps, starts)  # (N, C + T)
        mask = self._mask(episode, steps)
        rotation = _rotation(slots + steps, self.cfg.dim // self.cfg.num_heads, x)
        y = self.embedding(x.transpose(0, 1))  # (N, T, D)
        kept = (episode[:, steps:] == episode[:, -1:]).unsqueeze(-1).to(y.dtype)  # (N, C, 1)
        states = []
        for block, layer_cache in zip(self.blocks, cache[..., 1:], strict=True):
            y, key_value = block(y, layer_cache, mask, rotation)
            states.append((torch.cat([torch.ones_like(kept), key_value[:, steps:]], dim=-1) * kept).flatten(1))
        return self.head(self.norm(y)).transpose(0, 1), torch.stack(states)

    def _mask(self, episode: Tensor, steps: int) -> Tensor:
        """Return `(N, 1, T, C + T)`: True for the last `window` steps of the same episode, the step itself included."""
        position = torch.arange(episode.shape[1], device=episode.device)
        age = position[-steps:].unsqueeze(1) - position  # (T, C + T)
        in_window = (age >= 0) & (age < self.cfg.window)
        same_episode = episode[:, -steps:].unsqueeze(2) == episode.unsqueeze(1)
        return (in_window & same_episode).unsqueeze(1)


@configclass
class TransformerCfg(NetworkCfg):
    """Configuration of a causal `Transformer`."""

    class_type: type = Transformer
    dim: Annotated[int, Range(ge=2, le=MOST_FEATURES)] = 64
    """Width of the tokens."""
    num_layers: Annotated[int, Range(ge=1, le=1024)] = 2
    """Number of blocks."""
    num_heads: Annotated[int, Range(ge=1, le=1024)] = 4
    """Number of attention heads."""
    mlp_ratio: Annotated[int, Range(ge=1, le=1024)] = 4
    """Width of a block's MLP as a multiple of `dim`."""
    window: Annotated[int, Range(ge=2, le=MOST_FEATURES)] = 16
    """Number of steps that a layer sees, the current one included; the network reaches `num_layers` times as far."""
    head_cfg: MLPCfg | None = None
    """Network from the last block to the output; None for a linear layer."""

    def check(self) -> Iterable[str]:
        """Check which sizes have to divide one another."""
        if self.dim % (2 * self.num_heads):
            yield (
                f"dim: {self.dim} is not a multiple of 2 * num_heads = {2 * self.num_heads}; "
                f"every head rotates pairs of its dimensions"
            )


def _episodes(marks: Tensor, steps: int, starts: Tensor | None) -> Tensor:
    """Return the episode number of each cached and new step `(N, C + T)`: -1 empty, 0 the current episode."""
    cached = marks.to(torch.int64) - 1
    if starts is None:
        new = torch.zeros(marks.shape[0], steps, dtype=torch.int64, device=marks.device)
    else:
        new = starts.to(torch.int64).cumsum(0).transpose(0, 1)
    return torch.cat([cached, new], dim=1)


def _rotation(length: int, head_dim: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Return cosine and sine `(length, head_dim)` of the rotary embedding."""
    # In float64, because only differences of positions may count: in float32 they drift with the position.
    exponents = torch.arange(0, head_dim, 2, device=like.device, dtype=torch.float64) / head_dim
    positions = torch.arange(length, device=like.device, dtype=torch.float64)
    angles = (positions.unsqueeze(1) * 10000.0**-exponents).repeat(1, 2)
    return angles.cos().to(like.dtype), angles.sin().to(like.dtype)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Apply the rotary embedding to `x` `(N, H, steps, head_dim)`."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-second, first], dim=-1) * sin
