"""One validation of a configuration per run: what was validated as a whole is not validated again part by part."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

_known: ContextVar[dict[int, Any]] = ContextVar("validated", default={})  # noqa: B039 - replaced, never changed
"""id -> configuration; the objects are held so that no other one can get their id."""


@contextmanager
def validated(cfg: Any) -> Iterator[None]:
    """Let `cfg` and all configurations inside it be built without another validation within the block."""
    token = _known.set(_known.get() | {id(part): part for part in _parts(cfg)})
    try:
        yield
    finally:
        _known.reset(token)


def is_validated(cfg: Any) -> bool:
    """Return True if `cfg` is a part of a validated configuration; a copy is not."""
    return id(cfg) in _known.get()


def _parts(value: Any) -> Iterator[Any]:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        yield value
        for field in dataclasses.fields(value):
            yield from _parts(getattr(value, field.name, None))
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _parts(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _parts(item)
