"""Encoding of an episode's frames as mp4, and joining of mp4 files without re-encoding."""

from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..utils.errors import UserError

VideoCodec = Literal["libsvtav1", "libx264"]

_OPTIONS: dict[str, dict[str, str]] = {
    # What LeRobot uses: every second frame is a keyframe, so a random frame costs at most two.
    "libsvtav1": {"crf": "30", "g": "2", "preset": "12"},
    "libx264": {"crf": "23", "g": "2", "preset": "veryfast", "bf": "0"},
}
_CODEC_NAMES = {"libsvtav1": "av1", "libx264": "h264"}


class VideoEncoder:
    """Encode one mp4 file frame by frame.

    Args:
        path: File.
        fps: Frames per second.
        size: Height and width, both even.
        codec: `libsvtav1` is smaller and faster to read, `libx264` plays everywhere.
    """

    def __init__(self, path: Path, fps: float, size: tuple[int, int], codec: VideoCodec) -> None:
        import av
        from av.error import FFmpegError

        os.environ.setdefault("SVT_LOG", "1")  # errors only; it writes to the terminal by itself
        self.path = path
        self._container = av.open(str(path), "w", format="mp4")
        rate = Fraction(fps).limit_denominator(1001)
        try:
            self._stream: Any = self._container.add_stream(codec, rate=rate, options=dict(_OPTIONS[codec]))
        except (ValueError, FFmpegError) as error:
            self._container.close()
            raise UserError(f"This build of PyAV can't encode {codec} ({error}); use another codec.") from None
        self._stream.pix_fmt = "yuv420p"
        self._stream.height, self._stream.width = size
        self._stream.codec_context.time_base = 1 / rate
        self._frame_type = av.VideoFrame
        self._count = 0

    def add(self, picture: np.ndarray) -> None:
        """Encode one RGB picture `(height, width, 3)` uint8."""
        frame = self._frame_type.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
        frame.pts = self._count
        self._count += 1
        self._container.mux(self._stream.encode(frame))

    def close(self) -> None:
        """Write the remaining frames and the index."""
        try:
            if self._count:
                self._container.mux(self._stream.encode())
        finally:
            self._container.close()


def video_info(codec: VideoCodec, size: tuple[int, int], fps: float) -> dict[str, Any]:
    """Return the `info` of a video feature, as LeRobot writes it."""
    return {
        "video.height": size[0],
        "video.width": size[1],
        "video.codec": _CODEC_NAMES[codec],
        "video.pix_fmt": "yuv420p",
        "video.is_depth_map": False,
        "video.fps": int(fps) if float(fps).is_integer() else fps,
        "video.channels": 3,
        "has_audio": False,
    }


def count_frames(path: Path) -> int:
    """Return the number of frames of an mp4 file, which is not decoded for that."""
    import av

    with av.open(str(path), format="mp4") as source:
        return source.streams.video[0].frames


class VideoJoiner:
    """Append mp4 files to one, packet by packet.

    Args:
        path: File to write.
        fps: Frames per second of all of them.
    """

    def __init__(self, path: Path, fps: float) -> None:
        import av

        path.parent.mkdir(parents=True, exist_ok=True)
        self._av = av
        self._container = av.open(str(path), "w", format="mp4")
        self._rate = Fraction(fps).limit_denominator(1001)
        self._stream: Any = None
        self._like: Any = None
        self.frames = 0
        """Number of frames so far."""
        self.size = 0
        """Number of bytes so far, without the index."""

    def fits(self, path: Path) -> bool:
        """Return True if the file was encoded like the previous ones: one stream has one header."""
        with self._av.open(str(path), format="mp4") as source:
            return self._like is None or self._like == _header(source.streams.video[0])

    def append(self, path: Path) -> tuple[float, float, int]:
        """Append one file.

        Returns:
            Its start and end in the joined file, in seconds, and its number of frames.
        """
        with self._av.open(str(path), format="mp4") as source:
            stream: Any = source.streams.video[0]
            if self._stream is None:
                self._stream = self._container.add_stream_from_template(stream, opaque=True)
                self._stream.time_base = stream.time_base
                self._like = _header(stream)
            start = self.frames
            shift = round(Fraction(start) / self._rate / stream.time_base)
            packets: list[Any] = [packet for packet in source.demux(stream) if packet.dts is not None]
            first = min(packet.pts for packet in packets) if packets else 0
            for packet in packets:
                packet.pts += shift - first
                packet.dts += shift - first
                packet.stream = self._stream
                self.size += packet.size
                self._container.mux(packet)
            self.frames += len(packets)
        return float(start / self._rate), float(self.frames / self._rate), len(packets)

    def close(self) -> None:
        """Write the index."""
        self._container.close()


def _header(stream: Any) -> tuple[Any, ...]:
    context = stream.codec_context
    return context.name, context.width, context.height, context.pix_fmt, context.extradata, stream.time_base
