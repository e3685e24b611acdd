"""Validators of annotations, built on pydantic: they check values, and convert plain data.

Pydantic walks containers, compares scalars with types and bounds, and collects errors with their places. Our own code
covers what it does not know (configurations, references, MISSING, marks of plain data) or accepts too leniently: to it
True is the choice 1, a NumPy scalar a float, and a value that fits no member of a union has one error for each of them.
"""

from __future__ import annotations

import collections.abc
import contextlib
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic_core import CoreSchema, InitErrorDetails, SchemaValidator, ValidationError
from pydantic_core import core_schema as cs

from .errors import contradiction
from .fields import MISSING, Range, field_types
from .hints import (
    MAPPINGS,
    SEQUENCES,
    SETS,
    arms,
    expected_class,
    is_anything,
    is_cfg,
    is_cfg_class,
    parts,
    show,
    simplify,
)
from .references import is_reference
from .roles import packages_for, role_problem
from .scalars import SCALARS, Fault, Place, calls, mismatch, of_length, resolve_or_refuse, run, scalar, sentence

CLASS_KEY, REFERENCE_KEY, DICT_KEY, MISSING_TEXT = "_cfg", "_ref", "_dict", "???"
CONTAINERS: dict[str, type] = {"_tuple": tuple, "_set": set, "_frozenset": frozenset}
_MARKS = {REFERENCE_KEY, DICT_KEY, "_path", "_str", *CONTAINERS}


def validator(hint: Any) -> SchemaValidator:
    """Return the validator of an annotation; its context is a `Place`."""
    return SchemaValidator(_schema(hint))


def fits(value: Any, hint: Any) -> bool:
    """Return True if a value is valid under an annotation."""
    with contextlib.suppress(ValidationError):
        run(validator(hint), value, Place(finished=True))
        return True
    return False


def check_cfg(cfg: Any) -> None:
    """Raise a ValidationError that lists all errors in a configuration and below it."""
    cls, hints = type(cfg), field_types(type(cfg))
    values = {name: getattr(cfg, name) for name in hints}
    _fields(cls).validate_python(values, strict=True, context=(Place(finished=True), cls.__cfg_defaults__))
    # Contradictions are only looked for between values that are right by themselves.
    lines: list[InitErrorDetails] = []
    for text in cfg.check():
        problem = contradiction(text, hints)
        place = tuple(problem.path.split(".")) if problem.path else ()
        lines.append({"type": sentence(problem.what), "loc": place, "input": cfg})
    if lines:
        raise ValidationError.from_exception_data(cls.__qualname__, lines)


def assign(cfg: Any, fields: Mapping[Any, Any], place: Place) -> None:
    """Set the fields that plain data names; nested configurations are merged, everything else is replaced."""
    named = {str(key).encode(errors="replace").decode(): item for key, item in fields.items()}
    for name, value in _fields(type(cfg)).validate_python(named, context=(place, vars(cfg))).items():
        setattr(cfg, name, value)


def _fields(cls: type) -> SchemaValidator:
    """Return the validator of a configuration's fields, built once; the context is a place and the current values."""
    if "__cfg_validator__" not in cls.__dict__:
        hints = field_types(cls)
        fields = {
            name: cs.typed_dict_field(calls(_field, name, validator(hints[name])), required=False) for name in hints
        }
        schema = cs.typed_dict_schema(fields, extra_behavior="allow", extras_schema=calls(_unknown, cls))
        type.__setattr__(cls, "__cfg_validator__", SchemaValidator(schema))
    return cls.__dict__["__cfg_validator__"]


def _field(name: str, accepts: SchemaValidator, value: Any, info: Any) -> Any:
    place, known = info.context
    return run(accepts, value, place._replace(data=value, known=known.get(name, MISSING)))


def _unknown(cls: type, value: Any, info: Any) -> Any:
    raise Fault(value, cls).error("unknown")


def _schema(hint: Any) -> CoreSchema:
    return cs.with_info_wrap_validator_function(functools.partial(_node, hint), _accepts(hint))


def _accepts(hint: Any) -> CoreSchema:
    """Return the pydantic schema of an annotation, or a function of this module; `_node` wraps it."""
    (plain, metadata), (origin, args) = simplify(hint), parts(hint)
    bounds = tuple(item for item in metadata if isinstance(item, Range))
    if len(options := arms(hint)) > 1:
        order = [*SCALARS]
        options = sorted(options, key=lambda arm: order.index(kind) if (kind := simplify(arm)[0]) in order else 9)
        return calls(_union, [validator(_within(arm, bounds)) for arm in options])
    if is_anything(plain):
        return calls(_anything, bounds)
    if is_cfg_class(plain):
        return calls(_cfg, hint)
    if origin in (tuple, list, *SEQUENCES, *SETS, *MAPPINGS):
        return _container(origin, args, [_within(arg, bounds) for arg in args or (Any, Any) if arg is not Ellipsis])
    return scalar(hint, bounds)


def _within(part: Any, bounds: tuple[Range, ...]) -> Any:
    """Add the bounds of an annotation to a part of it: they are those of its numbers."""
    return Annotated[(part, *bounds)] if bounds else part


def _container(origin: Any, args: tuple[Any, ...], hints: list[Any]) -> CoreSchema:
    if origin in SEQUENCES:
        return calls(_union, [validator(list[hints[0]]), validator(tuple[hints[0], ...])])
    if origin is collections.abc.Set:
        return calls(_union, [validator(set[hints[0]]), validator(frozenset[hints[0]])])
    if origin in MAPPINGS:
        return cs.dict_schema(calls(_key, validator(args[0] if args else Any)), _schema(hints[1]))
    if origin is tuple and args and Ellipsis not in args:
        schema = cs.tuple_schema([_schema(item) for item in hints])
        return cs.no_info_before_validator_function(functools.partial(of_length, len(args)), schema)
    if origin is tuple:
        return cs.tuple_schema([_schema(hints[0])], variadic_item_index=0)
    make = {list: cs.list_schema, set: cs.set_schema, frozenset: cs.frozenset_schema}
    return make[origin](_schema(hints[0]))


def _node(hint: Any, value: Any, handler: Any, info: Any) -> Any:
    """Validate any value at any depth: MISSING, marks and roles; pydantic's errors get the annotation."""
    place: Place = info.context
    if value is MISSING and place.finished:
        raise Fault(value, hint).error("mismatch")
    if value is MISSING or (place.reading and isinstance(value, str) and value == MISSING_TEXT):
        return MISSING
    known = place.known_for(value)
    try:
        found = _read(hint, value, handler, place) if place.reading else handler(value)
    except ValidationError as error:
        only = error.errors(include_url=False)[0] if error.error_count() == 1 else None
        if only is None or "fault" in only.get("ctx", ()):
            raise
        what = only["msg"] if only["type"] == "length" else ""
        raise Fault(only["input"], hint, known, what).error("mismatch") from None
    if not place.reading:
        return value  # what pydantic returns is a copy
    if problem := role_problem(found, hint, known):
        raise sentence(*problem)
    return found


def _union(options: list[SchemaValidator], value: Any, info: Any) -> Any:
    attempts: list[ValidationError] = []
    names_fields = _names_fields(value, info.context)
    for option in options:
        try:
            return run(option, value, info.context)
        except ValidationError as error:
            if names_fields and all(found["loc"] for found in error.errors(include_url=False)):
                raise
            attempts.append(error)
    # Something wrong below the value itself, or a name that leads nowhere, tells which member was meant.
    for error in attempts:
        if all(found["loc"] or found["type"] == "sentence" for found in error.errors(include_url=False)):
            raise error
    raise mismatch()


def _names_fields(value: Any, place: Place) -> bool:
    """Return True if plain data names fields of the configuration that it changes, unlike any other dictionary."""
    known = place.known_for(value) if place.reading and isinstance(value, Mapping) and value else None
    return is_cfg(known) and value.keys() <= field_types(type(known)).keys()


def _anything(bounds: tuple[Range, ...], value: Any, info: Any) -> Any:
    place: Place = info.context
    is_named = isinstance(value, Mapping) and (CLASS_KEY in value or is_cfg(place.known_for(value)))
    if is_cfg(value) or (place.reading and is_named):
        return _cfg(Any, value, info)
    part: Any = _within(Any, bounds)
    for kind, hint in ((list, list[part]), (tuple, tuple[part, ...]), (dict, dict[Any, part])):
        if isinstance(value, kind):
            return run(_of_anything(hint), value, place)
    return (
        run(validator(_within(type(value), bounds)), value, place) if bounds and type(value) in (int, float) else value
    )


@functools.cache
def _of_anything(hint: Any) -> SchemaValidator:
    return SchemaValidator(_accepts(hint))


def _key(accepts: SchemaValidator, value: Any, info: Any) -> Any:
    """Validate a key, which is plain data too."""
    return run(accepts, value, Place(finished=info.context.finished))


def _cfg(hint: Any, value: Any, info: Any) -> Any:
    """Validate a configuration; plain data gives its fields or the name of its class, and is merged if possible."""
    place: Place = info.context
    roles = tuple(arm for arm in arms(hint) if is_cfg_class(arm)) or (object,)
    if not place.reading:
        if not is_cfg(value) or not isinstance(value, roles):
            raise mismatch()
        if place.finished:
            check_cfg(value)
        return value
    fields = {CLASS_KEY: value} if is_reference(value) else value
    if not isinstance(fields, Mapping):
        raise mismatch()
    known = place.known_for(value)
    cls = expected_class(hint, known)
    if CLASS_KEY in fields:
        cls = resolve_or_refuse(fields[CLASS_KEY], None if is_anything(simplify(hint)[0]) else ())
    if not is_cfg_class(cls) or not issubclass(cls, roles):
        raise mismatch()
    cfg = known if type(known) is cls else cls()
    assign(cfg, {key: item for key, item in fields.items() if key != CLASS_KEY}, place)
    return cfg


def _read(hint: Any, value: Any, handler: Any, place: Place) -> Any:
    """Convert plain data to a value of an annotation."""
    is_marked = isinstance(value, dict) and len(value) == 1 and next(iter(value)) in _MARKS
    if not is_marked and (value is None or isinstance(value, Mapping | list | str | int | float)):
        return handler(value)
    found = _unmark(*next(iter(value.items())), hint, place) if is_marked else value
    return run(validator(hint), found, Place(found, place.known_for(value)))


def _unmark(mark: str, content: Any, hint: Any, place: Place) -> Any:
    if isinstance(content, list):
        items = run(_of_anything(list[Any]), content, place)
        with contextlib.suppress(TypeError):  # a list can be no entry of a set and no key
            if mark in CONTAINERS:
                return CONTAINERS[mark](items)
            if mark == DICT_KEY and all(isinstance(pair, list) and len(pair) == 2 for pair in items):
                return dict(items)
    elif isinstance(content, str):
        if mark == REFERENCE_KEY:
            return resolve_or_refuse(content, packages_for(hint))
        if mark in ("_path", "_str"):
            return Path(content) if mark == "_path" else content
    what = f"{mark!r} marks what to_dict wrote, and {show(content)} is nothing that it writes"
    raise sentence(what, "remove the mark")
