"""Signal handling: the first signal ends a run after the current iteration, the second one at once."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from types import FrameType, TracebackType

# Ctrl-C, a closed terminal, the notices of schedulers (Slurm sends USR1, and XCPU or TERM at the limit), Ctrl-\.
_NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGXCPU", "SIGQUIT")
_SIGNALS = [signal.Signals[name] for name in _NAMES if name in signal.Signals.__members__]


class StopRequest:
    """Remember the first signal inside the block; the second one raises, and a third has its usual effect.

    The second one raises KeyboardInterrupt, or SystemExit for other signals than Ctrl-C. It passes through
    `Trainer.session`, which saves the last finished iteration.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        """The first signal that came to this process."""
        self.agreed = False
        """True if all processes know about it: they have to stop after the same iteration."""
        self._previous: dict[signal.Signals, object] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():  # only there can handlers be set
            for number in _SIGNALS:
                # Ignored: started by nohup, or in the background. None: handled by a library, which has its reasons.
                if signal.getsignal(number) not in (signal.SIG_IGN, None):
                    self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        first, self.signal = self.signal is None, self.signal or signal.Signals(number)
        if first:
            # A handler may interrupt a write of the same stream, so it must not use Python's buffered files.
            with contextlib.suppress(OSError):  # the terminal may be gone
                os.write(2, b"\nStopping after this iteration and saving; a second Ctrl-C stops at once.\n")
            return
        if self.signal.name == "SIGXCPU" and number == self.signal:  # comes every second once the time is used up
            return
        self._restore()
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + number)

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        self._previous = {}
