"""Lock of a run directory: one training process at a time.

Two locks (`flock`) belong to open files: that of the file `.lock`, and that of the directory itself, which remains if
somebody deletes the file by hand. (Network file systems lock files only.) They end with their process, however that
ends, so a lock file that a killed run left behind locks nothing. Host, process and time inside the file are only for
the message to the second process.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import logging
import os
import socket
import time
import weakref
from io import FileIO
from pathlib import Path

from .errors import RunDirectoryError, RunLockedError

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None

logger = logging.getLogger(__name__)

_held: weakref.WeakSet[RunLock] = weakref.WeakSet()


class RunLock:
    """The right to train in a run directory; its holder may acquire it again and releases it as often.

    It keeps other processes out. Within a process, a new lock takes over from that of an earlier run that failed.

    Args:
        root: Run directory, which exists.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        self.path = self.root.resolve() / ".lock"
        self._file: FileIO | None = None
        self._folder: int | None = None
        """Descriptor of the locked directory, if directories can be locked."""
        self._depth = 0

    def acquire(self) -> None:
        """Take the lock.

        Raises:
            RunLockedError: another process trains in this directory.
            RunDirectoryError: the directory can't be written.
        """
        if not self._depth:
            self._acquire()
        self._depth += 1

    def release(self) -> None:
        """Release the lock; does nothing if it is not held."""
        self._depth = max(0, self._depth - 1)
        if not self._depth and self._file is not None:
            self._remove(self._file)
            self._forget()

    def _acquire(self) -> None:
        for other in [lock for lock in _held if lock.path == self.path]:
            other._forget()
        while self._file is None:
            try:
                file = FileIO(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666), "r+")
            except OSError as error:
                raise RunDirectoryError(
                    f"The run directory '{self.root}' can't be written ({error.strerror}); choose another one."
                ) from error
            try:
                self._lock(file)
            except BaseException:
                file.close()
                raise
            if _is_same_file(file, self.path):  # else its holder removed it between opening and locking
                self._file = file
                self._lock_folder(file)
        _held.add(self)
        self._sign(self._file)

    def _lock(self, file: FileIO) -> None:
        try:
            if fcntl is None:
                raise OSError(errno.ENOSYS, "this system has no flock")
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise self._refusal(_holder(file)) from error
        except OSError as error:
            logger.info("'%s' can't be locked (%s): don't train in it twice.", self.root, error.strerror)

    def _lock_folder(self, file: FileIO) -> None:
        """Lock the directory too; `file` is a new lock file, if the holder of the directory has lost its own."""
        if fcntl is None:
            return
        try:
            self._folder = os.open(self.path.parent, os.O_RDONLY)
            fcntl.flock(self._folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._remove(file)
            self._forget()
            raise self._refusal("another process, whose lock file was deleted") from error
        except OSError:  # this file system locks no directories; the file is locked
            return

    def _refusal(self, holder: str) -> RunLockedError:
        return RunLockedError(
            f"'{self.root}' is being trained by {holder}: wait for it or stop it, or start a run of its own without "
            "--resume."
        )

    def _sign(self, file: FileIO) -> None:
        try:
            file.truncate(0)
            file.write(f"{socket.gethostname()} {os.getpid()} {time.strftime('%Y-%m-%d %H:%M:%S')}\n".encode())
        except OSError as error:  # the lock holds without its text
            logger.info("'%s' can't be written (%s).", self.path, error.strerror)

    def _remove(self, file: FileIO) -> None:
        if _is_same_file(file, self.path):
            with contextlib.suppress(OSError):  # a directory that became read-only keeps an idle lock file
                self.path.unlink()

    def _forget(self) -> None:
        if self._file is not None:
            self._file.close()
        if self._folder is not None:
            os.close(self._folder)
        self._file, self._folder, self._depth = None, None, 0
        _held.discard(self)


def _forget_all() -> None:
    """Close the locks in a forked child: a worker that outlives its parent must not keep them."""
    for lock in list(_held):
        lock._forget()


def _release_all() -> None:
    """Release the locks at the end of the process, also of one that failed."""
    for lock in list(_held):
        lock._depth = 1
        lock.release()


atexit.register(_release_all)
if os.name == "posix":
    os.register_at_fork(after_in_child=_forget_all)


def _is_same_file(file: FileIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except OSError:
        return False


def _holder(file: FileIO) -> str:
    words = file.read(300).decode("utf-8", "replace").split()
    if len(words) != 4:
        return "another process"
    host, process, *started = words
    return f"process {process} on {host} since {' '.join(started)}"
