"""Processes for tests that hang, stop or kill one: forked, so that they start at once, and never left behind."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.context import ForkProcess
from pathlib import Path
from typing import Any

PATIENCE = 120.0
"""Seconds after which a test says that a process hangs; none needs a tenth of it."""


@contextmanager
def forked(function: Callable[..., Any], *arguments: Any, log: Path) -> Iterator[ForkProcess]:
    """`function(*arguments)` in a process of its own, which writes what it says on standard error to `log`."""
    process = multiprocessing.get_context("fork").Process(target=_call, args=(function, arguments, log))
    process.start()
    try:
        yield process
    finally:
        for number in (signal.SIGCONT, signal.SIGKILL):
            if process.is_alive():
                os.kill(process.pid or 0, number)
        process.join(PATIENCE)


def exit_code(process: ForkProcess) -> int:
    """What a process ended with, which it has to do by itself."""
    process.join(PATIENCE)
    assert process.exitcode is not None, "the process hangs"
    return process.exitcode


def be_rank(rank: int, port: int, world_size: int = 2) -> None:
    """Pretend to be started by torchrun."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world_size)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _call(function: Callable[..., Any], arguments: tuple[Any, ...], log: Path) -> None:
    with open(log, "ab", buffering=0) as file:
        os.dup2(file.fileno(), 2)
    try:
        function(*arguments)
    except BaseException:  # noqa: BLE001 - all that a process can do is to write it down
        os.write(2, traceback.format_exc().encode())
        os._exit(1)
    os._exit(0)
