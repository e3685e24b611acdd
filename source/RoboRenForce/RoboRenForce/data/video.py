"""Random access to the frames of mp4 files: containers stay open, and seeking uses the known keyframes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np


class BadVideo(ValueError):  # noqa: N818 - reads better where it is raised
    """A video that can't be read, or lacks a frame; the caller adds file, episode and frame."""

    def __init__(self, what: str, index: int | None = None) -> None:
        super().__init__(what)
        self.index = index
        """Index of the requested time that failed."""


class VideoFile:
    """An open mp4 file.

    Decoding continues from its position if the next keyframe is not before the wanted frame, and seeks otherwise.

    Args:
        path: File.
        expected: Height and width that the metadata declares.
        size: Height and width to scale to during color conversion; None: as recorded.

    Raises:
        BadVideo: It can't be opened, has no video, or has another size.
    """

    def __init__(self, path: Path, expected: tuple[int, int], size: tuple[int, int] | None = None) -> None:
        import av  # takes 0.2 s to import, and only videos need it
        from av.error import FFmpegError
        from av.video.reformatter import VideoReformatter

        self._errors = (FFmpegError, OSError, ValueError)
        try:
            # The format is named, because FFmpeg otherwise believes the content, and playlists name files and hosts.
            self._container = av.open(str(path), format="mp4")
            if not self._container.streams.video:
                self._container.close()
                raise BadVideo("it has no video stream")
        except self._errors as error:
            raise error if isinstance(error, BadVideo) else BadVideo(f"it can't be opened ({error})") from None
        self._stream = self._container.streams.video[0]
        # One thread: frame threads would decode ahead of the one frame that is wanted.
        self._stream.codec_context.thread_count = 1
        found = (self._stream.height, self._stream.width)
        if found != expected:
            self._container.close()
            raise BadVideo(f"it has {found[0]} x {found[1]} pixels, expected {expected[0]} x {expected[1]}")
        self._height, self._width = size or expected
        self._time_base = float(self._stream.time_base or 0)
        keyframes = [entry.timestamp for entry in self._stream.index_entries if entry.is_keyframe]
        self._keyframes = np.asarray(keyframes, np.float64) * self._time_base
        rate = self._stream.average_rate
        self._frame_duration = 1.0 / float(rate) if rate else 0.0
        self._reformatter = VideoReformatter()
        self._frames: Iterator[Any] = iter(())
        self._frame: Any = None
        self._time = -np.inf
        """Time of `_frame`, the position of decoding, in seconds."""

    def read(self, times: np.ndarray, out: list[np.ndarray], tolerance: float) -> None:
        """Decode the frames at some times.

        Args:
            times: Seconds, ascending; equal ones are decoded once.
            out: Arrays `(height, width, 3)` uint8 to write to.
            tolerance: Maximum deviation of a frame from its time, in seconds.

        Raises:
            BadVideo: There is no such frame, or the file is damaged.
        """
        last = -np.inf
        for index, (seconds, target) in enumerate(zip(times.tolist(), out, strict=True)):
            if index and seconds == last:
                target[:] = out[index - 1]
                continue
            try:
                self._go_to(seconds, tolerance)
            except self._errors as error:
                self._time = -np.inf
                reason = error if isinstance(error, BadVideo) else f"it is damaged ({error})"
                raise BadVideo(str(reason), index) from None
            self._write(target)
            last = seconds

    def _go_to(self, seconds: float, tolerance: float) -> None:
        """Decode until `_frame` is the one at `seconds`."""
        if not self._is_ahead(seconds, tolerance):
            self._seek(seconds - tolerance)
        for attempt in ("from the keyframe", "from the start"):
            while self._time < seconds - tolerance:
                self._frame = next(self._frames, None)
                if self._frame is None:
                    end, self._time = self._time, -np.inf
                    raise BadVideo(f"it has no frame at {seconds:.6g} s, it ends at {end:.6g} s: frames are missing")
                if self._frame.pts is None:
                    raise BadVideo("it has frames without a time")
                self._time = self._frame.pts * self._time_base
            if self._time <= seconds + tolerance:
                return
            if attempt == "from the keyframe":  # an index may be wrong: what precedes is looked at once
                self._seek(0.0)
        raise BadVideo(f"it has no frame at {seconds:.6g} s, the nearest later one is at {self._time:.6g} s")

    def _is_ahead(self, seconds: float, tolerance: float) -> bool:
        """Return True if decoding on gets there as soon as seeking would."""
        if not self._time <= seconds + tolerance:
            return False
        before = int(np.searchsorted(self._keyframes, seconds + tolerance, side="right"))
        return before > 0 and self._keyframes[before - 1] <= self._time + 2.5 * self._frame_duration

    def _seek(self, seconds: float) -> None:
        target = max(0, int(seconds / self._time_base + 0.5)) if self._time_base else 0
        self._container.seek(target, stream=self._stream, backward=True, any_frame=False)
        self._frames = self._container.decode(self._stream)
        self._time = -np.inf

    def _write(self, target: np.ndarray) -> None:
        """Convert the current frame to RGB."""
        rgb = self._reformatter.reformat(self._frame, width=self._width, height=self._height, format="rgb24", threads=1)
        plane: Any = rgb.planes[0]
        rows = np.frombuffer(plane, np.uint8).reshape(self._height, plane.line_size)
        target[:] = rows[:, : self._width * 3].reshape(self._height, self._width, 3)

    def close(self) -> None:
        """Close the file."""
        self._frames, self._frame = iter(()), None
        self._container.close()


def close_video(video: VideoFile) -> None:
    """Close a file that a cache evicts."""
    video.close()
