"""Field types: the MISSING mark, numeric ranges, and the evaluation of annotations."""

from __future__ import annotations

import builtins
import dataclasses
import inspect
import sys
import types
import typing
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from annotated_types import Interval


class _Missing:
    """The type of MISSING."""

    def __reduce__(self) -> str:
        return "MISSING"  # what `copy` and `pickle` take as: this very object

    def __bool__(self) -> Literal[False]:
        return False

    def __repr__(self) -> str:
        return "MISSING"


CLASS_FIELD = "class_type"
"""Name of the field with the class that a configuration builds; text may name subclasses of its default."""

MISSING: Any = _Missing()
"""Default of a field that must be given before the configuration is used."""


@dataclass(frozen=True)
class Range(Interval):
    """Bounds of a number, used as `Annotated[float, Range(gt=0, le=1)]`."""

    gt: float | None = None
    ge: float | None = None
    lt: float | None = None
    le: float | None = None

    def __str__(self) -> str:
        bounds = ((">=", self.ge), (">", self.gt), ("<=", self.le), ("<", self.lt))
        given = {sign: bound for sign, bound in bounds if bound is not None}
        texts = {sign: str(bound) if isinstance(bound, int) else f"{bound:g}" for sign, bound in given.items()}
        return " and ".join(f"{sign} {text}" for sign, text in texts.items())


@dataclass(frozen=True)
class SubclassOf:
    """Role of a reference: `Annotated[Callable[..., Any], SubclassOf(Wrapper)]`. Python code may assign anything."""

    base: Any
    """The class, or a reference to it."""
    packages: tuple[str, ...] = ()
    """Packages whose classes a file may name here, besides those that `trust` covers everywhere."""


@dataclass(frozen=True)
class ImportsModule:
    """Role of text that may start with `module:`, which is imported: `Annotated[str, ImportsModule()]`."""

    packages: tuple[str, ...] = ()
    """Packages whose modules a file may name here, besides those that `trust` covers everywhere."""
    refused: tuple[str, ...] = ()
    """Texts that a file may not contain here: names that import whatever other settings say."""


class _Unknown:
    """Placeholder for a name that exists only for type checkers; it and everything in it is not checked."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return Any


class _LenientNames(dict[str, Any]):
    """Names for annotations that mention modules imported only under `TYPE_CHECKING`."""

    def __missing__(self, name: str) -> Any:
        return vars(builtins).get(name, _Unknown())


def is_class_var(annotation: Any) -> bool:
    """Return True if an annotation (possibly a string) declares a class variable rather than a field."""
    if isinstance(annotation, str):
        return annotation.replace("typing.", "").startswith("ClassVar")
    return annotation is typing.ClassVar or typing.get_origin(annotation) is typing.ClassVar


def _evaluate(annotation: Any, names: dict[str, Any]) -> Any:
    """Evaluate an annotation to a type."""
    holder: Any = types.SimpleNamespace(__annotations__={"field": annotation})
    try:
        return typing.get_type_hints(holder, {}, names, include_extras=True)["field"]
    except (NameError, AttributeError):
        hint = typing.get_type_hints(holder, {}, _LenientNames(names), include_extras=True)["field"]
        return Any if isinstance(hint, _Unknown) else hint


def field_names(cls: type) -> list[str]:
    """Return the names of the fields of a config class, base classes first."""
    return [field.name for field in dataclasses.fields(cls)]


def field_types(cls: type) -> dict[str, Any]:
    """Return field name -> type with its `Annotated` metadata, for every field of a config class.

    Annotations are evaluated on first use, in the module of the class that declares them, so they may name classes
    that are defined later.
    """
    if "__cfg_types__" not in cls.__dict__:
        found: dict[str, Any] = {}
        for owner in reversed(cls.__mro__):
            body = owner.__dict__
            names = {
                **vars(sys.modules.get(owner.__module__, types)),
                **body.get("__cfg_names__", {}),
                owner.__name__: owner,
            }
            for name, annotation in body.get("__cfg_declared__", {}).items():
                found[name] = _evaluate(annotation, names)
        found = {name: found[name] for name in field_names(cls)}
        if CLASS_FIELD in found and (kind := cls.__dict__["__cfg_defaults__"].get(CLASS_FIELD)):
            found[CLASS_FIELD] = Annotated[found[CLASS_FIELD], SubclassOf(kind)]
        type.__setattr__(cls, "__cfg_types__", found)
    return cls.__dict__["__cfg_types__"]


def declared_cfg(target: Any) -> type:
    """Return the class of the configuration that a class declares by `cfg: SomeCfg`; `object` if it declares none."""
    for owner in inspect.getmro(target) if isinstance(target, type) else ():
        if (annotation := inspect.get_annotations(owner).get("cfg")) is not None:
            found = _evaluate(annotation, vars(sys.modules[owner.__module__]))
            return found if hasattr(found, "__cfg_defaults__") else object
    return object
