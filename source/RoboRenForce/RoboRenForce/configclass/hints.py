"""Analysis of annotations, and their description in messages."""

from __future__ import annotations

import collections.abc
import enum
import types
import typing
from typing import Annotated, Any, Literal, TypeGuard, Union

from .fields import MISSING, Range

SEQUENCES = (collections.abc.Sequence, collections.abc.Iterable, collections.abc.Collection)
MAPPINGS = (dict, collections.abc.Mapping, collections.abc.MutableMapping)
SETS = (set, frozenset, collections.abc.Set)
LONGEST = 60
"""Maximum number of characters of a value in a message."""
MOST_BITS = 4096
"""Maximum size of integers that are written out; Python refuses to at a few times that."""


def is_cfg_class(value: Any) -> TypeGuard[type[Any]]:
    """Return True if `value` is a configuration class."""
    return isinstance(value, type) and "__cfg_declared__" in value.__dict__


def is_cfg(value: Any) -> bool:
    """Return True if `value` is an instance of a configuration class."""
    return is_cfg_class(type(value))


def is_anything(hint: Any) -> bool:
    """Return True if an annotation does not restrict the value."""
    return hint is Any or hint is object or isinstance(hint, typing.TypeVar | typing.ForwardRef | str)


def is_callable_hint(hint: Any) -> bool:
    """Return True if an annotation asks for a class or a function, which may also be given as `module:name`."""
    return (
        hint is type or collections.abc.Callable in (hint, typing.get_origin(hint)) or typing.get_origin(hint) is type
    )


def simplify(hint: Any) -> tuple[Any, tuple[Any, ...]]:
    """Return the annotation without aliases and `Annotated`, and the metadata that was attached to it."""
    metadata: tuple[Any, ...] = ()
    while True:
        if typing.get_origin(hint) is Annotated:
            hint, metadata = hint.__origin__, (*metadata, *hint.__metadata__)
        elif typing.get_origin(hint) in (typing.Final, typing.Required, typing.NotRequired):
            hint = typing.get_args(hint)[0]
        elif isinstance(hint, typing.NewType):
            hint = hint.__supertype__
        elif type(hint).__name__ == "TypeAliasType":  # `type Name = ...` of Python 3.12
            hint = hint.__value__
        else:
            return types.NoneType if hint is None else hint, metadata


def parts(hint: Any) -> tuple[Any, tuple[Any, ...]]:
    """Return origin and arguments of a simplified annotation: `(list, (int,))` for `list[int]`, `(int, ())` for int."""
    plain, _ = simplify(hint)
    return typing.get_origin(plain) or plain, typing.get_args(plain)


def arms(hint: Any) -> tuple[Any, ...]:
    """Return the members of a union; the annotation itself, as its only member, if it is none."""
    plain, metadata = simplify(hint)
    if typing.get_origin(plain) in (Union, types.UnionType):
        return tuple(arm for member in typing.get_args(plain) for arm in arms(member))
    return (hint,) if metadata else (plain,)


def item_hint(hint: Any, value: Any, index: int = 0) -> Any:
    """Return the annotation of entry `index` of the container `value`, from the member of `hint` that fits it."""
    for origin, args in map(parts, arms(hint)):
        if args and isinstance(origin, type) and isinstance(value, origin):
            if isinstance(value, dict):
                return args[1]
            is_fixed = origin is tuple and args[1:] != (Ellipsis,)
            return args[0] if not is_fixed else args[index] if index < len(args) else Any
    return Any


def expected_class(hint: Any, known: Any) -> type | None:
    """Return the class of the configuration for a dict without `_cfg`; None if it is not unique."""
    classes = [type(known)] if is_cfg(known) else [arm for arm in arms(hint) if is_cfg_class(arm)]
    return classes[0] if len(classes) == 1 else None


def show(value: Any) -> str:
    """Format a value for an error message: shortened, with its type."""
    if value is None or value is MISSING:
        return str(value)
    if is_cfg(value):
        return f"a {type(value).__name__}"
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if isinstance(value, int) and value.bit_length() > MOST_BITS:
        return f"an integer of {value.bit_length()} bits"
    text = repr(value)
    return f"{text if len(text) <= LONGEST else text[: LONGEST - 3] + '...'} ({type(value).__name__})"


def describe(hint: Any) -> str:
    """Format an annotation for an error message."""
    plain, metadata = simplify(hint)
    text = _describe_plain(plain)
    if ranges := " and ".join(str(item) for item in metadata if isinstance(item, Range)):
        text += f" with numbers {ranges}" if "[" in text else f" {ranges}"
    return text


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
        role = f" derived from {describe(args[0])}" if args and not is_anything(args[0]) else ""
        return f"a class{role} or its 'module:name'"
    if origin in (tuple, list, *SEQUENCES, *SETS, *MAPPINGS):
        inner = ", ".join("..." if arg is Ellipsis else describe(arg) for arg in args)
        return f"{origin.__name__}[{inner}]"
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return " or ".join(hint.__members__)
    return getattr(hint, "__name__", str(hint))
