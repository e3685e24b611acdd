"""The vision towers of Qwen2-VL and Qwen3-VL on images of one size: batched, and without waiting for the device.

transformers runs a packed sequence of patches of any sizes, whose lengths it reads back to the host, and attends image
by image. Images of a policy have one size, so that they are a batch `(N, P, D)`; the modules and weights are the same.
"""

from __future__ import annotations

import types
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def patchify(images: Tensor, patch: int, merge: int, scale: Tensor, shift: Tensor) -> Tensor:
    """Cut images into the rows that the patch embedding reads, in the order of transformers' image processor.

    Args:
        images: uint8 `(N, H, W, 3)`.
        patch: Pixels per side of a patch.
        merge: Patches per side that become one token; they lie together.
        scale: By channel; pixels become `value * scale + shift`.
        shift: See `scale`.

    Returns:
        float32 `(N, P, 3 * 2 * patch * patch)`; an image counts as two equal frames.
    """
    rows, columns = images.shape[1] // (patch * merge), images.shape[2] // (patch * merge)
    pixels = images.float() * scale + shift
    pixels = pixels.view(-1, rows, merge, patch, columns, merge, patch, 3).permute(0, 1, 4, 2, 5, 7, 3, 6)
    frames = pixels.unsqueeze(6).expand(*pixels.shape[:6], 2, patch, patch)  # (N, rows, columns, m, m, 3, 2, p, p)
    return frames.reshape(len(images), rows * columns * merge**2, -1)


def merged_order(rows: int, columns: int, merge: int) -> Tensor:
    """Row and column of each patch, `(P, 2)`, in the order of `patchify`."""
    place = torch.stack(torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij"), -1)
    place = place.view(rows // merge, merge, columns // merge, merge, 2).transpose(1, 2)
    return place.reshape(-1, 2)


def rotation(place: Tensor, head_dim: int) -> tuple[Tensor, Tensor]:
    """Cosine and sine `(P, head_dim)` of the two-dimensional rotary embedding: half of the pairs turn by the row."""
    frequency = 10000.0 ** (-torch.arange(0, head_dim // 2, 2) / (head_dim // 2))
    angle = (place.unsqueeze(-1) * frequency).flatten(1).repeat(1, 2)
    return angle.cos(), angle.sin()


def attend_within_images(tower: nn.Module) -> None:
    """Let the blocks of a vision tower take `(N, P, D)`, every image attending to itself."""
    for block in tower.get_submodule("blocks").children():
        attention = block.get_submodule("attn")
        attention.forward = types.MethodType(_attention, attention)


def embed_patches(tower: Any, patches: Tensor) -> Tensor:
    """The patch embedding, whose convolution has the stride of its kernel, as the matrix product that it is."""
    projection = tower.patch_embed.proj
    weight = projection.weight.flatten(1)
    return F.linear(patches.to(weight.dtype), weight, projection.bias)


def _attention(
    attention: Any, hidden_states: Tensor, position_embeddings: tuple[Tensor, Tensor], **_packing: Any
) -> Tensor:
    images, patches, _ = hidden_states.shape
    query, key, value = (
        attention.qkv(hidden_states).view(images, patches, 3, attention.num_heads, -1).permute(2, 0, 3, 1, 4)
    )
    cos, sin = position_embeddings
    seen = F.scaled_dot_product_attention(_rotated(query, cos, sin), _rotated(key, cos, sin), value)
    return attention.proj(seen.transpose(1, 2).flatten(2))


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.float().chunk(2, dim=-1)
    return (x.float() * cos + torch.cat([-second, first], dim=-1) * sin).to(x.dtype)
