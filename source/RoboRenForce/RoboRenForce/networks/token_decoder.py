"""Small autoregressive transformer over action tokens that reads a prefix by cross-attention.

Shape letters: B observations, N tokens, V vocabulary, L tokens of the prefix, D = dim.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from ..configclass import Cfg, Range, configclass
from .activation import MOST_FEATURES
from .denoiser import Context
from .prefix_attention import CrossAttention, PrefixTokens, join_heads, split_heads
from .vlm.prefix import Prefix


class DecoderBlock(nn.Module):
    """Causal self-attention, cross-attention and MLP, pre-norm."""

    def __init__(self, dim: int, num_heads: int, mlp_ratio: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.self_norm, self.cross_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.output = nn.Linear(dim, dim)
        self.cross = CrossAttention(dim, num_heads)
        self.mlp = nn.Sequential(
            nn.LayerNorm(dim), nn.Linear(dim, mlp_ratio * dim), nn.GELU(), nn.Linear(mlp_ratio * dim, dim)
        )

    @override
    def forward(self, x: Tensor, key_value: Tensor, mask: Tensor) -> Tensor:
        """Map a whole sequence `(B, N, D)`."""
        qkv = self.qkv(self.self_norm(x)).chunk(3, -1)
        seen = F.scaled_dot_product_attention(*(split_heads(part, self.num_heads) for part in qkv), is_causal=True)
        return self._rest(x + self.output(join_heads(seen)), key_value, mask)

    def step(self, x: Tensor, position: int, past: Tensor, key_value: Tensor, mask: Tensor) -> Tensor:
        """Map one token `(B, 1, D)`; its keys and values are written into `past`, `(2, B, heads, N, D / heads)`."""
        query, key, value = (split_heads(part, self.num_heads) for part in self.qkv(self.self_norm(x)).chunk(3, -1))
        past[0, :, :, position : position + 1] = key
        past[1, :, :, position : position + 1] = value
        key, value = past[:, :, :, : position + 1].to(query.dtype)
        seen = F.scaled_dot_product_attention(query, key, value)
        return self._rest(x + self.output(join_heads(seen)), key_value, mask)

    def _rest(self, x: Tensor, key_value: Tensor, mask: Tensor) -> Tensor:
        x = x + self.cross(self.cross_norm(x), key_value, mask)
        return x + self.mlp(x)


class TokenDecoder(nn.Module):
    """Predict each token of a sequence from those before it and a prefix.

    Built by `TokenDecoderCfg.build(vocabulary=, length=, width=, state_dim=)`.
    """

    def __init__(self, cfg: TokenDecoderCfg, *, vocabulary: int, length: int, width: int, state_dim: int) -> None:
        super().__init__()
        self.cfg, self.length = cfg, length
        self.start = vocabulary  # what the first token is predicted from
        self.embedding = nn.Embedding(vocabulary + 1, cfg.dim)
        self.position = nn.Parameter(0.02 * torch.randn(length, cfg.dim))
        self.prefix = PrefixTokens(width, state_dim, cfg.dim)
        self.blocks = nn.ModuleList(DecoderBlock(cfg.dim, cfg.num_heads, cfg.mlp_ratio) for _ in range(cfg.num_layers))
        self.norm = nn.LayerNorm(cfg.dim)
        self.output = nn.Linear(cfg.dim, vocabulary)
        nn.init.normal_(self.embedding.weight, std=0.02)

    def encode(self, prefix: Prefix) -> Context:
        """Compute keys and values of the prefix."""
        (tokens,), mask, _ = self.prefix(prefix)
        return {"mask": mask} | {
            f"key_value.{number}": block.cross.encode(tokens) for number, block in enumerate(self.blocks)
        }

    @override
    def forward(self, tokens: Tensor, context: Context) -> Tensor:
        """Return float32 logits `(B, N, V)` of tokens `(B, N)`, each predicted from those before it."""
        before = F.pad(tokens[:, :-1], (1, 0), value=self.start)
        x = self.embedding(before) + self.position[: tokens.shape[1]]
        for number, block in enumerate(self.blocks):
            x = block(x, context[f"key_value.{number}"], context["mask"])
        return self.output(self.norm(x)).float()

    @torch.no_grad()
    def generate(self, context: Context, choose: Callable[[Tensor], Tensor]) -> Tensor:
        """Generate `length` tokens `(B, length)` one by one; `choose` maps logits `(B, V)` to tokens `(B,)`."""
        mask, cfg = context["mask"], self.cfg
        token = torch.full((len(mask),), self.start, device=mask.device)
        past = self.position.new_zeros(
            cfg.num_layers, 2, len(mask), cfg.num_heads, self.length, cfg.dim // cfg.num_heads
        )
        tokens = []
        for position in range(self.length):
            x = (self.embedding(token) + self.position[position]).unsqueeze(1)
            for number, block in enumerate(self.blocks):
                x = block.step(x, position, past[number], context[f"key_value.{number}"], mask)
            token = choose(self.output(self.norm(x[:, 0])).float())
            tokens.append(token)
        return torch.stack(tokens, 1)


@configclass
class TokenDecoderCfg(Cfg):
    """Configuration of a `TokenDecoder`."""

    class_type: type = TokenDecoder
    dim: Annotated[int, Range(ge=1, le=MOST_FEATURES)] = 256
    """Width of the tokens."""
    num_layers: Annotated[int, Range(ge=1, le=1024)] = 4
    """Blocks on top of one another."""
    num_heads: Annotated[int, Range(ge=1, le=1024)] = 4
    """Attention heads."""
    mlp_ratio: Annotated[int, Range(ge=1, le=64)] = 4
    """Width of a block's MLP as a multiple of `dim`."""

    def check(self) -> Iterable[str]:
        """Sentences on sizes that do not divide."""
        if self.dim % self.num_heads:
            yield f"dim: {self.dim} is not a multiple of num_heads = {self.num_heads}"
