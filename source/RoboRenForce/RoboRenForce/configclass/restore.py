"""Plain data to configurations: the way back from `serialize`, and the merging of partial data into a configuration.

Problems are collected, not raised, so that a file with three mistakes is answered by three sentences.
"""

from __future__ import annotations

import contextlib
import enum
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

from .errors import ConfigError, Problem, did_you_mean, join_path
from .fields import MISSING, ImportsModule, SubclassOf, field_types
from .hints import MAPPINGS, arms, is_anything, is_callable_hint, is_cfg, is_cfg_class, item_hint, simplify
from .matching import fits
from .references import is_reference, load, resolve
from .serialize import (
    CLASS_KEY,
    CONTAINERS,
    DICT_KEY,
    MISSING_TEXT,
    REFERENCE_KEY,
    RESERVED,
    container_of,
    expected_class,
)
from .trust import is_held, is_limited, refuses_module
from .wording import mismatch, show, value_problems


def from_plain(cls: type, data: Mapping[str, Any]) -> Any:
    """A configuration of class `cls`, or of the subclass that `data` names, from plain data.

    Raises:
        ConfigError: lists every unknown key and every value of a wrong type.
    """
    require_bounded(data, "The data")
    problems: list[Problem] = []
    cfg = _decode_cfg(data, cls, MISSING, "", problems)
    if problems:
        raise ConfigError(problems, cls.__qualname__)
    return cfg


_MOST_VALUES = 100_000
_DEEPEST = 64
_MOST_PROBLEMS = 100
"""Nobody reads more, and each is looked up among the names that there are."""


def require_bounded(data: Any, name: str) -> None:
    """Refuse data that is nested in itself, very deep, or very large once its repeated parts are written out.

    Raises:
        ConfigError: it is; the sentence begins with `name`.
    """
    known: dict[int, tuple[int, int]] = {}

    def extent(value: Any, depth: int) -> tuple[int, int]:
        """Values in `value`, and levels below it."""
        if depth > _DEEPEST:
            raise ConfigError(f"{name} is nested in itself, or deeper than {_DEEPEST} levels: flatten it.")
        if not isinstance(value, Mapping | list | tuple):
            return 1, 0
        if id(value) not in known:
            parts = [extent(part, depth + 1) for part in (value.values() if isinstance(value, Mapping) else value)]
            known[id(value)] = 1 + sum(size for size, _ in parts), 1 + max((levels for _, levels in parts), default=0)
        size, levels = known[id(value)]
        if size > _MOST_VALUES or depth + levels > _DEEPEST:
            raise ConfigError(
                f"{name} holds more than {_MOST_VALUES} values or {_DEEPEST} levels once its anchors are written out: "
                f"keep large data in a file of its own."
            )
        return size, levels

    extent(data, 0)


def merge(
    cfg: Any,
    data: Mapping[str, Any],
    path: str,
    problems: list[Problem],
    other_names: Sequence[str] = (),
    names_class: bool = False,
) -> None:
    """Assign the fields that `data` names; nested configurations are merged, everything else is replaced.

    `other_names` are proposed for an unknown key besides the names of the fields; `names_class` says that the class
    which `data` may name has been taken care of.
    """
    cls = type(cfg)
    hints = field_types(cls)
    for key, item in data.items():
        if len(problems) > _MOST_PROBLEMS:
            return
        where = join_path(path, str(key))
        if key == CLASS_KEY:
            if not names_class:
                problems += _class_problems(item, cls, where)
            continue
        if key not in hints:
            problems.append(
                Problem(where, f"{cls.__qualname__} has no such field", did_you_mean(str(key), [*hints, *other_names]))
            )
            continue
        setattr(cfg, key, decode(item, hints[key], getattr(cfg, key), where, problems))


def decode(data: Any, hint: Any, current: Any, path: str, problems: list[Problem]) -> Any:
    """Plain data as a value of the annotation `hint`.

    Args:
        data: plain data, possibly with the marks of `serialize`.
        hint: the annotation of the field.
        current: the value the field has; a nested configuration is merged into it.
        path: dotted path of the field, for `problems`.
        problems: what does not fit is appended here.
    """
    if isinstance(data, str) and data == MISSING_TEXT:
        return MISSING
    found: list[Problem] = []
    if isinstance(data, dict) and _is_marked(data):
        value = _decode_marked(data, hint, path, found)
        found = found or list(value_problems(value, hint, path, current))
    elif len(arms(hint)) > 1:
        value = _decode_union(data, hint, current, path, found)
    else:
        value = _decode_as(data, hint, current, path, found)
    if not found:
        found += _role_problems(value, hint, current, path)
    problems += found
    return value


def _decode_union(data: Any, hint: Any, current: Any, path: str, problems: list[Problem]) -> Any:
    """Decode for the member that takes the data: of its very type first, then in the order of the annotation."""
    attempts = []
    for arm in sorted(arms(hint), key=lambda arm: 0 if simplify(arm)[0] in (type(data), type(None)) else 1):
        found: list[Problem] = []
        value = _decode_as(data, arm, current, path, found)
        if not found:
            found += _role_problems(value, arm, current, path)
        if not found:
            return value
        attempts.append(found)
    deeper = [found for found in attempts if all(problem.path != path for problem in found)]
    problems += deeper[0] if deeper else [_union_problem(data, hint, path, current)]
    return data


def _role_problems(value: Any, hint: Any, current: Any, path: str) -> list[Problem]:
    """What keeps a value that came as text from the role that its annotation gives it."""
    is_text = isinstance(value, str)
    if value is MISSING or value is None or value is current or (is_text and value == current):
        return []
    for role in simplify(hint)[1]:
        if is_held(value, role):
            return []
        if isinstance(role, ImportsModule) and is_text and refuses_module(value, role.packages):
            what = f"got {value!r}, and a file may not import {value.rpartition(':')[0]!r}"
            return [Problem(path, what, "give it on the command line, or read the file with --trust")]
        if isinstance(role, ImportsModule) and is_text and is_limited() and any(part in value for part in role.refused):
            what = f"got {value!r}, which imports what its arguments name, and a file may not have it"
            return [Problem(path, what, "give it on the command line, or read the file with --trust")]
        if isinstance(role, SubclassOf):
            try:
                found = resolve(value, role.packages) if is_reference(value) else value
                base = load(role.base) if isinstance(role.base, str) else role.base
            except ConfigError as error:
                return [Problem(path, str(error))]
            if isinstance(base, type) and not (isinstance(found, type) and issubclass(found, base)):
                return [Problem(path, f"got {show(found)}, expected a class derived from {base.__name__}")]
    if is_limited() and is_reference(value) and (packages := _packages_for(hint)) is not None:
        try:  # text where the annotation takes text too: whoever builds from it will resolve it
            resolve(value, packages)
        except ConfigError as error:
            return [Problem(path, str(error))]
    return []


def _union_problem(data: Any, hint: Any, path: str, current: Any) -> Problem:
    return next(iter(value_problems(data, hint, path, current)), mismatch(data, hint, path, current))


def _decode_as(data: Any, hint: Any, current: Any, path: str, problems: list[Problem]) -> Any:
    plain, _ = simplify(hint)
    origin, args = typing.get_origin(plain) or plain, typing.get_args(plain)
    if is_cfg_class(plain):
        return _decode_cfg(data, hint, current, path, problems)
    if is_anything(plain):
        if isinstance(data, Mapping) and (CLASS_KEY in data or is_cfg(current)):
            return _decode_cfg(data, hint, current, path, problems)
        return _decode_anything(data, path, problems)
    kind = container_of(origin)
    if isinstance(data, list) and kind is not None:
        items = [
            decode(item, item_hint(origin, args, index), MISSING, join_path(path, str(index)), problems)
            for index, item in enumerate(data)
        ]
        value = kind(items)
    elif isinstance(data, dict) and origin in MAPPINGS:
        inner = args[1] if args else Any
        value = {key: decode(item, inner, MISSING, join_path(path, str(key)), problems) for key, item in data.items()}
    else:
        value = _decode_leaf(data, hint, path, problems)
    if not problems:
        problems += value_problems(value, hint, path, current)
    return value


def _decode_leaf(data: Any, hint: Any, path: str, problems: list[Problem]) -> Any:
    """The value that a plain scalar stands for under an annotation; the scalar itself if it stands for no other."""
    plain = simplify(hint)[0]
    if plain is float and type(data) is int and fits(data, float) and float(data) == data:
        return float(data)
    if isinstance(data, str):
        if is_callable_hint(plain) and is_reference(data):
            try:
                return resolve(data, _packages_for(hint))
            except ConfigError as error:
                problems.append(Problem(path, str(error)))
        if isinstance(plain, type) and issubclass(plain, enum.Enum):
            return plain.__members__.get(data, data)
        if isinstance(plain, type) and issubclass(plain, PurePath):
            return plain(data)
    return data


def _packages_for(hint: Any) -> tuple[str, ...] | None:
    """Where text may find what an annotation asks for, as `resolve` takes it: None if it asks for no class."""
    options = arms(hint)
    if not any(is_callable_hint(simplify(arm)[0]) for arm in options):
        return None
    roles = [role for arm in (hint, *options) for role in simplify(arm)[1] if isinstance(role, SubclassOf)]
    return tuple(package for role in roles for package in role.packages)


def _decode_anything(data: Any, path: str, problems: list[Problem]) -> Any:
    if isinstance(data, list):
        return [decode(item, Any, MISSING, join_path(path, str(index)), problems) for index, item in enumerate(data)]
    if isinstance(data, dict):
        return {key: decode(item, Any, MISSING, join_path(path, str(key)), problems) for key, item in data.items()}
    return data


def _decode_cfg(data: Any, hint: Any, current: Any, path: str, problems: list[Problem]) -> Any:
    """A configuration from its fields or from the name of its class, merged into `current` if the class is the same."""
    fields = data if isinstance(data, Mapping) else {CLASS_KEY: data} if is_reference(data) else None
    cls = type(current) if is_cfg(current) else expected_class(hint, MISSING)
    if fields is not None and CLASS_KEY in fields:
        try:
            cls = resolve(fields[CLASS_KEY], None if is_anything(simplify(hint)[0]) else ())
        except ConfigError as error:
            problems.append(Problem(path, str(error)))
            return data
    roles = tuple(arm for arm in arms(hint) if is_cfg_class(arm))
    if fields is None or not is_cfg_class(cls) or (roles and not issubclass(cls, roles)):
        problems.append(mismatch(data, hint, path))
        return data
    cfg = current if type(current) is cls else cls()
    merge(cfg, fields, path, problems, names_class=True)
    return cfg


def _class_problems(named: Any, cls: type, path: str) -> list[Problem]:
    """What is wrong with a class that is named for a configuration which is there already and keeps its class."""
    try:
        if is_reference(named) and resolve(named) is cls:
            return []
    except ConfigError as error:
        return [Problem(path, str(error))]
    what = f"got {show(named)}, and the class of the whole configuration is not changed here: it is {cls.__qualname__}"
    return [Problem(path, what, "remove the line")]


def _is_marked(data: dict[Any, Any]) -> bool:
    return len(data) == 1 and next(iter(data)) in RESERVED - {CLASS_KEY}


def _decode_marked(data: dict[str, Any], hint: Any, path: str, problems: list[Problem]) -> Any:
    packages = _packages_for(hint)
    mark, content = next(iter(data.items()))
    if isinstance(content, list):
        items: list[Any] = _decode_anything(content, path, problems)
        with contextlib.suppress(TypeError):  # a list can be no entry of a set and no key
            if mark in CONTAINERS:
                return CONTAINERS[mark](items)
            if mark == DICT_KEY and all(isinstance(pair, list) and len(pair) == 2 for pair in items):
                return dict(items)
    elif isinstance(content, str):
        if mark == "_path":
            return Path(content)
        if mark == "_str":
            return content
        if mark == REFERENCE_KEY:
            try:
                return resolve(content, packages)
            except ConfigError as error:
                problems.append(Problem(path, str(error)))
                return data
    what = f"{mark!r} marks what to_dict wrote, and {show(content)} is nothing that it writes"
    problems.append(Problem(path, what, "remove the mark"))
    return data
