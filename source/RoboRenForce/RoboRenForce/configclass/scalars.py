"""Validators of single values, and the context and errors that all validators share."""

from __future__ import annotations

import enum
import functools
import math
import types
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, Literal, NamedTuple

from pydantic_core import CoreSchema, PydanticCustomError, SchemaValidator
from pydantic_core import core_schema as cs

from .errors import ConfigError
from .fields import MISSING, Range
from .hints import arms, is_callable_hint, is_cfg, simplify
from .references import is_reference, resolve
from .roles import packages_for

SCALARS: dict[Any, Callable[..., CoreSchema]] = {  # members of a union are tried in this order, before all others
    int: cs.int_schema,
    bool: functools.partial(cs.bool_schema, strict=True),
    str: functools.partial(cs.str_schema, strict=True),
    types.NoneType: cs.none_schema,
    float: cs.float_schema,
}


_LARGEST = "write the largest one that you mean"


class Place(NamedTuple):
    """Context of a validated value; pydantic's context.

    Attributes:
        data: Value that the field was given; `known` is about this value, not about its entries.
        known: Current or default value of the field.
        reading: True if values are plain data.
        finished: True if nothing may be MISSING, and configurations are validated too.
    """

    data: Any = None
    known: Any = MISSING
    reading: bool = False
    finished: bool = False

    def known_for(self, value: Any) -> Any:
        """Return the known value for a value at this place or inside it."""
        return self.known if value is self.data else MISSING


@dataclass(repr=False)  # pydantic asks for the text of what an error carries, which may be long
class Fault:
    """Error that `messages` explains: a value that does not fit its annotation, an unknown field, or a sentence."""

    value: Any = None
    hint: Any = None
    known: Any = MISSING
    what: str = ""
    fix: str = ""

    def error(self, kind: Literal["mismatch", "sentence", "unknown"]) -> PydanticCustomError:
        """Return the error by which pydantic carries it."""
        return PydanticCustomError(kind, "see its fault", {"fault": self})


def sentence(what: str, fix: str = "") -> PydanticCustomError:
    """Build an error from a complete sentence."""
    return Fault(what=what, fix=fix).error("sentence")


def mismatch() -> PydanticCustomError:
    """Build an error that the surrounding node completes."""
    return PydanticCustomError("other", "another type")


def run(accepts: SchemaValidator, value: Any, place: Place) -> Any:
    """Validate a value, or convert plain data; a ValidationError lists all errors."""
    return accepts.validate_python(value, strict=None if place.reading else True, context=place)


def calls(function: Callable[..., Any], *args: Any) -> CoreSchema:
    """Build a validator from our `function(value, info, *args)`."""
    return cs.with_info_plain_validator_function(functools.partial(function, *args))


def scalar(hint: Any, bounds: Sequence[Range]) -> CoreSchema:
    """Return the validator of an annotation that is no union, no container and no configuration."""
    plain, _ = simplify(hint)
    if is_callable_hint(plain):
        return calls(_callable, hint)
    if typing.get_origin(plain) is Literal:
        return calls(_choice, typing.get_args(plain))
    if plain in (int, float):
        schema = cs.chain_schema([SCALARS[plain](strict=True, **vars(item)) for item in bounds or (Range(),)])
        endless = any(bound in (math.inf, -math.inf) for item in bounds for bound in vars(item).values())
        around = functools.partial(_float, endless)
        return schema if plain is int else cs.with_info_wrap_validator_function(around, schema)
    if plain in SCALARS:
        return SCALARS[plain]()
    kind = typing.get_origin(plain) or plain
    if not isinstance(kind, type) or getattr(kind, "_is_protocol", False):
        return cs.any_schema()  # only a type checker can tell
    return cs.with_info_before_validator_function(functools.partial(_from_text, kind), cs.is_instance_schema(kind))


def resolve_or_refuse(reference: Any, packages: tuple[str, ...] | None) -> Any:
    """Resolve a reference with `resolve`, turning its error into a validation error."""
    try:
        return resolve(reference, packages)
    except ConfigError as error:
        raise sentence(str(error)) from None


def of_length(length: int, value: Any) -> Any:
    """Refuse a list or tuple of another length before its items are validated."""
    if isinstance(value, list | tuple) and len(value) != length:
        raise PydanticCustomError("length", f"got length {len(value)}, expected {length}")  # pyright: ignore
    return value


def _callable(hint: Any, value: Any, info: Any) -> Any:
    plain, found = simplify(hint)[0], value
    if is_reference(value):
        found = resolve_or_refuse(value, packages_for(hint) if info.context.reading else ())
    if plain is type or typing.get_origin(plain) is type:
        roles = tuple(kind for arg in typing.get_args(plain) for kind in arms(arg) if isinstance(kind, type))
        is_right = isinstance(found, type) and (not roles or issubclass(found, roles))
    else:
        is_right = callable(found) and not is_cfg(found)
    if not is_right:
        raise mismatch()
    return found


def _choice(choices: Sequence[Any], value: Any, info: Any) -> Any:
    if not any(value == choice and type(value) is type(choice) for choice in choices):
        raise mismatch()
    return value


def _float(endless: bool, value: Any, handler: Any, info: Any) -> Any:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise mismatch()
    try:
        number = float(value)
    except OverflowError:
        raise sentence("got an integer that no float can hold, expected a finite number", _LARGEST) from None
    if info.context.finished and not endless and not math.isfinite(number):
        raise sentence(f"got {value}, expected a finite number", _LARGEST)
    number = number if info.context.reading and number == value else value
    handler(number)
    return number


def _from_text(kind: type, value: Any, info: Any) -> Any:
    if info.context.reading and isinstance(value, str):
        if issubclass(kind, enum.Enum):
            return kind.__members__.get(value, value)
        if issubclass(kind, PurePath):
            return kind(value)
    return value
