"""Encoded pictures (PNG, JPEG): decoding to arrays, and encoding."""

from __future__ import annotations

import io

import numpy as np

from ..utils.optional import require_package

_PURPOSE = "Datasets with pictures"


class BadPicture(ValueError):  # noqa: N818 - reads better where it is raised
    """Bytes that are no picture, or one of another size; the caller adds file, episode and frame."""


def decode_picture(data: bytes, expected: tuple[int, int], size: tuple[int, int] | None = None) -> np.ndarray:
    """Decode to RGB `(height, width, 3)` uint8.

    Args:
        data: PNG or JPEG file.
        expected: Height and width that the metadata declares; another size is refused before decoding.
        size: Height and width to scale to (bilinear, with antialiasing).

    Raises:
        BadPicture: It can't be decoded, or has another size.
    """
    image_module = require_package("PIL.Image", extra="vla", purpose=_PURPOSE, distribution="pillow")
    try:
        with image_module.open(io.BytesIO(data), formats=("PNG", "JPEG", "WEBP")) as image:
            if (image.height, image.width) != expected:
                found = f"{image.height} x {image.width}"
                raise BadPicture(f"the picture has {found} pixels, expected {expected[0]} x {expected[1]}")
            image = image.convert("RGB")
            if size is not None and size != expected:
                image = image.resize(size[::-1], image_module.Resampling.BILINEAR)
            return np.asarray(image)
    except BadPicture:
        raise
    except (OSError, ValueError, SyntaxError, image_module.DecompressionBombError) as error:
        raise BadPicture(f"the picture can't be decoded ({error})") from None


def encode_png(picture: np.ndarray) -> bytes:
    """Encode RGB `(height, width, 3)` uint8 without loss."""
    image_module = require_package("PIL.Image", extra="vla", purpose=_PURPOSE, distribution="pillow")
    buffer = io.BytesIO()
    image_module.fromarray(picture).save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()
