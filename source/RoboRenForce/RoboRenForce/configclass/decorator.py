"""The `@configclass` decorator: dataclasses with keyword-only fields, fresh defaults and inherited annotations.

Deviations from a plain dataclass, each because configurations are written by hand and edited after construction:

- a subclass may override a field without repeating its annotation,
- a new name without annotation is a field of the type of its value,
- mutable defaults are copied for every instance,
- a field without default starts as MISSING and is reported by `validate`, not by the constructor,
- names that are not declared are refused with the nearest ones, by the constructor and on assignment.
"""

from __future__ import annotations

import ast
import copy
import dataclasses
import enum
import functools
import inspect
import pathlib
import sys
import types
import typing
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from .base import Cfg
from .errors import did_you_mean
from .fields import MISSING, field_names, is_class_var

C = TypeVar("C")

_ATOMS = (
    int,
    float,
    complex,
    str,
    bytes,
    type(None),
    type,
    enum.Enum,
    range,
    pathlib.PurePath,
    types.FunctionType,
    types.BuiltinFunctionType,
    type(MISSING),
)
_NOT_A_VALUE = (types.FunctionType, property, classmethod, staticmethod, functools.cached_property)


@typing.dataclass_transform(kw_only_default=True, field_specifiers=(dataclasses.field,))
def configclass(cls: type[C]) -> type[C]:
    """Make a configuration out of a class; see `Cfg` for what its instances can do.

    A class that does not derive from `Cfg` gets it as an additional base; like `@dataclass(slots=True)`, the decorator
    then builds the class anew.
    """
    if "__init__" in cls.__dict__:
        raise TypeError(
            f"{cls.__qualname__} defines __init__; configurations are built by keyword, use __post_init__ instead."
        )
    if not issubclass(cls, Cfg):
        cls = _with_base(cls)
    declared = {name: hint for name, hint in inspect.get_annotations(cls).items() if not is_class_var(hint)}
    inherited = _inherited_defaults(cls)
    defaults = dict(_own_defaults(cls, declared, inherited))
    for name in defaults:
        if hasattr(Cfg, name):
            raise TypeError(f"{cls.__qualname__}.{name} hides the method Cfg.{name}; give the field another name.")
    annotations = dict(inspect.get_annotations(cls))
    for name, default in defaults.items():
        if name not in declared and name not in inherited:
            declared[name] = _type_of(default)
        annotations.setdefault(name, declared.get(name, Any))
        setattr(cls, name, _as_dataclass_default(default))
    cls.__annotations__ = annotations
    cls.__cfg_declared__ = declared  # pyright: ignore[reportAttributeAccessIssue]
    cls.__cfg_names__ = _local_names(cls, declared)  # pyright: ignore[reportAttributeAccessIssue]
    cls.__cfg_defaults__ = {**inherited, **defaults}  # pyright: ignore[reportAttributeAccessIssue]
    cls = dataclasses.dataclass(kw_only=True)(cls)
    _guard_constructor(cls)
    return cls


def _inherited_defaults(cls: type) -> dict[str, Any]:
    """Defaults of the fields of all bases; the nearer base wins, as it does in dataclasses."""
    found: dict[str, Any] = {}
    for base in reversed(cls.__mro__[1:]):
        found |= base.__dict__.get("__cfg_defaults__", {})
    return found


def _own_defaults(cls: type, declared: dict[str, Any], inherited: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """`(name, default)` of the fields that this class declares or overrides, as written in its body."""
    body = cls.__dict__
    for name in declared:
        if name in body:
            default = body[name]
            if isinstance(default, dataclasses.Field):
                default = _default_of_field(default)
            yield name, default
        else:  # a new annotation alone narrows the type and keeps the inherited default
            yield name, inherited.get(name, MISSING)
    for name, value in list(body.items()):
        if name in declared or name in inspect.get_annotations(cls):
            continue
        if name in inherited or (
            not name.startswith("_") and not isinstance(value, _NOT_A_VALUE) and not _is_nested_class(cls, value)
        ):
            yield name, value


def _default_of_field(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return MISSING if field.default is dataclasses.MISSING else field.default


def _is_nested_class(cls: type, value: Any) -> bool:
    """Whether `value` is a class written inside the body of `cls`: a scope for names, not a value."""
    return isinstance(value, type) and value.__qualname__.startswith(f"{cls.__qualname__}.")


def _type_of(default: Any) -> Any:
    """The type a new field without annotation gets from its default."""
    if default is None or default is MISSING or isinstance(default, dataclasses.Field):
        return Any
    if isinstance(default, type):
        return type
    return Callable if callable(default) and not isinstance(default, Cfg) else type(default)


def _as_dataclass_default(default: Any) -> Any:
    """A default that dataclasses accept: shared if it can't change, otherwise copied for every instance."""
    if default is dataclasses.MISSING:
        default = MISSING
    if _is_immutable(default):
        return default
    return dataclasses.field(default_factory=lambda: copy.deepcopy(default))


def _is_immutable(value: Any) -> bool:
    if isinstance(value, tuple | frozenset):
        return all(_is_immutable(item) for item in value)
    return isinstance(value, _ATOMS)


def _local_names(cls: type, declared: dict[str, Any]) -> dict[str, Any]:
    """Names that the annotations of a class written inside a function need from that function."""
    if "<locals>" not in cls.__qualname__:
        return {}
    texts = [hint for hint in declared.values() if isinstance(hint, str)]
    used = {node.id for text in texts for node in ast.walk(ast.parse(text, mode="eval")) if isinstance(node, ast.Name)}
    scope = sys._getframe(2).f_locals
    return {name: scope[name] for name in used.intersection(scope)}


def _with_base(cls: type[C]) -> type[C]:
    """The class built again with `Cfg` among its bases."""
    bases = (*(base for base in cls.__bases__ if base is not object), Cfg)
    body = {name: value for name, value in cls.__dict__.items() if name not in ("__dict__", "__weakref__")}
    made: Any = type(cls)(cls.__name__, bases, body)
    made.__qualname__ = cls.__qualname__
    for value in body.values():  # super() without arguments looks the class up in a cell of the function
        function = inspect.unwrap(value) if isinstance(value, types.FunctionType) else getattr(value, "__func__", None)
        if isinstance(function, types.FunctionType) and "__class__" in function.__code__.co_freevars:
            cells: Any = function.__closure__
            cells[function.__code__.co_freevars.index("__class__")].cell_contents = made
    return made


def _guard_constructor(cls: type) -> None:
    """Refuse undeclared keywords with the nearest names."""
    construct = cls.__init__

    @functools.wraps(construct)
    def guarded(self: Any, /, *args: Any, **kwargs: Any) -> None:
        names = field_names(type(self))
        if args:
            raise TypeError(f"{type(self).__qualname__} takes keywords only: write {next(iter(names), 'field')}=... .")
        for name in kwargs:
            if name not in names:
                raise TypeError(f"{type(self).__qualname__} has no field {name!r}; {did_you_mean(name, names)}")
        construct(self, **kwargs)

    cls.__init__ = guarded
