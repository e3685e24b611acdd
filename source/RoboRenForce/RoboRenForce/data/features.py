"""Features of a dataset: keys of every frame with dtype and shape, as `meta/info.json` declares them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .errors import fault

NUMBERS = frozenset(
    ["bool", "uint8", "uint16", "uint32", "int8", "int16", "int32", "int64", "float16", "float32", "float64"]
)
CAMERAS = frozenset(["image", "video"])
DTYPES = NUMBERS | CAMERAS | {"string"}

_KEY = re.compile(r"[\w-][\w.\- ]*", re.ASCII)
_MAX_ELEMENTS = 2**28
"""Maximum number of elements of a value; a larger shape is damaged and refused before any allocation."""


@dataclass(frozen=True)
class Feature:
    """Declaration of one key of every frame."""

    dtype: str
    """Number type of numpy, `string`, or a camera: `image` (encoded pictures) or `video` (mp4)."""
    shape: tuple[int, ...]
    """Shape of one value; cameras: `(height, width, channels)` or `(channels, height, width)`, see `picture_size`."""
    names: Any = None
    """Names of the elements, as the recorder gave them."""
    info: Mapping[str, Any] = field(default_factory=dict)
    """Properties of a video: codec, pixel format, ..."""

    @property
    def is_camera(self) -> bool:
        """True for images and videos."""
        return self.dtype in CAMERAS

    @property
    def is_number(self) -> bool:
        """True if its values are arrays of numbers."""
        return self.dtype in NUMBERS

    @property
    def numpy_dtype(self) -> np.dtype[Any]:
        """Type of its numbers."""
        return np.dtype(self.dtype)

    @property
    def picture_size(self) -> tuple[int, int]:
        """Height and width of a camera, in either layout of its shape."""
        first = self.names[0] if isinstance(self.names, list) and self.names else None
        channels_first = first in ("channel", "channels") or (first is None and self.shape[0] in (1, 3, 4))
        return (self.shape[1], self.shape[2]) if channels_first else (self.shape[0], self.shape[1])

    def to_json(self) -> dict[str, Any]:
        """Return the entry in `info.json`."""
        data: dict[str, Any] = {"dtype": self.dtype, "shape": list(self.shape), "names": self.names}
        return data | ({"info": dict(self.info)} if self.info else {})


STANDARD = {
    "timestamp": Feature("float32", (1,)),
    "frame_index": Feature("int64", (1,)),
    "episode_index": Feature("int64", (1,)),
    "index": Feature("int64", (1,)),
    "task_index": Feature("int64", (1,)),
}
"""Features of every dataset: seconds since the start of the episode, counters, and the task of the frame."""


def parse_features(path: Path, raw: Any) -> dict[str, Feature]:
    """Parse and check the `features` of an `info.json`.

    Args:
        path: File, for errors.
        raw: Content under that name.

    Raises:
        DatasetFileError: Names the feature.
    """
    if not isinstance(raw, Mapping) or not raw:
        raise fault(path, f"'features' is {type(raw).__name__}, expected an object with one entry per key")
    features = {str(key): _parse_feature(path, str(key), entry) for key, entry in raw.items()}
    for key, standard in STANDARD.items():
        found = features.get(key)
        if found is None:
            raise fault(path, f"feature '{key}' is missing", fix="every LeRobot dataset has it: record the data anew")
        if found.is_camera or found.dtype == "string" or found.shape not in ((1,), ()):
            raise fault(path, f"feature '{key}' is {found.dtype} {list(found.shape)}, expected {standard.dtype} [1]")
    return features


def _parse_feature(path: Path, key: str, entry: Any) -> Feature:
    # Keys become folder names.
    if not _KEY.fullmatch(key):
        raise fault(path, f"feature name {key[:80]!r} is not allowed", fix="use letters, digits, '_', '-', '.'")
    if not isinstance(entry, Mapping):
        raise fault(path, f"feature '{key}' is {type(entry).__name__}, expected an object with dtype and shape")
    dtype, shape = entry.get("dtype"), entry.get("shape")
    if dtype not in DTYPES:
        raise fault(path, f"feature '{key}' has dtype {str(dtype)[:40]!r}, expected one of {', '.join(sorted(DTYPES))}")
    if not isinstance(shape, list | tuple) or not all(_is_size(size) for size in shape):
        raise fault(path, f"feature '{key}' has shape {str(shape)[:80]}, expected a list of positive integers")
    if math.prod(shape) > _MAX_ELEMENTS:
        raise fault(path, f"feature '{key}' has shape {list(shape)}: {math.prod(shape):,} elements in one frame")
    info = entry.get("info") or entry.get("video_info") or {}
    feature = Feature(str(dtype), tuple(shape), entry.get("names"), info if isinstance(info, Mapping) else {})
    if feature.is_camera:
        if len(shape) != 3:
            raise fault(path, f"camera '{key}' has shape {list(shape)}, expected three sizes")
        if feature.info.get("video.is_depth_map") or feature.info.get("is_depth_map"):
            raise fault(path, f"camera '{key}' is a depth map, which can't be read", fix="remove it from 'features'")
    return feature


def _is_size(size: Any) -> bool:
    return isinstance(size, int) and not isinstance(size, bool) and size > 0
