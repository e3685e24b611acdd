"""Configurations to plain data, exactly.

Plain data is what YAML and JSON can hold: dicts, lists, strings, numbers, booleans and None. What the annotation of
a field does not restore by itself is marked by a dict with one of the keys below, so that the round trip is exact:

    _cfg: module:name     the class of a configuration, before its fields, if the field holds another one by default
    _ref: module:name     a class or function where the annotation does not ask for one
    _tuple, _set, _frozenset, _path, _str: value
    _dict: [[key, value], ...]   a dict with keys that are not plain, or equal to one of these marks
    "???"                 a value that is still MISSING

`restore` is the way back.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import enum
import typing
from pathlib import PurePath
from typing import Any

from .errors import ConfigError, Problem, join_path
from .fields import MISSING, field_types
from .hints import SEQUENCES, arms, is_anything, is_callable_hint, is_cfg, is_cfg_class, item_hint, simplify
from .matching import fits
from .references import is_reference, reference_to
from .wording import show

CLASS_KEY = "_cfg"
REFERENCE_KEY = "_ref"
DICT_KEY = "_dict"
MISSING_TEXT = "???"
CONTAINERS: dict[str, type] = {"_tuple": tuple, "_set": set, "_frozenset": frozenset}
RESERVED = {CLASS_KEY, REFERENCE_KEY, DICT_KEY, "_path", "_str", *CONTAINERS}

_PLAIN = (str, int, float, bool, type(None))


def encode_cfg(cfg: Any, path: str = "", expected: type | None = None) -> dict[str, Any]:
    """A configuration as plain data; its class is written down if that is not the `expected` one."""
    cls = type(cfg)
    data: dict[str, Any] = {}
    if cls is not expected:
        data[CLASS_KEY] = _reference(cls, path)
    hints = field_types(cls)
    for field in dataclasses.fields(cls):
        default = cls.__cfg_defaults__.get(field.name, MISSING)
        where = join_path(path, field.name)
        data[field.name] = _encode(getattr(cfg, field.name), hints[field.name], default, where)
    return data


def expected_class(hint: Any, default: Any) -> type | None:
    """The class of the configuration that a dict without `_cfg` stands for; None if there is no single one."""
    if is_cfg(default):
        return type(default)
    classes = [arm for arm in arms(hint) if is_cfg_class(arm)]
    return classes[0] if len(classes) == 1 else None


def _encode(value: Any, hint: Any, default: Any, path: str) -> Any:
    """`value` as plain data from which `restore.decode` with the same `hint` makes an equal value."""
    if value is MISSING:
        return MISSING_TEXT
    if is_cfg(value):
        return encode_cfg(value, path, expected_class(hint, default))
    options = arms(hint)
    if len(options) == 1:
        arm = options[0]
    else:
        # Plain data must lead back to this member and not to another one: str and Callable both read 'module:name'.
        rivals = [option for option in options if _reads_as(value, option)]
        arm = rivals[0] if len(rivals) == 1 else Any
    return _encode_as(value, arm, path)


def _reads_as(value: Any, hint: Any) -> bool:
    """Whether the plain form of `value` could be taken for a value of the union's member `hint`."""
    hint, _ = simplify(hint)
    origin = typing.get_origin(hint) or hint
    if is_anything(hint):
        return True
    if isinstance(value, list | tuple | set | frozenset):  # written as a list
        return container_of(origin) is not None
    if isinstance(value, type | PurePath | enum.Enum) or callable(value):  # written as text
        return origin is str or fits(value, hint)
    if isinstance(value, str):
        names_something = is_reference(value) and (is_callable_hint(hint) or is_cfg_class(hint))
        return names_something or _is_written_as_text(origin) or fits(value, hint)
    return fits(value, hint)


def _is_written_as_text(kind: Any) -> bool:
    return kind is str or (isinstance(kind, type) and issubclass(kind, PurePath | enum.Enum))


def _encode_as(value: Any, hint: Any, path: str) -> Any:
    """Encode for one member of the annotation; values that it does not restore by itself are marked."""
    hint, _ = simplify(hint)
    origin, args = typing.get_origin(hint) or hint, typing.get_args(hint)
    if type(value) in (list, tuple, set, frozenset):
        items = _encode_items(value, origin, args, path)
        return items if type(value) is container_of(origin) else {f"_{type(value).__name__}": items}
    if type(value) is dict:
        inner = args[1] if len(args) == 2 and origin is not tuple else Any
        return _encode_dict(value, inner, path)
    if isinstance(value, enum.Enum):
        if isinstance(hint, type) and type(value) is hint:
            return value.name
        return {REFERENCE_KEY: f"{_reference(type(value), path)}.{value.name}"}
    if isinstance(value, PurePath):
        is_path = isinstance(hint, type) and issubclass(hint, PurePath)
        return str(value) if is_path and str(value) != MISSING_TEXT else {"_path": str(value)}
    if isinstance(value, str) and (value == MISSING_TEXT or (is_reference(value) and is_callable_hint(hint))):
        return {"_str": value}
    if type(value) in _PLAIN:
        return value
    if isinstance(value, type) or callable(value):
        reference = _reference(value, path)
        return reference if is_callable_hint(hint) else {REFERENCE_KEY: reference}
    raise ConfigError(
        [
            Problem(
                path, f"got {show(value)}, which can't be written as plain data", "store numbers, text, lists or dicts"
            )
        ]
    )


def container_of(origin: Any) -> type[list[Any] | tuple[Any, ...] | set[Any] | frozenset[Any]] | None:
    """The container that a plain list becomes under an annotation; None if the annotation asks for none."""
    if origin in (list, tuple, set, frozenset):
        return origin
    if origin is collections.abc.Set:
        return set
    return list if is_anything(origin) or origin in SEQUENCES else None


def _encode_items(value: Any, origin: Any, args: tuple[Any, ...], path: str) -> list[Any]:
    if type(value) is not container_of(origin):
        args = ()
    items = sorted(value, key=repr) if isinstance(value, set | frozenset) else value
    encoded = []
    for index, item in enumerate(items):
        encoded.append(_encode(item, item_hint(origin, args, index), MISSING, join_path(path, str(index))))
    return encoded


def _encode_dict(value: dict[Any, Any], inner: Any, path: str) -> dict[str, Any]:
    if any(type(key) not in _PLAIN or key in RESERVED for key in value):
        pairs = [[_encode(key, Any, MISSING, path), _encode(item, Any, MISSING, path)] for key, item in value.items()]
        return {DICT_KEY: pairs}
    return {key: _encode(item, inner, MISSING, join_path(path, str(key))) for key, item in value.items()}


def _reference(value: Any, path: str) -> str:
    try:
        return reference_to(value)
    except ConfigError as error:
        raise ConfigError([Problem(path, str(error))]) from None
