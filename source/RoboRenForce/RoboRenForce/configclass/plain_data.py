"""Configurations to plain data and back, exactly.

Plain data is what YAML and JSON can hold: dicts, lists, strings, numbers, booleans and None. A value is written
without a mark where its annotation restores the same value from that, and else as a dict with one of these keys:

    _cfg: module:name     the class of a configuration, before its fields, if the field holds another one by default
    _ref: module:name     a class or function where the annotation does not ask for one
    _tuple, _set, _frozenset, _path, _str: value
    _dict: [[key, value], ...]   a dict with keys that are not plain, or equal to one of these marks
    "???"                 a value that is still MISSING
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from pydantic_core import ValidationError

from .errors import ConfigError, Problem, join_path
from .fields import MISSING, field_types
from .hints import expected_class, is_cfg, item_hint, show
from .messages import problems_of
from .references import reference_to, resolve
from .scalars import Place, run
from .trust import AllowList, only
from .validators import CLASS_KEY, CONTAINERS, DICT_KEY, MISSING_TEXT, REFERENCE_KEY, assign, validator

_PLAIN = (str, int, float, bool, type(None))


def read(data: Any, hint: Any, known: Any = MISSING, subject: str = "The data") -> Any:
    """Convert plain data to a value of the annotation `hint`; a configuration is merged into `known`, if that is one.

    `subject` names the configuration in errors.

    Raises:
        ConfigError: Lists every unknown key and every value of a wrong type.
    """
    try:
        return run(validator(hint), data, Place(data, known, reading=True))
    except ValidationError as error:
        raise ConfigError(problems_of(error), subject) from None


def merge(cfg: Any, data: Mapping[Any, Any]) -> list[Problem]:
    """Set the fields of a configuration that `data` names, and return the problems."""
    cls, fields, problems = type(cfg), dict(data), []
    if CLASS_KEY in fields:
        named = fields.pop(CLASS_KEY)
        try:
            if resolve(named) is not cls:
                what = f"got {show(named)}, and the class of the whole configuration is not changed here: it is "
                problems.append(Problem(CLASS_KEY, what + cls.__qualname__, "remove the line"))
        except ConfigError as error:
            problems.append(Problem(CLASS_KEY, str(error)))
    try:
        assign(cfg, fields, Place(reading=True))
    except ValidationError as error:
        problems += problems_of(error)
    return problems


def write(cfg: Any) -> dict[str, Any]:
    """Convert a configuration to plain data from which `read` makes an equal one."""
    with only(AllowList.of(cfg)):  # what is written is read on trial, which imports nothing that a file may not
        return _write_cfg(cfg, "", type(cfg))


def _write_cfg(cfg: Any, path: str, expected: type | None) -> dict[str, Any]:
    cls = type(cfg)
    data: dict[str, Any] = {} if cls is expected else {CLASS_KEY: _reference(cls, path)}
    for name, hint in field_types(cls).items():
        default = cls.__cfg_defaults__.get(name, MISSING)
        data[name] = _write(getattr(cfg, name), hint, default, join_path(path, name))
    return data


def _write(value: Any, hint: Any, known: Any, path: str) -> Any:
    if value is MISSING:
        return MISSING_TEXT
    if is_cfg(value):
        return _write_cfg(value, path, expected_class(hint, known))
    if type(value) in _PLAIN[1:] or (hint is str and type(value) is str and value != MISSING_TEXT):
        return value
    if type(value) is dict and any(type(key) not in _PLAIN for key in value):
        return _marked(value, path)
    data = _plainly(value, hint, path)
    try:
        found = run(validator(hint), data, Place(data, value, reading=True))
    except ValidationError:
        found = MISSING
    return data if _is_same(found, value) else _marked(value, path)


def _plainly(value: Any, hint: Any, path: str) -> Any:
    """Convert a value without marks of its own, if its annotation can restore it."""
    if type(value) is dict:
        return {
            key: _write(item, item_hint(hint, value), MISSING, join_path(path, str(key))) for key, item in value.items()
        }
    if type(value) in (list, tuple, set, frozenset):
        items = sorted(value, key=repr) if isinstance(value, set | frozenset) else value
        return [
            _write(item, item_hint(hint, value, index), MISSING, join_path(path, str(index)))
            for index, item in enumerate(items)
        ]
    if isinstance(value, enum.Enum):
        return value.name
    if isinstance(value, str | PurePath):
        return str(value)
    if isinstance(value, type) or callable(value):
        return _reference(value, path)
    what = f"got {show(value)}, which can't be written as plain data"
    raise ConfigError([Problem(path, what, "store numbers, text, lists or dicts")])


def _marked(value: Any, path: str) -> Any:
    """Convert a value with a mark of its type, independent of its annotation."""
    data = _plainly(value, Any, path)
    if isinstance(value, dict):
        return {DICT_KEY: [[_write(key, Any, MISSING, path), item] for key, item in data.items()]}
    if isinstance(value, enum.Enum):
        return {REFERENCE_KEY: f"{_reference(type(value), path)}.{value.name}"}
    if isinstance(value, str | PurePath):
        return {"_str" if isinstance(value, str) else "_path": data}
    mark = f"_{type(value).__name__}"
    return data if type(value) is list else {mark if mark in CONTAINERS else REFERENCE_KEY: data}


def _is_same(left: Any, right: Any) -> bool:
    """Return True if two values are equal in value and type at every depth; a float may stand for an integer."""
    if type(left) in (int, float) and type(right) in (int, float):
        return left == right or left != left
    if type(left) is not type(right):
        return False
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(_is_same, left, right))
    if isinstance(left, dict):
        return _is_same([*left.items()], [*right.items()])
    if is_cfg(left):
        return _is_same(vars(left), vars(right))
    return left == right


def _reference(value: Any, path: str) -> str:
    try:
        return reference_to(value)
    except ConfigError as error:
        raise ConfigError([Problem(path, str(error))]) from None
