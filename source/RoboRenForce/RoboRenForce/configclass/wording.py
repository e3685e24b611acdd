"""Findings in words: what is wrong, what was expected, what to write instead."""

from __future__ import annotations

import difflib
import enum
import types
import typing
from collections.abc import Iterable, Iterator
from typing import Any, Literal, Union

from .errors import Problem
from .fields import MISSING, Range
from .hints import MAPPINGS, SEQUENCES, SETS, arms, is_anything, is_callable_hint, is_cfg, is_cfg_class, simplify
from .matching import Finding, cfg_findings, findings, fits

_LONGEST = 60
"""Characters of a value that are repeated in a message."""
_MOST_BITS = 4096
"""Longer integers are not written out; Python refuses to at a few times that."""


def problems_of(cfg: Any) -> list[Problem]:
    """Every problem of a configuration and of what it holds."""
    return _explain_all(cfg_findings(cfg))


def value_problems(value: Any, hint: Any, path: str, default: Any = MISSING) -> list[Problem]:
    """What is wrong with a value, itself and not the configurations in it, which may be unfinished."""
    return _explain_all(findings(value, hint, path, default, finished=False))


def _explain_all(found: Iterable[Finding]) -> list[Problem]:
    return list(dict.fromkeys(explain(finding) for finding in found))


def explain(finding: Finding) -> Problem:
    """One finding as a sentence."""
    path, value, hint, default, sentence, says_fix = finding
    if value is MISSING:
        return Problem(path, f"is missing, expected {describe(hint)}", f"set {path or 'it'}")
    sentence = sentence or f"got {show(value)}, expected {describe(hint)}"
    return Problem(path, sentence, "" if says_fix else _how_to_fix(value, hint, default))


def mismatch(value: Any, hint: Any, path: str, default: Any = MISSING) -> Problem:
    """The problem of a value that is of another type than its annotation."""
    return explain(Finding(path, value, hint, default))


def show(value: Any) -> str:
    """A value in the words of an error message: shortened, with its type."""
    if value is None or value is MISSING:
        return str(value)
    if is_cfg(value):
        return f"a {type(value).__name__}"
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if isinstance(value, int) and value.bit_length() > _MOST_BITS:
        return f"an integer of {value.bit_length()} bits"
    text = repr(value)
    return f"{text if len(text) <= _LONGEST else text[: _LONGEST - 3] + '...'} ({type(value).__name__})"


def describe(hint: Any) -> str:
    """An annotation in the words of an error message."""
    plain, metadata = simplify(hint)
    ranges = " and ".join(str(item) for item in metadata if isinstance(item, Range))
    text = _describe_plain(plain)
    if ranges and "[" in text:
        return f"{text} with numbers {ranges}"
    return f"{text} {ranges}" if ranges else text


def _describe_plain(hint: Any) -> str:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is types.NoneType:
        return "None"
    if is_anything(hint):
        return "anything"
    if origin in (Union, types.UnionType):
        return " or ".join(describe(arm) for arm in args)
    if origin is Literal:
        return " or ".join(repr(choice) for choice in args)
    if is_callable_hint(hint):
        if hint is not type and origin is not type:
            return "a function or 'module:name'"
        role = describe(args[0]) if args and not is_anything(args[0]) else ""
        return f"a class derived from {role} or its 'module:name'" if role else "a class or its 'module:name'"
    if origin in (tuple, list, *SEQUENCES, *SETS, *MAPPINGS):
        inner = ", ".join("..." if arg is Ellipsis else describe(arg) for arg in args)
        return f"{origin.__name__}[{inner}]"
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return " or ".join(hint.__members__)
    return getattr(hint, "__name__", str(hint))


def _how_to_fix(value: Any, hint: Any, default: Any) -> str:
    """The repair to propose for a value that does not fit; every proposal is checked to fit."""
    for text, proposal in (*_for_text(value, hint), *_for_shape(value)):
        if len(text) <= 2 * _LONGEST and fits(proposal, hint):
            return text
    if default is not MISSING and not is_cfg(default) and len(repr(default)) <= _LONGEST and fits(default, hint):
        return f"write for example {_written(default)}"
    return f"give it {describe(hint)}"


def _for_shape(value: Any) -> Iterator[tuple[str, Any]]:
    """Repairs of the kind of a value: another bracket, a missing bracket, a number of another kind, a missing call."""
    if isinstance(value, int) and value.bit_length() > _MOST_BITS:
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
    """A value as one would write it in a configuration."""
    if isinstance(value, enum.Enum):
        return value.name
    return getattr(value, "__name__", None) or repr(value) if callable(value) else repr(value)


def _for_text(value: Any, hint: Any) -> Iterator[tuple[str, Any]]:
    """Repairs of a text: a choice that is spelled alike, a number or null in quotes."""
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
