"""Draw rectangles and ellipses with smooth edges, in all images of a batch at once.

A shape touches a few pixels of an image. So each is painted in a window just large enough for it, whose place differs
from image to image: gather the window's pixels, blend, put them back. No loop over images, no wait for the device.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Shape:
    """One shape in each of N images; lengths are in pixels, colours in [0, 255]."""

    centre: torch.Tensor  # (N, 2) to the right, down; the middle of the first pixel is (0.5, 0.5)
    half: torch.Tensor | tuple[float, float]  # half of width and height, (N, 2) or the same everywhere
    colour: torch.Tensor  # (N, 3) or (3,)
    reach: tuple[float, float]
    """Largest half of width and of height: sizes the window."""
    is_round: bool = False
    opacity: torch.Tensor | float = 1.0  # (N,) or the same everywhere


class Canvas:
    """N square images, painted from back to front.

    Args:
        background: float `(size, size, 3)` in [0, 255], on the device to draw on.
        num_images: N.
    """

    def __init__(self, background: torch.Tensor, num_images: int) -> None:
        self._size = background.shape[0]
        self._pixels = background.reshape(1, -1, 3).repeat(num_images, 1, 1).view(-1, 3)  # (N * size * size, 3)
        first = torch.arange(num_images, device=background.device) * self._size**2
        self._first_pixel = first.view(-1, 1, 1)

    def paint(self, shape: Shape) -> None:
        """Paint over what is there."""
        across, across_cover = self._window(shape, 0)
        down, down_cover = self._window(shape, 1)
        cover = _ellipse(shape, across_cover, down_cover) if shape.is_round else _product(across_cover, down_cover)
        opacity = shape.opacity
        cover = cover * (opacity.view(-1, 1, 1) if isinstance(opacity, torch.Tensor) else opacity)
        index = (self._first_pixel + down.unsqueeze(2) * self._size + across.unsqueeze(1)).flatten()
        colour = shape.colour.view(-1, 1, 3).expand(len(down), cover[0].numel(), 3).reshape(-1, 3)
        below = self._pixels.index_select(0, index)
        self._pixels.index_copy_(0, index, below.lerp_(colour, cover.reshape(-1, 1).expand_as(below)))

    def images(self) -> torch.Tensor:
        """Return the painted images, uint8 `(N, size, size, 3)`."""
        return (self._pixels + 0.5).to(torch.uint8).view(-1, self._size, self._size, 3)

    def _window(self, shape: Shape, axis: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Pixels of the window along an axis, int64 `(N, W)`, and what `_along` says of them."""
        width = min(self._size, math.ceil(2.0 * shape.reach[axis]) + 2)
        centre = shape.centre[:, axis : axis + 1]
        first = (centre - 0.5 * width).round().clamp(0, self._size - width)
        pixels = first + torch.arange(width, device=centre.device)
        offset = pixels + 0.5 - centre
        half = shape.half[:, axis : axis + 1] if isinstance(shape.half, torch.Tensor) else shape.half[axis]
        along = offset / half if shape.is_round else (half + 0.5 - offset.abs()).clamp(0.0, 1.0)
        return pixels.long(), along


def _product(across: torch.Tensor, down: torch.Tensor) -> torch.Tensor:
    """Covered part of each pixel by a rectangle, `(N, H, W)`."""
    return down.unsqueeze(2) * across.unsqueeze(1)


def _ellipse(shape: Shape, across: torch.Tensor, down: torch.Tensor) -> torch.Tensor:
    """The same by an ellipse: from the distance to its edge, to first order, in pixels of its smaller half."""
    smaller = shape.half.min(dim=1).values.view(-1, 1, 1) if isinstance(shape.half, torch.Tensor) else min(shape.half)
    squared = down.square().unsqueeze(2) + across.square().unsqueeze(1)
    return (0.5 + 0.5 * (1.0 - squared) * smaller).clamp(0.0, 1.0)
