"""Writing of H.264 videos frame by frame, so that memory does not grow with their length."""

from __future__ import annotations

import os
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import numpy as np


def write_mp4(path: str | Path, frames: Iterable[np.ndarray], fps: float = 30.0) -> int:
    """Encode `frames` as H.264 in yuv420p, which every browser plays.

    The file appears under its name only once it is complete, so a report never links half a video.

    Args:
        path: Where to write; folders are made.
        frames: RGB images `(H, W, 3)` uint8 of one size; an odd last row or column is cut because yuv420p needs even
        sizes.
        fps: Frames per second.

    Returns:
        The number of frames written.

    Raises:
        ValueError: there are no frames, or one has another shape than the first.
    """
    import av  # takes 0.2 s to import, and only videos need it

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    count, shape = 0, None
    try:
        with av.open(str(partial), "w", format="mp4", options={"movflags": "faststart"}) as container:
            stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1000), options={"crf": "23"})
            stream.pix_fmt = "yuv420p"
            for image in frames:
                shape = shape or image.shape
                if image.shape != shape or image.ndim != 3 or image.shape[2] != 3:
                    raise ValueError(
                        f"Frame {count} has the shape {image.shape}, expected {shape} as (height, width, 3)."
                    )
                height, width = image.shape[0] // 2 * 2, image.shape[1] // 2 * 2
                if not count:  # the encoder opens with the first frame
                    stream.height, stream.width = height, width
                rgb = np.ascontiguousarray(image[:height, :width], dtype=np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(rgb, format="rgb24")))
                count += 1
            if count:
                container.mux(stream.encode())
        if not count:
            raise ValueError(f"No frames to write to {path}.")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return count
