"""What annotations accept, as validators of pydantic: they check values, and read plain data into values.

Pydantic walks the containers, compares scalars with types and bounds, and collects what is wrong with its place. Ours is
what it knows nothing of (configurations, references, MISSING, the marks of `plain_data`) or takes more leniently: to it
True is the choice 1 and a number of NumPy a float, and of a union it reports every member instead of the one meant.
"""

from __future__ import annotations

import collections.abc
import contextlib
import enum
import functools
import math
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Annotated, Any, Literal, NamedTuple

from pydantic_core import CoreSchema, InitErrorDetails, PydanticCustomError, SchemaValidator, ValidationError
from pydantic_core import core_schema as cs

from .errors import ConfigError, contradiction
from .fields import MISSING, Range, field_types
from .hints import (
    MAPPINGS,
    SEQUENCES,
    SETS,
    arms,
    is_anything,
    is_callable_hint,
    is_cfg,
    is_cfg_class,
    parts,
    show,
    simplify,
)
from .references import is_reference, resolve
from .roles import packages_for, role_problem

CLASS_KEY, REFERENCE_KEY, DICT_KEY, MISSING_TEXT = "_cfg", "_ref", "_dict", "???"
CONTAINERS: dict[str, type] = {"_tuple": tuple, "_set": set, "_frozenset": frozenset}
MARKS = {REFERENCE_KEY, DICT_KEY, "_path", "_str", *CONTAINERS}

_SCALARS: dict[Any, Callable[..., CoreSchema]] = {
    int: cs.int_schema,
    bool: cs.bool_schema,
    str: cs.str_schema,
    types.NoneType: cs.none_schema,
    float: cs.float_schema,
}
"""In the order in which members of a union are tried, before all others."""


_LARGEST = "write the largest one that you mean"


class Place(NamedTuple):
    """What a validator knows besides the value; pydantic's context."""

    data: Any = None
    """What the field was given."""
    known: Any = MISSING
    """What the field holds, or has by default."""
    reading: bool = False
    """Whether values are plain data."""
    finished: bool = False
    """Whether nothing may be MISSING, and configurations are looked into."""
    has_roles: bool = True
    """Whether text must fit the roles of its field."""
    others: Sequence[str] = ()
    """What an unknown field could also have meant."""


def validator(hint: Any) -> SchemaValidator:
    """What an annotation accepts; the context is a `Place`."""
    return SchemaValidator(_schema(hint))


def run(accepts: SchemaValidator, value: Any, place: Place) -> Any:
    """The value itself, or what plain data stands for; a ValidationError lists what is wrong."""
    return accepts.validate_python(value, strict=None if place.reading else True, context=place)


def fits(value: Any, hint: Any) -> bool:
    """Whether nothing is wrong with a value under an annotation."""
    try:
        run(validator(hint), value, Place(finished=True))
    except ValidationError:
        return False
    return True


def check_cfg(cfg: Any) -> None:
    """Raise a ValidationError that lists everything wrong with a configuration and with what it holds."""
    cls = type(cfg)
    hints = field_types(cls)
    values = {name: getattr(cfg, name) for name in hints}
    _fields(cls).validate_python(values, strict=True, context=(Place(finished=True), cls.__cfg_defaults__))
    # Contradictions are only looked for between values that are right by themselves.
    if problems := [contradiction(sentence, hints) for sentence in cfg.check()]:
        lines: list[InitErrorDetails] = [
            {"type": _said(found.what), "loc": tuple(filter(None, found.path.split("."))), "input": cfg}
            for found in problems
        ]
        raise ValidationError.from_exception_data(cls.__qualname__, lines)


def assign(cfg: Any, fields: Mapping[Any, Any], place: Place) -> None:
    """Set the fields that plain data names; nested configurations are merged, everything else is replaced."""
    named = {str(key).encode(errors="replace").decode(): item for key, item in fields.items()}
    values = _fields(type(cfg)).validate_python(named, context=(place, vars(cfg)))
    for name, value in values.items():
        setattr(cfg, name, value)


def expected_class(hint: Any, known: Any) -> type | None:
    """The class of the configuration that a dict without `_cfg` stands for; None if there is no single one."""
    if is_cfg(known):
        return type(known)
    classes = [arm for arm in arms(hint) if is_cfg_class(arm)]
    return classes[0] if len(classes) == 1 else None


def _fields(cls: type) -> SchemaValidator:
    """The fields of a configuration class, made once; the context is a place and what the fields hold."""
    if "__cfg_validator__" not in cls.__dict__:
        fields = {
            name: cs.typed_dict_field(_function(_field, name, validator(hint)), required=False)
            for name, hint in field_types(cls).items()
        }
        schema = cs.typed_dict_schema(fields, extra_behavior="allow", extras_schema=_function(_unknown, cls))
        type.__setattr__(cls, "__cfg_validator__", SchemaValidator(schema))
    return cls.__dict__["__cfg_validator__"]


def _field(name: str, accepts: SchemaValidator, value: Any, info: Any) -> Any:
    place, known = info.context
    return run(accepts, value, place._replace(data=value, known=known.get(name, MISSING), others=()))


def _unknown(cls: type, value: Any, info: Any) -> Any:
    raise PydanticCustomError("unknown", "no field", {"cls": cls, "others": info.context[0].others})


def _said(what: str, fix: str = "") -> PydanticCustomError:
    """An error whose sentence is complete."""
    return PydanticCustomError("said", "a sentence", {"what": what, "fix": fix})


def _mismatch(value: Any, hint: Any, known: Any, what: str = "") -> PydanticCustomError:
    """An error that `messages` explains by the value and its annotation."""
    context = {"value": value, "hint": hint, "known": known, "what": what}
    return PydanticCustomError("mismatch", "another type", context)


# ------------------------------------------------------------------------------------------- annotation to validator


def _function(function: Callable[..., Any], *args: Any) -> CoreSchema:
    return cs.with_info_plain_validator_function(functools.partial(function, *args))


def _schema(hint: Any) -> CoreSchema:
    return cs.with_info_wrap_validator_function(functools.partial(_node, hint), _accepts(hint))


def _accepts(hint: Any) -> CoreSchema:
    """What pydantic, or a function of this module, accepts under an annotation; `_node` goes around it."""
    (plain, metadata), (origin, _) = simplify(hint), parts(hint)
    bounds = tuple(item for item in metadata if isinstance(item, Range))
    if len(options := arms(hint)) > 1:
        order = [*_SCALARS]
        options = sorted(options, key=lambda arm: order.index(kind) if (kind := simplify(arm)[0]) in order else 9)
        return _function(_union, [validator(_within(arm, bounds)) for arm in options])
    if is_anything(plain):
        return _function(_anything)
    if is_cfg_class(plain):
        return _function(_cfg, hint)
    if is_callable_hint(plain):
        return _function(_callable, hint)
    if origin is Literal:
        return _function(_choice, typing.get_args(plain))
    if origin in (tuple, list, *SEQUENCES, *SETS, *MAPPINGS):
        return _container(*parts(hint), bounds)
    return _scalar(origin, bounds)


def _within(hint: Any, bounds: tuple[Range, ...]) -> Any:
    """The annotation of a part of something that has bounds: they are those of its numbers."""
    return Annotated[(hint, *bounds)] if bounds else hint


def _container(origin: Any, args: tuple[Any, ...], bounds: tuple[Range, ...]) -> CoreSchema:
    hints = [_within(arg, bounds) for arg in args or (Any, Any) if arg is not Ellipsis]
    if origin in MAPPINGS:
        return cs.dict_schema(_function(_key, validator(args[0] if args else Any)), _schema(hints[1]))
    if origin in SEQUENCES:
        return _function(_union, [validator(list[hints[0]]), validator(tuple[hints[0], ...])])
    if origin is collections.abc.Set:
        return _function(_union, [validator(set[hints[0]]), validator(frozenset[hints[0]])])
    if origin is tuple and args and Ellipsis not in args:
        schema = cs.tuple_schema([_schema(item) for item in hints])
        return cs.no_info_before_validator_function(functools.partial(_of_length, len(args)), schema)
    if origin is tuple:
        return cs.tuple_schema([_schema(hints[0])], variadic_item_index=0)
    make = {list: cs.list_schema, set: cs.set_schema, frozenset: cs.frozenset_schema}
    return make[origin](_schema(hints[0]))


def _scalar(kind: Any, bounds: tuple[Range, ...]) -> CoreSchema:
    if kind in (int, float):
        limits = [{"gt": item.gt, "ge": item.ge, "lt": item.lt, "le": item.le} for item in bounds or (Range(),)]
        schema = cs.chain_schema([_SCALARS[kind](strict=True, **limit) for limit in limits])
        endless = any(bound in (math.inf, -math.inf) for limit in limits for bound in limit.values())
        return (
            cs.with_info_wrap_validator_function(functools.partial(_float, endless), schema)
            if kind is float
            else schema
        )
    if kind in _SCALARS:
        return _SCALARS[kind]() if kind is types.NoneType else _SCALARS[kind](strict=True)
    if not isinstance(kind, type) or getattr(kind, "_is_protocol", False):
        return cs.any_schema()  # only a type checker can tell
    return cs.with_info_before_validator_function(functools.partial(_from_text, kind), cs.is_instance_schema(kind))


# ---------------------------------------------------------------------------------------------- values, one at a time


def _node(hint: Any, value: Any, handler: Any, info: Any) -> Any:
    """Around every value at every depth: MISSING, marks and roles; errors of pydantic get the annotation."""
    place: Place = info.context
    known = place.known if value is place.data else MISSING
    if value is MISSING:
        if place.finished:
            raise _mismatch(value, hint, known)
        return MISSING
    if place.reading and isinstance(value, str) and value == MISSING_TEXT:
        return MISSING
    try:
        if not place.reading:
            handler(value)
            return value
        found = _read(hint, value, handler, place)
    except ValidationError as error:
        if error.error_count() == 1:
            only = error.errors(include_url=False)[0]
            if only["type"] not in ("said", "mismatch", "unknown"):
                what = only["msg"] if only["type"] == "length" else ""
                raise _mismatch(only["input"], hint, known, what) from None
        raise
    if place.has_roles and (problem := role_problem(found, hint, known)):
        raise _said(*problem)
    return found


def _union(options: list[SchemaValidator], value: Any, info: Any) -> Any:
    attempts: list[ValidationError] = []
    for option in options:
        try:
            return run(option, value, info.context)
        except ValidationError as error:
            attempts.append(error)
    # Something wrong below the value itself, or a name that leads nowhere, tells which member was meant.
    for error in attempts:
        if all(item["loc"] or item["type"] == "said" for item in error.errors(include_url=False)):
            raise error
    raise PydanticCustomError("union", "no member fits")


def _anything(value: Any, info: Any) -> Any:
    place: Place = info.context
    has_class = isinstance(value, Mapping) and (CLASS_KEY in value or (value is place.data and is_cfg(place.known)))
    if place.reading and has_class:
        return _read_cfg(Any, value, place)
    if is_cfg(value):
        return _cfg(Any, value, info)
    for kind, hint in ((list, list[Any]), (tuple, tuple[Any, ...]), (dict, dict[Any, Any])):
        if isinstance(value, kind):
            return run(_inside_anything(hint), value, place)
    return value


@functools.cache
def _inside_anything(hint: Any) -> SchemaValidator:
    return SchemaValidator(_accepts(hint))


def _cfg(hint: Any, value: Any, info: Any) -> Any:
    if info.context.reading:
        return _read_cfg(hint, value, info.context)
    if not is_cfg(value) or not isinstance(value, object if is_anything(hint) else simplify(hint)[0]):
        raise PydanticCustomError("cfg", "another class")
    if info.context.finished:
        check_cfg(value)
    return value


def _callable(hint: Any, value: Any, info: Any) -> Any:
    plain, found = simplify(hint)[0], value
    if is_reference(value):
        found = _resolve(value, packages_for(hint) if info.context.reading else ())
    if plain is type or typing.get_origin(plain) is type:
        roles = tuple(kind for arg in typing.get_args(plain) for kind in arms(arg) if isinstance(kind, type))
        is_right = isinstance(found, type) and (not roles or issubclass(found, roles))
    else:
        is_right = callable(found) and not is_cfg(found)
    if not is_right:
        raise PydanticCustomError("callable", "another role")
    return found


def _choice(choices: Sequence[Any], value: Any, info: Any) -> Any:
    if not any(value == choice and type(value) is type(choice) for choice in choices):
        raise PydanticCustomError("choice", "none of the choices")
    return value


def _key(accepts: SchemaValidator, value: Any, info: Any) -> Any:
    """Keys are as they are in plain data too."""
    return run(accepts, value, Place(finished=info.context.finished))


def _of_length(length: int, value: Any) -> Any:
    if isinstance(value, list | tuple) and len(value) != length:
        raise PydanticCustomError("length", f"got length {len(value)}, expected {length}")  # pyright: ignore
    return value


def _float(endless: bool, value: Any, handler: Any, info: Any) -> Any:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise PydanticCustomError("float", "no number of Python")
    try:
        number = float(value)
    except OverflowError:
        raise _said("got an integer that no float can hold, expected a finite number", _LARGEST) from None
    if info.context.finished and not endless and not math.isfinite(number):
        raise _said(f"got {value}, expected a finite number", _LARGEST)
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


# --------------------------------------------------------------------------------------------------------- plain data


def _read(hint: Any, value: Any, handler: Any, place: Place) -> Any:
    """What plain data stands for under an annotation."""
    is_marked = isinstance(value, dict) and len(value) == 1 and next(iter(value)) in MARKS
    if not is_marked and (value is None or isinstance(value, Mapping | list | str | int | float)):
        return handler(value)
    found = _unmark(value, hint, place) if is_marked else value
    return run(validator(hint), found, Place(found, place.known if value is place.data else MISSING))


def _unmark(data: dict[str, Any], hint: Any, place: Place) -> Any:
    mark, content = next(iter(data.items()))
    if isinstance(content, list):
        items = run(_inside_anything(list[Any]), content, place)
        with contextlib.suppress(TypeError):  # a list can be no entry of a set and no key
            if mark in CONTAINERS:
                return CONTAINERS[mark](items)
            if mark == DICT_KEY and all(isinstance(pair, list) and len(pair) == 2 for pair in items):
                return dict(items)
    elif isinstance(content, str):
        if mark == REFERENCE_KEY:
            return _resolve(content, packages_for(hint))
        if mark in ("_path", "_str"):
            return Path(content) if mark == "_path" else content
    raise _said(f"{mark!r} marks what to_dict wrote, and {show(content)} is nothing that it writes", "remove the mark")


def _read_cfg(hint: Any, data: Any, place: Place) -> Any:
    """A configuration from its fields or the name of its class, merged into the one there if the class is the same."""
    known = place.known if data is place.data else MISSING
    fields = data if isinstance(data, Mapping) else {CLASS_KEY: data} if is_reference(data) else {}
    cls = expected_class(hint, known) if fields is data or fields else None
    if CLASS_KEY in fields:
        cls = _resolve(fields[CLASS_KEY], None if is_anything(simplify(hint)[0]) else ())
    roles = tuple(arm for arm in arms(hint) if is_cfg_class(arm))
    if not is_cfg_class(cls) or (roles and not issubclass(cls, roles)):
        raise PydanticCustomError("cfg", "another class")
    cfg = known if type(known) is cls else cls()
    assign(cfg, {key: item for key, item in fields.items() if key != CLASS_KEY}, place)
    return cfg


def _resolve(reference: Any, packages: tuple[str, ...] | None) -> Any:
    try:
        return resolve(reference, packages)
    except ConfigError as error:
        raise _said(str(error)) from None
