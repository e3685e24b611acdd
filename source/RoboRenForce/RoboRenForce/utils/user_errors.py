"""Output of errors that the user can repair."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from .console import make_printable
from .errors import UserError


@contextmanager
def user_errors() -> Iterator[None]:
    """Turn errors that the user can repair into their sentence and exit code 1; others keep their traceback."""
    try:
        yield
    except UserError as error:
        make_printable(sys.stderr).write(f"Error: {error}\n")
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        sys.stderr.write("Interrupted; checkpoints that were written are complete.\n")
        raise SystemExit(128 + signal.SIGINT) from None
