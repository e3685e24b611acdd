"""Attention to what a backbone says of an observation: the tokens of a prefix, and the state as one more token."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from .vlm.prefix import Prefix


class PrefixTokens(nn.Module):
    """Project the features of a prefix, and its state, to tokens of another width.

    Shape letters: B observations, L tokens of the prefix, D = dim.
    """

    def __init__(self, width: int, state_dim: int, dim: int, num_layers: int = 0) -> None:
        """Read the last features, or those of the last `num_layers` layers if it is not 0."""
        super().__init__()
        self.num_layers = num_layers
        self.project = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, dim)) for _ in range(max(num_layers, 1))
        )
        self.state = nn.Linear(state_dim, dim) if state_dim else None

    @override
    def forward(self, prefix: Prefix) -> tuple[list[Tensor], Tensor, Tensor | None]:
        """Return the tokens of each source `(B, L or L + 1, D)`, the attention mask, and the state token `(B, D)`."""
        sources = prefix.layers if self.num_layers else (prefix.tokens,)
        if len(sources) != len(self.project):
            raise ValueError(
                f"The network got the hidden states of {len(sources)} layers, expected {len(self.project)}; build the "
                f"backbone with the head's `taps`, or set layerwise=False."
            )
        mask, state = prefix.mask, None
        dtype = next(self.parameters()).dtype
        tokens = [project(source.to(dtype)) for project, source in zip(self.project, sources, strict=True)]
        if self.state is not None:
            state = self.state(prefix.state.to(dtype))
            tokens = [torch.cat([state.unsqueeze(1), source], 1) for source in tokens]
            mask = F.pad(mask, (1, 0), value=True)
        return tokens, mask[:, None, None], state


class CrossAttention(nn.Module):
    """Attention to tokens whose keys and values are computed once, by `encode`."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query = nn.Linear(dim, dim)
        self.key_value = nn.Linear(dim, 2 * dim)
        self.output = nn.Linear(dim, dim)

    def encode(self, tokens: Tensor) -> Tensor:
        """Return keys and values `(B, 2, heads, L, D / heads)` of tokens `(B, L, D)`."""
        return self.key_value(tokens).unflatten(-1, (2, self.num_heads, -1)).permute(0, 2, 3, 1, 4)

    @override
    def forward(self, x: Tensor, key_value: Tensor, mask: Tensor) -> Tensor:
        """Map `(B, H, D)` to the same; the mask is bool `(B, 1, 1, L)`."""
        query = split_heads(self.query(x), self.num_heads)
        key, value = key_value.to(query.dtype).unbind(1)
        return self.output(join_heads(F.scaled_dot_product_attention(query, key, value, attn_mask=mask)))


def split_heads(x: Tensor, num_heads: int) -> Tensor:
    """`(B, H, D)` to `(B, heads, H, D / heads)`."""
    return x.unflatten(-1, (num_heads, -1)).transpose(1, 2)


def join_heads(x: Tensor) -> Tensor:
    """Undo `split_heads`."""
    return x.transpose(1, 2).flatten(2)
