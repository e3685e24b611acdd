"""The `@configclass` decorator: dataclasses with keyword-only fields, fresh defaults and inherited annotations.

Deviations from a plain dataclass, each because configurations are written by hand and edited after construction:

- a subclass may override a field without repeating its annotation,
- a new name without annotation is a field of the type of its value,
- defaults are copied for every instance,
- a field without default starts as MISSING and is reported by `validate`, not by the constructor,
- names that are not declared are refused with the nearest ones, by the constructor and on assignment.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import sys
import types
import typing
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from .base import Cfg
from .fields import MISSING, is_class_var

C = TypeVar("C")

_NOT_A_VALUE = (types.FunctionType, property, classmethod, staticmethod, functools.cached_property)


@typing.dataclass_transform(kw_only_default=True, field_specifiers=(dataclasses.field,))
def configclass(cls: type[C]) -> type[C]:
    """Turn a class into a configuration; see `Cfg` for the methods of its instances.

    A class that does not derive from `Cfg` gets it as an additional base; like `@dataclass(slots=True)`, the decorator
    then builds the class anew.
    """
    if "__init__" in cls.__dict__:
        raise TypeError(
            f"{cls.__qualname__} defines __init__; configurations are built by keyword, use __post_init__ instead."
        )
    if not issubclass(cls, Cfg):
        cls = _with_base(cls)
    annotations = inspect.get_annotations(cls)
    declared = {name: hint for name, hint in annotations.items() if not is_class_var(hint)}
    inherited: dict[str, Any] = {}
    for base in reversed(cls.__mro__[1:]):  # the nearer base wins, as it does in dataclasses
        inherited |= base.__dict__.get("__cfg_defaults__", {})
    defaults = dict(_own_defaults(cls, declared, inherited))
    for name, default in defaults.items():
        if hasattr(Cfg, name):
            raise TypeError(f"{cls.__qualname__}.{name} hides the method Cfg.{name}; give the field another name.")
        if name not in declared and name not in inherited:
            declared[name] = _type_of(default)
        setattr(cls, name, dataclasses.field())  # Cfg.__init__ copies the default
    made: Any = cls
    made.__annotations__ = {**annotations, **{name: declared.get(name, Any) for name in defaults}}
    made.__cfg_declared__ = declared
    made.__cfg_defaults__ = {**inherited, **defaults}
    # The names of the function that a class is written in are gone when its annotations are evaluated.
    scope = sys._getframe(1).f_locals if "<locals>" in cls.__qualname__ else {}
    texts = [hint for hint in declared.values() if isinstance(hint, str)]
    made.__cfg_names__ = {name: value for name, value in scope.items() if any(name in text for text in texts)}
    return dataclasses.dataclass(kw_only=True, init=False)(made)


def _own_defaults(cls: type, declared: dict[str, Any], inherited: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Return `(name, default)` of the fields that this class declares or overrides."""
    body, annotations = dict(cls.__dict__), inspect.get_annotations(cls)
    for name in declared:  # a new annotation alone narrows the type and keeps the inherited default
        yield name, _default_of(body.get(name, inherited.get(name, MISSING)))
    for name, value in body.items():
        is_nested = isinstance(value, type) and value.__qualname__.startswith(f"{cls.__qualname__}.")
        is_new_field = not name.startswith("_") and not is_nested and not isinstance(value, _NOT_A_VALUE)
        if name not in annotations and (name in inherited or is_new_field):
            yield name, _default_of(value)


def _default_of(written: Any) -> Any:
    """Return the default in the class body; a factory is called once, and its result is copied."""
    if isinstance(written, dataclasses.Field):
        factory = written.default_factory
        written = written.default if factory is dataclasses.MISSING else factory()
    return MISSING if written is dataclasses.MISSING else written


def _type_of(default: Any) -> Any:
    """Infer the type of a new field without annotation from its default."""
    if default is None or default is MISSING:
        return Any
    if isinstance(default, type):
        return type
    return Callable if callable(default) and not isinstance(default, Cfg) else type(default)


def _with_base(cls: type[C]) -> type[C]:
    """Rebuild the class with `Cfg` among its bases."""
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
