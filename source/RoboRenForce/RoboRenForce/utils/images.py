"""Batches of images on the device, uint8 `(B, H, W, 3)`."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor


def resize(images: Tensor, size: tuple[int, int], mode: Literal["stretch", "pad"]) -> Tensor:
    """Scale `(B, H, W, 3)` uint8 to `(B, *size, 3)` uint8, bicubic with antialiasing as PIL does it.

    Args:
        images: On any device; those of the right size are returned as they are.
        size: Height and width.
        mode: `stretch` to the size, or keep the proportions and `pad` with black on both sides.
    """
    height, width = images.shape[1:3]
    if (height, width) == size:
        return images
    inner = size
    if mode == "pad":
        ratio = min(size[0] / height, size[1] / width)
        inner = max(1, round(height * ratio)), max(1, round(width * ratio))
    planes = images.movedim(-1, 1).float()
    planes = F.interpolate(planes, inner, mode="bicubic", antialias=True).round_().clamp_(0, 255)
    top, left = (size[0] - inner[0]) // 2, (size[1] - inner[1]) // 2
    planes = F.pad(planes, (left, size[1] - inner[1] - left, top, size[0] - inner[0] - top))
    return planes.to(torch.uint8).movedim(1, -1)
