"""Questions about annotations: what kind of value does one ask for?"""

from __future__ import annotations

import collections.abc
import types
import typing
from typing import Annotated, Any, TypeGuard, Union

SEQUENCES = (collections.abc.Sequence, collections.abc.Iterable, collections.abc.Collection)
MAPPINGS = (dict, collections.abc.Mapping, collections.abc.MutableMapping)
SETS = (set, frozenset, collections.abc.Set)


def is_cfg_class(value: Any) -> TypeGuard[type[Any]]:
    """Whether `value` is a configuration class."""
    return isinstance(value, type) and "__cfg_declared__" in value.__dict__


def is_cfg(value: Any) -> bool:
    """Whether `value` is an instance of a configuration class."""
    return is_cfg_class(type(value))


def is_anything(hint: Any) -> bool:
    """Whether an annotation says nothing about the value."""
    return hint is Any or hint is object or isinstance(hint, typing.TypeVar | typing.ForwardRef | str)


def is_callable_hint(hint: Any) -> bool:
    """Whether an annotation asks for a class or a function, which may also be given as `module:name`."""
    return (
        hint is type or hint is collections.abc.Callable or typing.get_origin(hint) in (type, collections.abc.Callable)
    )


def simplify(hint: Any) -> tuple[Any, tuple[Any, ...]]:
    """The annotation without aliases and `Annotated`, and the metadata that was attached to it."""
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


def arms(hint: Any) -> tuple[Any, ...]:
    """The members of a union; the annotation itself, as its only member, if it is none."""
    plain, metadata = simplify(hint)
    if typing.get_origin(plain) in (Union, types.UnionType):
        return tuple(arm for member in typing.get_args(plain) for arm in arms(member))
    return (hint,) if metadata else (plain,)


def item_hint(origin: Any, args: tuple[Any, ...], index: int) -> Any:
    """The annotation of entry `index` of a container annotated `origin[args]`."""
    if not args or args == ((),):
        return Any
    if origin is tuple and not (len(args) == 2 and args[1] is Ellipsis):
        return args[index] if index < len(args) else Any
    return args[0]
