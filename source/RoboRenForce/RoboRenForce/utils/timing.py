"""Timing of an iteration's phases without stopping the device."""

from __future__ import annotations

import time

import torch


class PhaseTimer:
    """Measure named phases of an iteration.

    On CUDA the boundaries are events on the current stream, so taking them costs no synchronization; `durations` then
    waits for the last boundary and is therefore read after the iteration's metrics came to the host anyway.
    """

    def __init__(self, device: torch.device | str) -> None:
        self._uses_events = torch.device(device).type == "cuda"
        self._names: list[str] = []
        self._events: list[torch.cuda.Event] = []
        self._times: list[float] = []

    def start(self) -> None:
        """Start an iteration."""
        self._names, self._events, self._times = [], [], []
        self._mark()

    def lap(self, name: str) -> None:
        """End the phase `name`; the next one starts here."""
        self._names.append(name)
        self._mark()

    def durations(self) -> dict[str, float]:
        """Return the seconds of every phase since `start`; repeated phases are summed."""
        if self._events:
            self._events[-1].synchronize()
            pairs = zip(self._events[:-1], self._events[1:], strict=True)
            seconds = [begin.elapsed_time(end) / 1000.0 for begin, end in pairs]
        else:
            seconds = [end - begin for begin, end in zip(self._times[:-1], self._times[1:], strict=True)]
        total: dict[str, float] = {}
        for name, duration in zip(self._names, seconds, strict=True):
            total[name] = total.get(name, 0.0) + duration
        return total

    def _mark(self) -> None:
        if self._uses_events:
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self._events.append(event)
        else:
            self._times.append(time.perf_counter())


def format_duration(seconds: float) -> str:
    """Format as `1:02:03` for an hour or more, `2:03` below, as progress displays do."""
    hours, rest = divmod(max(0, round(seconds)), 3600)
    minutes, rest = divmod(rest, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
