"""Convolutional network over images.

Images are `(H, W, C)` as cameras give them, `(C, H, W)`, grey `(H, W)`, or frames `(N, ...)` of the first two, whose
channels are concatenated.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Annotated, Literal

import torch
from torch import Tensor, nn
from typing_extensions import override

from ..configclass import ConfigError, Range, configclass
from .activation import MOST_FEATURES, activation_problem, build_activation
from .network import Network, NetworkCfg


class SpatialSoftmax(nn.Module):
    """Expected position of each feature map's activation, under a softmax over its pixels (Finn et al. 2016).

    `(B, C, H, W) -> (B, 2 C)`, row and column of each channel in turn; -1 is the upper or left edge, 1 the lower or
    right one. Rows first, as in mjlab's layer of this kind.
    """

    row: Tensor
    column: Tensor

    def __init__(self, height: int, width: int, temperature: float) -> None:
        super().__init__()
        row, column = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
        self.register_buffer("row", row.flatten(), persistent=False)
        self.register_buffer("column", column.flatten(), persistent=False)
        self.temperature = temperature

    @override
    def forward(self, features: Tensor) -> Tensor:
        weights = torch.softmax(features.flatten(2) / self.temperature, dim=-1)
        # Sums of products, not a matrix product, which TF32 would round.
        return torch.stack([(weights * self.row).sum(-1), (weights * self.column).sum(-1)], dim=-1).flatten(1)


class CNN(Network):
    """Convolutions, pooling and a linear output, `(..., *image) -> (..., out)`; uint8 images are scaled to [0, 1].

    `in_features` is one of the image shapes above. With `out_features=None` the pooled feature map itself is the output
    and `out_features` its size.
    """

    def __init__(self, cfg: CNNCfg, in_features: int | tuple[int, ...], out_features: int | None) -> None:
        shape, self.axes = image_layout(in_features, cfg.layout)
        layers: list[nn.Module] = []
        channels, height, width = self.channels_first = _channels_first(shape, self.axes)
        for index, out_channels in enumerate(cfg.channels):
            kernel, stride, padding = (_per_layer(v, index) for v in (cfg.kernel_sizes, cfg.strides, cfg.paddings))
            height, width = ((size + 2 * padding - kernel) // stride + 1 for size in (height, width))
            if min(height, width) < 1:
                raise ConfigError(
                    f"Convolution {index} (kernel {kernel}, stride {stride}, padding {padding}) leaves "
                    f"{height}x{width} pixels of an image of shape {shape}: "
                    f"use smaller kernels or strides, fewer layers or larger images."
                )
            layers.append(nn.Conv2d(channels, out_channels, kernel, stride, padding))
            if cfg.norm == "group":
                layers.append(nn.GroupNorm(math.gcd(out_channels, 8), out_channels))
            layers.append(build_activation(cfg.activation))
            channels = out_channels
        if cfg.pooling == "average":
            layers.append(nn.AdaptiveAvgPool2d(1))
        elif cfg.pooling == "max":
            layers.append(nn.AdaptiveMaxPool2d(1))
        elif cfg.pooling == "spatial_softmax":
            layers.append(SpatialSoftmax(height, width, cfg.softmax_temperature))
        layers.append(nn.Flatten())
        flat = channels * {"flatten": height * width, "spatial_softmax": 2}.get(cfg.pooling, 1)
        super().__init__(shape, flat if out_features is None else out_features)
        if out_features is not None:
            layers.append(nn.Linear(flat, out_features))
        self.layers = nn.Sequential(*layers)

    @property
    @override
    def output_layer(self) -> nn.Linear | None:
        last = self.layers[-1]
        return last if isinstance(last, nn.Linear) else None

    @override
    def forward(self, x: Tensor) -> Tensor:
        if x.dtype == torch.uint8:
            x = x.to(next(self.parameters()).dtype) / 255.0
        leading = x.shape[: x.dim() - len(self.axes)]
        x = x.flatten(0, len(leading) - 1) if leading else x.unsqueeze(0)
        x = x.permute(0, *(axis + 1 for axis in self.axes)).reshape(-1, *self.channels_first)
        return self.layers(x).view(*leading, self.out_features)


_MOST_PIXELS = 1024
"""Maximum size of a kernel's side, a stride or a padding."""


@configclass
class CNNCfg(NetworkCfg):
    """Configuration of a `CNN`; the defaults are the encoder of Mnih et al. 2015 for 84x84 images."""

    class_type: type = CNN
    layout: Literal["auto", "hwc", "chw"] = "auto"
    """Position of the channels: the last axis of an image, or before height and width.

    auto: they are the shorter one of first and last axis; an ambiguous shape is refused.
    """
    channels: list[int] = [32, 64, 64]
    """Output channels of each convolution."""
    kernel_sizes: int | list[int] = [8, 4, 3]
    """Kernel size of all or of each convolution."""
    strides: int | list[int] = [4, 2, 1]
    """Stride of all or of each convolution."""
    paddings: int | list[int] = 0
    """Zero padding on every side, of all or of each convolution."""
    activation: str = "ReLU"
    """Activation after every convolution."""
    norm: Literal["none", "group"] = "none"
    """"group" normalizes groups of channels before the activation; it keeps no batch statistics."""
    pooling: Literal["flatten", "average", "max", "spatial_softmax"] = "flatten"
    """Reduction of the last feature map.

    Keep all of it, one value per channel, or with "spatial_softmax" the position (row, column) at which each channel is
    active, which suits tasks in which positions matter.
    """
    softmax_temperature: Annotated[float, Range(gt=0)] = 1.0
    """Temperature of the spatial softmax; lower values move the position to the strongest pixel."""
    features: Annotated[int, Range(gt=0, le=MOST_FEATURES)] | None = 256
    """Number of features of an encoded observation group; None for the pooled feature map itself."""

    def check(self) -> Iterable[str]:
        """Check that the lists fit one another."""
        if not self.channels:
            yield "channels: got no convolution, expected at least one; use MLPCfg for flat observations"
        for name in ("kernel_sizes", "strides", "paddings"):
            value = getattr(self, name)
            least = 0 if name == "paddings" else 1
            if isinstance(value, list) and len(value) != len(self.channels):
                yield (
                    f"{name}: got {len(value)} entries for {len(self.channels)} channels; "
                    f"give one number, or one per convolution"
                )
            if min(value if isinstance(value, list) else [value], default=least) < least:
                yield f"{name}: got {value}, expected numbers of at least {least}"
            if max(value if isinstance(value, list) else [value], default=0) > _MOST_PIXELS:
                yield f"{name}: got {value}, expected numbers of at most {_MOST_PIXELS}"
        if min(self.channels, default=1) < 1:
            yield f"channels: got {self.channels}, expected positive numbers"
        if max(self.channels, default=1) > MOST_FEATURES:
            yield f"channels: got {self.channels}, expected numbers of at most {MOST_FEATURES:,}"
        if (problem := activation_problem(self.activation, {})) is not None:
            yield f"activation: {problem}"


def image_layout(
    in_features: int | tuple[int, ...], layout: Literal["auto", "hwc", "chw"]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the shape of an image, and its axes in the order frames, channels, height, width.

    Raises:
        ConfigError: The shape is no image's, is ambiguous, or contradicts the layout.
    """
    shape = tuple([in_features] if isinstance(in_features, int) else in_features)
    if len(shape) not in (2, 3, 4):
        raise ConfigError(
            f"A CNN got observations of shape {shape}; expected an image (C, H, W), (H, W, C) or (H, W), or frames "
            f"(N, C, H, W) or (N, H, W, C). Use MLPCfg for flat input."
        )
    if len(shape) == 2:
        return shape, (0, 1)
    first, second, last = shape[-3:]
    seen = "hwc" if last < min(first, second) else "chw" if first < min(second, last) else None
    if layout != "auto" and seen not in (None, layout):
        names = {"hwc": "(H, W, C)", "chw": "(C, H, W)"}
        raise ConfigError(
            f"A CNN with layout='{layout}' got images of shape {shape}, which looks like {names[str(seen)]}: set "
            f"cnn_cfg.layout='{seen}', or permute them in the environment adapter."
        )
    if layout == "auto" and seen is None:
        raise ConfigError(
            f"A CNN got images of shape {shape}, which may be (H, W, C) or (C, H, W): say which with "
            f"cnn_cfg.layout='hwc' or 'chw'."
        )
    frames = len(shape) - 3
    order = (2, 0, 1) if (seen if layout == "auto" else layout) == "hwc" else (0, 1, 2)
    return shape, (*range(frames), *(frames + axis for axis in order))


def _channels_first(shape: tuple[int, ...], axes: tuple[int, ...]) -> tuple[int, int, int]:
    """Return `(C, H, W)` of an image; grey ones have one channel, frames are concatenated."""
    sizes = [shape[axis] for axis in axes]
    return math.prod(sizes[:-2]), sizes[-2], sizes[-1]


def _per_layer(value: int | list[int], index: int) -> int:
    return value if isinstance(value, int) else value[index]
