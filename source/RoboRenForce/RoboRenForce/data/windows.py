"""History and action chunks: frames of an item, as pure functions.

With `delta_timestamps = [-0.1, 0.0, 0.1]` at 10 Hz, an episode of four frames gives

    item              0          1          2          3
    frames         0  0  1    0  1  2    1  2  3    2  3  3
    is_pad         1  0  0    0  0  0    0  0  0    0  0  1

A window never leaves its episode: positions outside repeat the first or last frame and are marked as padding.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from ..utils.errors import UserError, did_you_mean

_TOLERANCE = 1e-4
_MAX_WINDOW = 2**16


def window_offsets(
    delta_timestamps: Mapping[str, Sequence[float]], fps: float, keys: Sequence[str]
) -> dict[str, np.ndarray]:
    """Convert seconds to frames relative to the current one.

    Args:
        delta_timestamps: Key -> seconds, each a multiple of a frame.
        fps: Frames per second of the dataset.
        keys: Existing features.

    Returns:
        Key -> int64 `(T,)`.

    Raises:
        UserError: An unknown key, an empty list, or a time between two frames.
    """
    offsets = {}
    for key, seconds in delta_timestamps.items():
        if key not in keys:
            raise UserError(
                f"delta_timestamps names '{key}', which the dataset does not have: {did_you_mean(key, keys)}"
            )
        if not 0 < len(seconds) <= _MAX_WINDOW:
            raise UserError(f"delta_timestamps['{key}'] has {len(seconds):,} entries, expected 1 to {_MAX_WINDOW:,}.")
        for value in seconds:
            frames = value * fps
            if not math.isfinite(frames) or abs(frames - round(frames)) > _TOLERANCE * fps:
                raise UserError(
                    f"delta_timestamps['{key}'] holds {value:g} s, which is no multiple of a frame at {fps:g} Hz; "
                    f"use multiples of {1 / fps:.6g} s."
                )
        offsets[key] = np.asarray([round(value * fps) for value in seconds], np.int64)
    return offsets


def window(frame: int, offsets: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the frames of a window, int64 `(T,)` within the episode, and its padding, bool `(T,)`."""
    wanted = frame + offsets
    return wanted.clip(0, length - 1), (wanted < 0) | (wanted >= length)
