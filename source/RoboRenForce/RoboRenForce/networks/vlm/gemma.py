"""Gemma layers (arXiv 2403.08295) whose tokens also attend to keys and values that others have computed before.

The vision-language model and the action expert of pi0 are made of the same layers. "Joint attention" of the two is
this: tokens of the expert attend to one another and to the keys and values of the model's tokens in the same layer.
The model never looks back, so that these are computed once per observation.

Shape letters: B rows, L tokens, P tokens before them, D width, H query heads, K key and value heads, d head width.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...configclass import Cfg, Range, configclass
from ...utils.parallelize import recompute
from .lora import LoRACfg, add_lora

Finetune = Literal["full", "lora", "frozen"]
_EPSILON = 1e-6
_MOST = 65_536


@dataclass(frozen=True)
class Rotation:
    """Positions as cosine and sine, float32 `(B, L, 1, d / 2)`: no tuple, whose tensors FSDP would cast."""

    cos: Tensor
    sin: Tensor


class RMSNorm(nn.Module):
    """Root-mean-square normalization with the factor `1 + weight`, computed in float32."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor, condition: Tensor | None = None) -> tuple[Tensor, None]:
        """Return the normalized `(B, L, D)`, and no gate."""
        return F.rms_norm(x.float(), x.shape[-1:], 1.0 + self.weight.float(), _EPSILON).to(x.dtype), None


class AdaptiveRMSNorm(nn.Module):
    """Root-mean-square normalization that a condition scales and shifts; it also gates what follows (adaRMS)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.dense = nn.Linear(width, 3 * width)
        nn.init.zeros_(self.dense.weight)
        nn.init.zeros_(self.dense.bias)

    def forward(self, x: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        """Return the normalized `(B, L, D)`, and the gate; the condition is `(B, 1 or L, D)`."""
        scale, shift, gate = self.dense(condition.to(self.dense.weight.dtype)).chunk(3, -1)
        normalized = F.rms_norm(x.float(), x.shape[-1:], None, _EPSILON)
        return torch.addcmul(shift.float(), normalized, 1.0 + scale.float()).to(x.dtype), gate.to(x.dtype)


class GemmaAttention(nn.Module):
    """Attention with rotary positions, to the tokens themselves and to those before them."""

    def __init__(self, cfg: GemmaCfg) -> None:
        super().__init__()
        self.heads = (cfg.num_heads, cfg.num_kv_heads, cfg.head_dim)
        queries, keys = cfg.num_heads * cfg.head_dim, cfg.num_kv_heads * cfg.head_dim
        self.q_proj = nn.Linear(cfg.width, queries, bias=False)
        self.k_proj = nn.Linear(cfg.width, keys, bias=False)
        self.v_proj = nn.Linear(cfg.width, keys, bias=False)
        self.o_proj = nn.Linear(queries, cfg.width, bias=False)

    def keys_values(self, x: Tensor, rotation: Rotation) -> Tensor:
        """Keys and values of these tokens `(B, 2, K, L, d)`."""
        size = self.heads[2]
        key, value = (part(x).unflatten(-1, (-1, size)) for part in (self.k_proj, self.v_proj))
        return torch.stack([rotate(key, rotation), value], 1).transpose(2, 3)

    def forward(self, x: Tensor, rotation: Rotation, mask: Tensor | None, past: Tensor | None) -> tuple[Tensor, Tensor]:
        """See `GemmaLayer.forward`."""
        heads, key_heads, size = self.heads
        both = torch.cat([self.q_proj(x), self.k_proj(x)], -1).unflatten(-1, (-1, size))
        query, key = rotate(both, rotation).split([heads, key_heads], 2)  # one rotation: half as many small kernels
        value = self.v_proj(x).unflatten(-1, (-1, size))
        new = torch.stack([key, value], 1).transpose(2, 3)  # (B, 2, K, L, d)
        seen = new if past is None else torch.cat([past.to(new.dtype), new], 3)
        return self.o_proj(grouped_attention(query, seen[:, 0], seen[:, 1], mask)), new


class GemmaMLP(nn.Module):
    """Gated MLP."""

    def __init__(self, cfg: GemmaCfg) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(cfg.width, cfg.mlp_width, bias=False)
        self.up_proj = nn.Linear(cfg.width, cfg.mlp_width, bias=False)
        self.down_proj = nn.Linear(cfg.mlp_width, cfg.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map `(B, L, D)` to the same."""
        return self.down_proj(F.gelu(self.gate_proj(x), approximate="tanh") * self.up_proj(x))


class GemmaLayer(nn.Module):
    """One layer; `adaptive` ones are steered by a condition."""

    def __init__(self, cfg: GemmaCfg, *, adaptive: bool) -> None:
        super().__init__()
        norm = AdaptiveRMSNorm if adaptive else RMSNorm
        self.input_layernorm = norm(cfg.width)
        self.self_attn = GemmaAttention(cfg)
        self.post_attention_layernorm = norm(cfg.width)
        self.mlp = GemmaMLP(cfg)

    def forward(
        self,
        x: Tensor,
        rotation: Rotation,
        mask: Tensor | None,
        past: Tensor | None = None,
        condition: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Compute the layer.

        Args:
            x: `(B, L, D)`.
            rotation: Positions of these tokens.
            mask: bool `(B, 1, 1, P + L)`: tokens that are there; or `(B, 1, L * H / K, P + L)`: those that each query
                of a group sees; None: all.
            past: Keys and values of this layer for the tokens before, `(B, 2, K, P, d)`.
            condition: `(B, 1 or L, D)`, of adaptive layers.

        Returns:
            The output `(B, L, D)`, and keys and values of these tokens `(B, 2, K, L, d)`.
        """
        y, gate = self.input_layernorm(x, condition)
        y, key_value = self.self_attn(y, rotation, mask, past)
        x = _gated_sum(x, y, gate)
        y, gate = self.post_attention_layernorm(x, condition)
        return _gated_sum(x, self.mlp(y), gate), key_value


class Gemma(nn.Module):
    """Layers on top of one another, and the last normalization; embeddings are the caller's."""

    def __init__(self, cfg: GemmaCfg, *, adaptive: bool = False) -> None:
        super().__init__()
        self.cfg = cfg
        self.layers = nn.ModuleList(GemmaLayer(cfg, adaptive=adaptive) for _ in range(cfg.num_layers))
        self.norm = (AdaptiveRMSNorm if adaptive else RMSNorm)(cfg.width)
        self.requires_grad_(cfg.finetune == "full")
        if cfg.finetune == "lora":
            add_lora(self.layers, cfg.lora)
        if cfg.gradient_checkpointing:
            for layer in self.layers:
                recompute(layer)

    def forward(
        self,
        x: Tensor,
        positions: Tensor,
        mask: Tensor | None,
        past: Tensor | None = None,
        condition: Tensor | None = None,
        *,
        last: int = 1,
    ) -> tuple[list[Tensor], Tensor]:
        """Run all layers.

        Args:
            x: Embeddings `(B, L, D)`.
            positions: int64 `(B, L)`.
            mask: bool `(B, P + L)`: tokens that are there; or `(B, L, P + L)`: those that each token sees; None: all.
            past: Keys and values of the tokens before, of all layers, `(B, N, 2, K, P, d)`.
            condition: `(B, 1 or L, D)`, of adaptive layers.
            last: Layers whose outputs are returned; those of the others are not kept. With 0, and no condition, of the
                last layer only keys and values are computed.

        Returns:
            Outputs of the last layers, not normalized, and keys and values of all N `(B, N, 2, K, L, d)`.
        """
        x = x.to(self.dtype)
        rotation = rotation_of(positions, self.cfg.head_dim)
        keep = None if mask is None else self._by_query(mask)
        hidden, key_values = [], []
        for number, layer in enumerate(cast("Iterable[GemmaLayer]", self.layers)):
            before = None if past is None else past[:, number]
            if not last and number == len(self.layers) - 1:
                key_values.append(layer.self_attn.keys_values(layer.input_layernorm(x)[0], rotation))
                break
            x, key_value = layer(x, rotation, keep, before, condition)
            key_values.append(key_value)
            if number >= len(self.layers) - last:
                hidden.append(x)
        return hidden, torch.stack(key_values, 1)

    def _by_query(self, mask: Tensor) -> Tensor:
        """As `grouped_attention` reads it."""
        if mask.dim() == 2:
            return mask[:, None, None]
        return mask.repeat_interleave(self.cfg.num_heads // self.cfg.num_kv_heads, 1).unsqueeze(1)

    def normalized(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """Normalize outputs of a layer as those of the last one are."""
        return self.norm(x, condition)[0]

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights of its layers, in which it computes where autocast does not say otherwise."""
        weight = cast("GemmaLayer", self.layers[0]).mlp.down_proj.weight
        return weight.dtype if isinstance(weight, nn.Parameter) else torch.float32  # `weights_cast_once` holds a copy


@configclass
class GemmaCfg(Cfg):
    """Size and training of a `Gemma`; the default is the 2B language model of PaliGemma (arXiv 2407.07726)."""

    class_type: type = Gemma
    width: Annotated[int, Range(ge=2, le=_MOST)] = 2048
    """D."""
    mlp_width: Annotated[int, Range(ge=1, le=1_048_576)] = 16_384
    """Hidden features of the MLP."""
    num_layers: Annotated[int, Range(ge=1, le=1024)] = 18
    """N."""
    num_heads: Annotated[int, Range(ge=1, le=1024)] = 8
    """Query heads."""
    num_kv_heads: Annotated[int, Range(ge=1, le=1024)] = 1
    """Heads of keys and values, which groups of query heads share."""
    head_dim: Annotated[int, Range(ge=2, le=1024)] = 256
    """Width of a head."""
    finetune: Finetune = "full"
    """Trained weights: all, low-rank adapters, or none."""
    lora: LoRACfg = LoRACfg()
    """Adapters, with `finetune="lora"`."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass, layer by layer: slower, much less memory."""

    def without_adapters(self) -> GemmaCfg:
        """The same layers once low-rank adapters are part of their weights."""
        return self.replace(finetune="frozen") if self.finetune == "lora" else self.copy()

    def check(self) -> Iterable[str]:
        """Sentences on heads that can't be grouped or rotated."""
        if self.num_heads % self.num_kv_heads:
            yield f"num_heads: {self.num_heads} is no multiple of num_kv_heads = {self.num_kv_heads}"
        if self.head_dim % 2:
            yield f"head_dim: {self.head_dim} is odd; rotary positions turn pairs"


def rotation_of(positions: Tensor, head_dim: int) -> Rotation:
    """Cosine and sine of int64 positions `(B, L)` (rotary embedding, arXiv 2104.09864)."""
    exponent = torch.arange(0, head_dim, 2, device=positions.device).float() / head_dim
    angle = positions.unsqueeze(-1).float() * (1.0 / 10_000.0**exponent)
    return Rotation(angle.cos().unsqueeze(2), angle.sin().unsqueeze(2))


def rotate(x: Tensor, rotation: Rotation) -> Tensor:
    """Turn `(B, L, heads, d)` by its positions, in float32."""
    cos, sin = rotation.cos, rotation.sin
    first, second = x.float().chunk(2, -1)
    turned = torch.addcmul(first * cos, second, sin, value=-1.0), torch.addcmul(second * cos, first, sin)
    return torch.cat(turned, -1).to(x.dtype)


def grouped_attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """Attention of `(B, L, H, d)` to `(B, K, P + L, d)`, to `(B, L, H * d)`; the mask is bool, see `GemmaLayer`.

    Query heads that share keys stand side by side as further queries: nothing is repeated, and with one head of keys
    nothing is even copied.
    """
    groups = query.shape[2] // key.shape[1]
    grouped = query.unflatten(2, (-1, groups)).transpose(1, 2).flatten(2, 3)  # (B, K, L * groups, d)
    seen = F.scaled_dot_product_attention(grouped, key, value, attn_mask=mask)
    return seen.unflatten(2, (-1, groups)).transpose(1, 2).flatten(2)


def _gated_sum(x: Tensor, y: Tensor, gate: Tensor | None) -> Tensor:
    return x + y if gate is None else x + y * gate
