"""Watchdog: ends a run that hangs, and saves what was learned before.

A thread checks now and then whether the loop has made progress. If it has not for `step_timeout` seconds (or, once a
signal has asked the run to stop, for a few seconds in a step), it

1. writes one line and the stacks of all threads to standard error;
2. interrupts the main thread, so that the session ends as after any error and saves;
3. if the main thread does not return, because it waits in foreign code, saves the last finished iteration itself
   and ends the process with `EXIT_CODE`. This is safe because the learner is idle while the environment is stepped and
   while callbacks run; a learner that is interrupted in an update is in the middle of a change and is not saved.
"""

from __future__ import annotations

import contextlib
import faulthandler
import math
import os
import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

from ..utils.distributed import DistributedContext
from ..utils.errors import HangError
from .stop_request import StopRequest

EXIT_CODE = 124
"""Exit code of a process whose main thread could not be interrupted; the command `timeout` uses the same."""

GRACE = 10.0
"""Seconds that a step may still take after a stop request, and the main thread after an interruption."""

STEP = "step"

_STDERR = 2
_INTERRUPT = signal.SIGURG if os.name == "posix" else None
"""Signal that interrupts system calls, and is ignored by default, so that a late one does nothing."""


class _Interrupted(BaseException):
    """Exception in the main thread that no `except Exception` of an environment catches."""


class Watchdog:
    """Watch the thread that enters the block.

    The loop reports what starts and ends by writing attributes, at no measurable cost.

    Args:
        name: Task, for the message.
        limit: Seconds without a beat; None: no limit, except after a signal.
        stop: Stop request of the run.
        distributed: Its collective calls have limits of their own; processes whose parent died are asked to stop.
        save: Writes a checkpoint without waiting for the environment or for other processes.
    """

    def __init__(
        self,
        name: str,
        limit: float | None,
        stop: StopRequest,
        distributed: DistributedContext,
        *,
        save: Callable[[], Any],
    ) -> None:
        self.name, self.limit, self.grace = name, math.inf if limit is None else limit, GRACE
        self.beats = 0
        self.inside: str | None = None
        """Activity while the learner is idle: `STEP`, or the name of a callback; None while it learns."""
        self.is_stepping = False
        """True if the activity is an environment, whose steps are short; writing a checkpoint may take longer."""
        self.iteration, self.steps = 1, 0
        """The iteration that runs, and the steps of the environment that began in it."""
        self._stop, self._distributed, self._save = stop, distributed, save
        self._sentence: str | None = None

    def beat(self) -> None:
        """Report progress."""
        self.beats += 1

    def enter_step(self) -> None:
        """Report the start of an environment step."""
        self.beats += 1
        self.steps += 1
        self.inside, self.is_stepping = STEP, True

    def enter(self, name: str, *, is_stepping: bool = False) -> None:
        """Report the start of a callback, or of environment steps in it."""
        self.beats += 1
        self.inside, self.is_stepping = name, is_stepping

    def leave(self) -> None:
        """Report the end of the activity."""
        self.beats += 1
        self.inside, self.is_stepping = None, False

    def begin_iteration(self, number: int) -> None:
        """Report that the callbacks of the previous iteration are finished."""
        self.iteration, self.steps = number, 0
        self.leave()

    # ------------------------------------------------------------------------------- in the thread that is watched

    def __enter__(self) -> Watchdog:
        self.leave()
        self._sentence = None
        self._over, self._last_word = threading.Event(), threading.Lock()
        self._watched = threading.current_thread()
        # Only the main thread gets signals; another one can be reported on, but not be ended without the whole program.
        self._is_main = self._watched is threading.main_thread()
        if self._is_main and _INTERRUPT is not None:
            self._handler = signal.signal(_INTERRUPT, self._interrupt)
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._last_word:  # a thread that ends the process keeps it
            self._over.set()
        self._thread.join()
        if self._is_main and _INTERRUPT is not None:
            signal.signal(_INTERRUPT, self._handler)
        if kind is _Interrupted:
            self._distributed.give_up()  # the others have not been asked whether they save too
            raise HangError(self._sentence).with_traceback(trace) from None

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        if self._sentence is not None and not self._over.is_set():
            raise _Interrupted

    # ------------------------------------------------------------------------------------------- in its own thread

    def _watch(self) -> None:
        interval = min(1.0, self.limit / 4, self.grace / 4)
        seen, silent = self.beats, 0.0
        parent = os.getppid()
        self._arm_last_resort()
        try:
            while not self._over.wait(interval):
                self._stop_if_orphaned(parent)
                if self.beats != seen:
                    seen, silent = self.beats, 0.0
                    self._arm_last_resort()
                    continue
                # Waiting is counted, not time: a process that was stopped (Ctrl-Z) goes on where it was.
                silent += interval
                if silent >= self._patience() and not self._end(silent):
                    return
        finally:
            faulthandler.cancel_dump_traceback_later()

    def _patience(self) -> float:
        """Return the seconds without a beat that are too many now."""
        if self._distributed.waits:
            return math.inf  # until its own limit
        if self._stop.signal is not None and self.is_stepping:
            return min(self.grace, self.limit)
        return self.limit

    def _end(self, silent: float) -> bool:
        """Report, interrupt, finally end the process; returns True to go on watching."""
        self._sentence = self._describe(silent)
        _write(f"\n{self._sentence} The run ends; stacks of all threads:\n")
        with contextlib.suppress(OSError, ValueError):  # standard error may be closed
            faulthandler.dump_traceback(_STDERR)
        if not self._is_main:
            return False
        beats = self.beats
        if _INTERRUPT is not None:
            signal.pthread_kill(self._watched.ident or 0, _INTERRUPT)
        if self._over.wait(self.grace):
            return False
        with self._last_word:
            if self._over.is_set():
                return False
            if self.beats == beats:
                self._save_and_leave()
            self._sentence = None  # it was only slow, and swallowed the interruption
        return True

    def _save_and_leave(self) -> None:
        """Save and end a process whose main thread waits in foreign code."""
        kept = "the newest checkpoint is what is left"
        if self.inside is not None:
            try:
                self._distributed.give_up()
                kept = f"saved: {self._save()}"
            except BaseException as error:  # noqa: BLE001 - the process ends in any case
                kept = f"not saved: {error}"
        _write(f"{self.name}: the main thread can't be interrupted; this process ends ({kept}).\n")
        os._exit(EXIT_CODE)

    def _describe(self, silent: float) -> str:
        if self.inside is None:
            where = f"iteration {self.iteration}, after step {self.steps},"
        elif self.inside == STEP:
            where = f"step {self.steps} of iteration {self.iteration}"
        else:
            where = f"{self.inside} after iteration {self.iteration}"
        asked = " after a signal asked the run to stop" if self._stop.signal is not None else ""
        return f"{self.name}: {where} has not finished for {silent:g} s{asked} (step_timeout {self.limit:g} s)."

    def _stop_if_orphaned(self, parent: int) -> None:
        """Stop processes that outlived torchrun: all after the same iteration, with a checkpoint."""
        if self._distributed.is_distributed and os.getppid() != parent and self._stop.signal is None:
            _write(f"\n{self.name}: the process that started this one (torchrun) is gone; stopping and saving.\n")
            self._stop.signal = signal.SIGTERM

    def _arm_last_resort(self) -> None:
        """Print the stacks even if foreign code keeps the interpreter's lock, so that no other thread runs."""
        if math.isfinite(self.limit):
            with contextlib.suppress(OSError, ValueError, RuntimeError):  # standard error may be closed
                faulthandler.dump_traceback_later(self.limit + 2 * self.grace, file=_STDERR)


def _write(text: str) -> None:
    """Write to standard error without Python's files, whose lock the main thread may hold while it hangs."""
    with contextlib.suppress(OSError):  # the terminal may be gone
        os.write(_STDERR, text.encode(errors="replace"))
