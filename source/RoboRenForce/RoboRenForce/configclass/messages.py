"""Validation messages: the wrong value, what was expected, what to write instead."""

from __future__ import annotations

import difflib
import enum
import typing
from collections.abc import Iterator
from typing import Any

from pydantic_core import ErrorDetails, ValidationError

from .errors import Problem, did_you_mean
from .fields import MISSING, field_names
from .hints import LONGEST, MOST_BITS, arms, describe, is_cfg, is_cfg_class, show, simplify
from .validators import fits

_MOST_PROBLEMS = 100
"""Maximum number of reported problems; each is looked up among all names."""


def problems_of(error: ValidationError) -> list[Problem]:
    """Return all errors of a validator as problems with dotted paths."""
    details = error.errors(include_url=False)[:_MOST_PROBLEMS]
    return list(dict.fromkeys(map(_explain, details)))


def _explain(error: ErrorDetails) -> Problem:
    fault, place = error.get("ctx", {})["fault"], error["loc"]
    of_key = place[-1:] == ("[key]",)
    path = ".".join(str(part) for part in (place[:-1] if of_key else place))
    if error["type"] == "sentence":
        return Problem(path, fault.what, fault.fix)
    if error["type"] == "unknown":
        fix = did_you_mean(str(place[-1]), field_names(fault.hint))
        return Problem(path, f"{fault.hint.__qualname__} has no such field", fix)
    if fault.value is MISSING:
        return Problem(path, f"is missing, expected {describe(fault.hint)}", f"set {path or 'it'}", is_missing=True)
    what = fault.what or f"got {show(fault.value)}, expected {describe(fault.hint)}"
    fix = _how_to_fix(fault.value, fault.hint, fault.known)
    return Problem(path, f"the key does not fit: {what}" if of_key else what, fix)


def _how_to_fix(value: Any, hint: Any, known: Any) -> str:
    """Return a fix for a value that does not fit; every proposal is checked to fit."""
    for text, proposal in (*_for_text(value, hint), *_for_shape(value)):
        if len(text) <= 2 * LONGEST and fits(proposal, hint):
            return text
    if known is not MISSING and not is_cfg(known) and len(repr(known)) <= LONGEST and fits(known, hint):
        return f"write for example {_written(known)}"
    return f"give it {describe(hint)}"


def _for_shape(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield fixes of the kind of a value: brackets, another number type, a missing call."""
    if isinstance(value, int) and value.bit_length() > MOST_BITS:
        return
    if isinstance(value, list):
        yield f"write {value!r} as a tuple", tuple(value)
    if isinstance(value, tuple):
        yield f"write {value!r} as a list", list(value)
    yield f"write [{value!r}]", [value]
    yield f"write ({value!r},)", (value,)
    if isinstance(value, bool) or (isinstance(value, float) and value.is_integer()):
        yield f"write {int(value)}", int(value)
    if is_cfg_class(value):
        yield f"write {value.__name__}()", value()


def _written(value: Any) -> str:
    """Format a value as it is written in a configuration."""
    if isinstance(value, enum.Enum):
        return value.name
    return getattr(value, "__name__", None) or repr(value) if callable(value) else repr(value)


def _for_text(value: Any, hint: Any) -> Iterator[tuple[str, Any]]:
    """Yield fixes for a text: a choice with similar spelling, a number or null in quotes."""
    if not isinstance(value, str):
        return
    for kind in (simplify(arm)[0] for arm in arms(hint)):
        if isinstance(kind, type) and issubclass(kind, enum.Enum):
            for name in difflib.get_close_matches(value, list(kind.__members__), n=1):
                yield f"did you mean {name}?", kind[name]
        choices = [arg for arg in typing.get_args(kind) if isinstance(arg, str)]
        for choice in difflib.get_close_matches(value, choices, n=1):
            yield f"did you mean {choice!r}?", choice
    if value.lower() in ("none", "null"):
        yield "write null in YAML and on the command line, None in Python", None
    for kind in (int, float):
        try:
            number = kind(value)
        except ValueError:
            continue
        yield f"write {number!r}, without quotes", number
