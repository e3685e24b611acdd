"""Ctrl-C, SIGTERM and a closed terminal end a run after the running iteration instead of in the middle of it."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from types import FrameType, TracebackType

_SIGNALS = [signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if os.name == "posix" else [])]


class StopRequest:
    """While entered, remembers the first signal; the second one has its usual effect at once."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        """The first signal that came to this process."""
        self.agreed = False
        """Whether all processes know about it: they have to stop after the same iteration."""
        self._previous: dict[signal.Signals, object] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():  # only there can handlers be set
            for number in _SIGNALS:
                if signal.getsignal(number) != signal.SIG_IGN:  # started by nohup, or in the background
                    self._previous[number] = signal.signal(number, self._remember)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self.signal = signal.Signals(number)
        # A handler may interrupt a write of the same stream, so it must not use Python's buffered files.
        with contextlib.suppress(OSError):  # the terminal may be gone
            os.write(2, b"\nStopping after this iteration and saving; a second Ctrl-C stops at once.\n")
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        self._previous = {}
