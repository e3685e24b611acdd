"""Augmentation of images while a policy learns from demonstrations: crops, rotations and colours, on the device.

The default is the recipe of pi0 (arXiv 2410.24164): a crop of 95 %, up to 5 degrees, and jitter of brightness, contrast
and saturation. Cameras on the wrist get the colours only: their view is where the hand is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..configclass import Cfg, ConfigError, Range, configclass
from ..utils.images import resize
from .vla_preprocessing import IMAGES, VLAPreprocessing


class ImageAugmentation:
    """Changes the images of recorded batches, each picture in its own way; random numbers are torch's own.

    Args:
        cfg: How much.
        preprocessing: Of the policy: images come out in the size that it reads.
    """

    def __init__(self, cfg: ImageAugmentationCfg, preprocessing: VLAPreprocessing) -> None:
        self.cfg, self.preprocessing = cfg, preprocessing
        self.cameras = preprocessing.spec.cameras
        wrist = cfg.wrist_cameras
        for camera in wrist or ():
            if camera not in self.cameras:
                raise ConfigError(
                    f"algorithm.augmentation.wrist_cameras names '{camera}', and the policy reads "
                    f"{', '.join(self.cameras)}: name one of these, or leave it at null."
                )
        self.wrist = {camera for camera in self.cameras if ("wrist" in camera if wrist is None else camera in wrist)}

    def __call__(self, batch: Mapping[str, Any], generator: torch.Generator | None = None) -> dict[str, Any]:
        """Return the batch with new images, uint8 `(B, H, W, 3)` per camera."""
        batch, cfg = dict(batch), self.cfg
        for camera in self.cameras:
            key = f"{IMAGES}{camera}"
            if key in batch:
                images = resize(batch[key], self.preprocessing.image_size, self.preprocessing.cfg.resize).float()
                if camera not in self.wrist:
                    images = crop_and_rotate(images, cfg.crop, cfg.rotation, generator, cfg.shift)
                images = jitter(images, cfg.brightness, cfg.contrast, cfg.saturation, generator)
                batch[key] = images.round_().clamp_(0, 255).to(torch.uint8)
        return batch


def crop_and_rotate(
    images: Tensor, share: float, degrees: float, generator: torch.Generator | None = None, shift: float = 0.0
) -> Tensor:
    """Crop a random window, scale it to the old size, and turn that by a random angle; what was outside is black.

    Both are one bilinear look-up.

    Args:
        images: Float `(B, H, W, 3)`.
        share: Side of the window as a share of the image's.
        degrees: Largest angle.
        generator: Where random numbers are drawn; None for torch's own.
        shift: How far the window may also leave the image, as a share of half a side.
    """
    rows, height, width = images.shape[:3]
    draw = _uniform((3, rows), images.device, generator)  # in [-1, 1]
    angle, moved = draw[0] * math.radians(degrees), draw[1:] * (1.0 - share + shift)
    cos, sin = share * angle.cos(), share * angle.sin()
    # From the new picture's coordinates to the old one's, which both go from -1 to 1: pixels are square.
    ratio = height / width
    theta = torch.stack([cos, -sin * ratio, moved[0], sin / ratio, cos, moved[1]], 1).view(rows, 2, 3)
    grid = F.affine_grid(theta, [rows, 3, height, width], align_corners=False)
    return F.grid_sample(images.movedim(-1, 1), grid, align_corners=False).movedim(1, -1)


def jitter(
    images: Tensor, brightness: float, contrast: float, saturation: float, generator: torch.Generator | None = None
) -> Tensor:
    """Multiply brightness, distance from the picture's mean, and distance from grey by random factors.

    Args:
        images: Float `(B, H, W, 3)` from 0 to 255.
        brightness: Its factor is in [1 - brightness, 1 + brightness]; so are the others.
        contrast: See brightness.
        saturation: See brightness.
        generator: Where random numbers are drawn; None for torch's own.
    """
    draw = _uniform((3, len(images), 1, 1, 1), images.device, generator)
    images = (images * (1.0 + brightness * draw[0])).clamp(0, 255)
    mean = images.mean((1, 2, 3), keepdim=True)
    images = (mean + (images - mean) * (1.0 + contrast * draw[1])).clamp(0, 255)
    red, green, blue = images.split(1, -1)
    grey = 0.299 * red + 0.587 * green + 0.114 * blue  # as people see it (ITU-R BT.601)
    return (grey + (images - grey) * (1.0 + saturation * draw[2])).clamp(0, 255)


def _uniform(shape: tuple[int, ...], device: torch.device, generator: torch.Generator | None) -> Tensor:
    return torch.empty(shape, device=device).uniform_(-1.0, 1.0, generator=generator)


@configclass
class ImageAugmentationCfg(Cfg):
    """Configuration of an `ImageAugmentation`; built with `build(preprocessing=)`."""

    class_type: type = ImageAugmentation

    crop: Annotated[float, Range(gt=0, le=1)] = 0.95
    """Side of the random window as a share of the image's; 1: no crop."""
    rotation: Annotated[float, Range(ge=0, le=180)] = 5.0
    """Largest angle in degrees, to both sides."""
    shift: Annotated[float, Range(ge=0, le=1)] = 0.0
    """Largest move of the window over the image's edge, as a share of half a side. With `crop` at 1 pictures keep their
    scale: against learning scenes by heart (compare DrQ-v2, arXiv 2107.09645)."""
    brightness: Annotated[float, Range(ge=0, le=1)] = 0.3
    """Largest change of the factor 1 on brightness."""
    contrast: Annotated[float, Range(ge=0, le=1)] = 0.4
    """The same on the distance of colours from the picture's mean."""
    saturation: Annotated[float, Range(ge=0, le=1)] = 0.5
    """The same on the distance of colours from grey."""
    wrist_cameras: list[str] | None = None
    """Cameras on the wrist, whose pictures are neither cropped, moved nor turned; None: those with `wrist` in their
    name; an empty list: none."""
