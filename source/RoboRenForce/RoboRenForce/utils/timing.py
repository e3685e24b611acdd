"""Where an iteration's time goes, measured without stopping the device."""

from __future__ import annotations

import time

import torch


class PhaseTimer:
    """Splits one iteration into named phases.

    On CUDA the boundaries are events on the current stream, so taking them costs no synchronization; `durations` then
    waits for the last boundary and is therefore read after the iteration's metrics came to the host anyway.
    """

    def __init__(self, device: torch.device | str) -> None:
        self._uses_events = torch.device(device).type == "cuda"
        self._names: list[str] = []
        self._marks: list[torch.cuda.Event | float] = []

    def start(self) -> None:
        """Begin an iteration."""
        self._names = []
        self._marks = [self._mark()]

    def lap(self, name: str) -> None:
        """End the phase `name`; the next one begins here."""
        self._names.append(name)
        self._marks.append(self._mark())

    def durations(self) -> dict[str, float]:
        """Seconds of every phase since `start`."""
        if self._uses_events and self._names:
            self._marks[-1].synchronize()  # type: ignore[union-attr]
        pairs = zip(self._names, self._marks[:-1], self._marks[1:], strict=True)
        return {name: self._seconds(begin, end) for name, begin, end in pairs}

    def _mark(self) -> torch.cuda.Event | float:
        if not self._uses_events:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def _seconds(self, begin: torch.cuda.Event | float, end: torch.cuda.Event | float) -> float:
        if isinstance(begin, float) or isinstance(end, float):
            return float(end) - float(begin)  # type: ignore[arg-type]
        return begin.elapsed_time(end) / 1000.0


def format_duration(seconds: float) -> str:
    """`1:02:03` for an hour or more, `2:03` below, as progress displays show it."""
    hours, rest = divmod(max(0, round(seconds)), 3600)
    minutes, rest = divmod(rest, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
