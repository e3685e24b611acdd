"""Does a value fit its annotation? Whatever does not is found, at every depth, and nothing is raised."""

from __future__ import annotations

import dataclasses
import math
import typing
from collections.abc import Iterator
from typing import Annotated, Any, Literal, NamedTuple

from .errors import ConfigError, contradiction, join_path
from .fields import MISSING, Range, field_types
from .hints import (
    MAPPINGS,
    SEQUENCES,
    SETS,
    arms,
    is_anything,
    is_callable_hint,
    is_cfg,
    item_hint,
    simplify,
)
from .references import is_reference, resolve


class Finding(NamedTuple):
    """A value that does not fit; `wording.explain` turns it into a sentence."""

    path: str
    value: Any
    hint: Any
    default: Any = MISSING
    """What the field holds by default, to propose it."""
    sentence: str = ""
    """What is wrong, where that is more than value and annotation say."""
    says_fix: bool = False
    """Whether the sentence already says what to write instead."""


def fits(value: Any, hint: Any) -> bool:
    """Whether nothing is wrong with a value under an annotation."""
    return next(findings(value, hint), None) is None


def cfg_findings(cfg: Any, path: str = "") -> list[Finding]:
    """Whatever is wrong with a configuration and with what it holds; `path` leads to it from the root."""
    cls = type(cfg)
    hints, defaults = field_types(cls), cls.__cfg_defaults__
    found: list[Finding] = []
    for field in dataclasses.fields(cls):
        where = join_path(path, field.name)
        found += findings(getattr(cfg, field.name), hints[field.name], where, defaults.get(field.name, MISSING))
    if not found:  # contradictions are only looked for between values that are right by themselves
        for sentence in cfg.check():
            problem = contradiction(sentence, hints, path)
            found.append(Finding(problem.path, cfg, cls, sentence=problem.what, says_fix=True))
    return found


def findings(value: Any, hint: Any, path: str = "", default: Any = MISSING, finished: bool = True) -> Iterator[Finding]:
    """What keeps `value` from being a value of the annotation `hint`.

    With `finished=False` values may still be MISSING, and configurations in `value` are not looked into.
    """
    if value is MISSING:
        if finished:
            yield Finding(path, value, hint, default)
        return
    options = arms(hint)
    if len(options) > 1:
        yield from _union(value, hint, options, path, default, finished)
    else:
        yield from _single(value, hint, path, default, finished)
    for item in simplify(hint)[1]:
        if isinstance(item, Range):
            yield from _out_of_range(value, item, hint, path, default)


def _union(
    value: Any, hint: Any, options: tuple[Any, ...], path: str, default: Any, finished: bool
) -> Iterator[Finding]:
    attempts = [list(findings(value, option, path, default, finished)) for option in options]
    if not all(attempts):
        return
    # Something wrong below the value itself, or a name that leads nowhere, tells which member was meant: report that
    # instead of "no member fits".
    meant = [attempt for attempt in attempts if all(finding.path != path or finding.says_fix for finding in attempt)]
    yield from meant[0] if meant else [Finding(path, value, hint, default)]


def _single(value: Any, hint: Any, path: str, default: Any, finished: bool) -> Iterator[Finding]:
    plain, _ = simplify(hint)
    origin, args = typing.get_origin(plain) or plain, typing.get_args(plain)
    if is_anything(plain):
        yield from _inside_anything(value, path, finished)
    elif is_callable_hint(plain):
        yield from _callable(value, hint, path, default)
    elif origin is tuple or origin in (list, *SEQUENCES, *SETS):
        yield from _items(value, hint, path, default, finished)
    elif origin in MAPPINGS:
        yield from _mapping(value, hint, path, default, finished)
    elif origin is Literal:
        if not any(value == choice and type(value) is type(choice) for choice in args):
            yield Finding(path, value, hint, default)
    elif not _is_instance(value, origin):
        yield Finding(path, value, hint, default)
    elif origin is float and not _is_usable(value, hint, finished):
        got = str(value) if isinstance(value, float) else "an integer that no float can hold"
        sentence = f"got {got}, expected a finite number; write the largest one that you mean"
        yield Finding(path, value, hint, default, sentence, says_fix=True)
    elif is_cfg(value) and finished:
        yield from cfg_findings(value, path)


def _is_instance(value: Any, kind: Any) -> bool:
    if not isinstance(kind, type) or getattr(kind, "_is_protocol", False):
        return True  # only a type checker can tell
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, kind)


def _is_usable(number: float, hint: Any, finished: bool) -> bool:
    """Whether a number fits into a float and is finite; infinity is, where a `Range` of the annotation names it."""
    try:
        if math.isfinite(number) or not finished:
            return True
    except OverflowError:
        return False
    ranges = [item for item in simplify(hint)[1] if isinstance(item, Range)]
    return any(bound in (math.inf, -math.inf) for item in ranges for bound in (item.ge, item.gt, item.le, item.lt))


def _inside_anything(value: Any, path: str, finished: bool) -> Iterator[Finding]:
    if is_cfg(value):
        yield from cfg_findings(value, path) if finished else ()
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from findings(item, Any, join_path(path, str(index)), finished=finished)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from findings(item, Any, join_path(path, str(key)), finished=finished)


def _callable(value: Any, hint: Any, path: str, default: Any) -> Iterator[Finding]:
    plain, _ = simplify(hint)
    found: Any = value
    if is_reference(value):
        try:
            found = resolve(value)
        except ConfigError as error:
            yield Finding(path, value, hint, default, str(error), says_fix=True)
            return
    if plain is type or typing.get_origin(plain) is type:
        roles = tuple(kind for arg in typing.get_args(plain) for kind in arms(arg) if isinstance(kind, type))
        is_right = isinstance(found, type) and (not roles or issubclass(found, roles))
    else:
        is_right = callable(found) and not is_cfg(found)
    if not is_right:
        yield Finding(path, value, hint, default)


def _items(value: Any, hint: Any, path: str, default: Any, finished: bool) -> Iterator[Finding]:
    plain, _ = simplify(hint)
    origin, args = typing.get_origin(plain) or plain, typing.get_args(plain)
    if not isinstance(value, (list, tuple) if origin in SEQUENCES else origin):
        yield Finding(path, value, hint, default)
        return
    if origin is tuple and args and args[-1] is not Ellipsis and len(args) != len(value):
        yield Finding(path, value, hint, default, f"got length {len(value)}, expected {len(args)}")
        return
    for index, item in enumerate(value):
        yield from findings(item, item_hint(origin, args, index), join_path(path, str(index)), finished=finished)


def _mapping(value: Any, hint: Any, path: str, default: Any, finished: bool) -> Iterator[Finding]:
    if not isinstance(value, dict):
        yield Finding(path, value, hint, default)
        return
    key_hint, item_hint_ = typing.get_args(simplify(hint)[0]) or (Any, Any)
    for key, item in value.items():
        where = join_path(path, str(key))
        if not fits(key, key_hint):
            yield Finding(where, key, key_hint, sentence="the key does not fit")
        yield from findings(item, item_hint_, where, finished=finished)


def _out_of_range(value: Any, bounds: Range, hint: Any, path: str, default: Any) -> Iterator[Finding]:
    """Bounds apply to a number and to every number in a list, tuple or dict."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        if not bounds.contains(value):
            yield Finding(path, value, hint, default)
    elif isinstance(value, list | tuple | dict):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _out_of_range(item, bounds, Annotated[type(item), bounds], join_path(path, str(key)), MISSING)
