"""The vision tower of PaliGemma (SigLIP, arXiv 2303.15343): images to patch features.

Shape letters: N images, P patches, D width.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...configclass import Cfg, Range, configclass
from ...utils.parallelize import recompute

_EPSILON = 1e-6


class LayerNorm(nn.LayerNorm):
    """Layer normalization in float32, whatever the precision of what it normalizes."""

    def forward(self, input: Tensor) -> Tensor:
        """Map `(..., D)` to the same, of the same type."""
        weight, bias = self.weight.float(), self.bias.float()
        return F.layer_norm(input.float(), self.normalized_shape, weight, bias, self.eps).to(input.dtype)


class PatchEmbedding(nn.Module):
    """Patches to tokens with their positions: a convolution whose stride is its size is a matrix product."""

    def __init__(self, cfg: SigLIPCfg) -> None:
        super().__init__()
        self.patch = cfg.patch
        self.weight = nn.Parameter(0.02 * torch.randn(cfg.width, 3, cfg.patch, cfg.patch))
        self.bias = nn.Parameter(torch.zeros(cfg.width))
        self.position = nn.Parameter(0.02 * torch.randn(cfg.num_patches, cfg.width))

    def forward(self, images: Tensor) -> Tensor:
        """uint8 `(N, H, W, 3)` -> `(N, P, D)`; pixels become -1 to 1."""
        size = self.patch
        rows, columns = images.shape[1] // size, images.shape[2] // size
        patches = images.view(len(images), rows, size, columns, size, 3).permute(0, 1, 3, 5, 2, 4)
        pixels = patches.reshape(len(images), rows * columns, -1).float() / 127.5 - 1.0
        return F.linear(pixels.to(self.weight.dtype), self.weight.flatten(1), self.bias) + self.position


class SigLIPAttention(nn.Module):
    """Attention of all patches of an image to one another."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q_proj, self.k_proj = nn.Linear(width, width), nn.Linear(width, width)
        self.v_proj, self.out_proj = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map `(N, P, D)` to the same."""
        query, key, value = (
            part(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for part in (self.q_proj, self.k_proj, self.v_proj)
        )
        return self.out_proj(F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))


class SigLIPMLP(nn.Module):
    """MLP of a layer."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map `(N, P, D)` to the same."""
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


class SigLIPLayer(nn.Module):
    """Attention and MLP, each behind a normalization."""

    def __init__(self, cfg: SigLIPCfg) -> None:
        super().__init__()
        self.layer_norm1 = LayerNorm(cfg.width, eps=_EPSILON)
        self.self_attn = SigLIPAttention(cfg.width, cfg.num_heads)
        self.layer_norm2 = LayerNorm(cfg.width, eps=_EPSILON)
        self.mlp = SigLIPMLP(cfg.width, cfg.mlp_width)

    def forward(self, x: Tensor) -> Tensor:
        """Map `(N, P, D)` to the same."""
        x = x + self.self_attn(self.layer_norm1(x))
        return x + self.mlp(self.layer_norm2(x))


class SigLIP(nn.Module):
    """See the module."""

    def __init__(self, cfg: SigLIPCfg) -> None:
        super().__init__()
        self.cfg = cfg
        self.embeddings = PatchEmbedding(cfg)
        self.layers = nn.ModuleList(SigLIPLayer(cfg) for _ in range(cfg.num_layers))
        self.post_layernorm = LayerNorm(cfg.width, eps=_EPSILON)
        if cfg.gradient_checkpointing:
            for layer in self.layers:
                recompute(layer)

    def forward(self, images: Tensor) -> Tensor:
        """uint8 `(N, H, W, 3)` -> features of patches `(N, P, D)`."""
        x = self.embeddings(images)
        for layer in cast("Iterable[SigLIPLayer]", self.layers):
            x = layer(x.to(layer.mlp.fc1.weight.dtype))
        return self.post_layernorm(x)


@configclass
class SigLIPCfg(Cfg):
    """Size of a `SigLIP`; the default is So400m with patches of 14 pixels."""

    class_type: type = SigLIP
    image_size: Annotated[int, Range(ge=1, le=4096)] = 224
    """Height and width of images."""
    patch: Annotated[int, Range(ge=1, le=256)] = 14
    """Pixels per side of a patch."""
    width: Annotated[int, Range(ge=1, le=65_536)] = 1152
    """D."""
    mlp_width: Annotated[int, Range(ge=1, le=1_048_576)] = 4304
    """Hidden features of the MLP."""
    num_layers: Annotated[int, Range(ge=1, le=1024)] = 27
    """Layers."""
    num_heads: Annotated[int, Range(ge=1, le=1024)] = 16
    """Attention heads."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass, layer by layer."""

    @property
    def num_patches(self) -> int:
        """P, tokens of an image."""
        return (self.image_size // self.patch) ** 2

    def check(self) -> Iterable[str]:
        """Sentences on sizes that do not divide."""
        if self.image_size % self.patch:
            yield f"image_size: {self.image_size} is no multiple of patch = {self.patch}"
        if self.width % self.num_heads:
            yield f"width: {self.width} is no multiple of num_heads = {self.num_heads}"
