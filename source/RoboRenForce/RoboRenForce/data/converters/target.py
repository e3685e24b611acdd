"""A folder that appears under its name only when it is complete."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ...utils.errors import UserError


@contextmanager
def whole_or_nothing(target: str | Path) -> Iterator[Path]:
    """Yield a folder to write to; it is renamed to `target` at the end of the block, or removed on failure.

    Raises:
        UserError: `target` exists, or can't be made.
    """
    target = Path(target)
    if target.exists():
        raise UserError(f"'{target}' exists: choose a new folder.")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"'{target}' can't be made ({error.strerror}): choose a folder below one that exists."
        ) from None
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        yield partial
        os.replace(partial, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
