"""Roles of fields: the classes and functions that text may name, by annotation."""

from __future__ import annotations

from typing import Any

from .errors import ConfigError
from .fields import MISSING, ImportsModule, SubclassOf
from .hints import arms, is_callable_hint, show, simplify
from .references import is_reference, load, resolve
from .trust import is_held, is_limited, refuses_module

_FIX = "give it on the command line, or read the file with --trust"


def packages_for(hint: Any) -> tuple[str, ...] | None:
    """Return the packages in which text may name an object for this annotation; None if it asks for no class."""
    options = arms(hint)
    if not any(is_callable_hint(simplify(arm)[0]) for arm in options):
        return None
    roles = [role for arm in (hint, *options) for role in simplify(arm)[1] if isinstance(role, SubclassOf)]
    return tuple(package for role in roles for package in role.packages)


def role_problem(value: Any, hint: Any, known: Any) -> tuple[str, str] | None:
    """Return why a value that came as text violates the role of its annotation, and the fix; None if it does not.

    `known` is the current value of the field, which is accepted.
    """
    is_text = isinstance(value, str)
    if value is MISSING or value is None or value is known or (is_text and value == known):
        return None
    try:
        for role in simplify(hint)[1]:
            if is_held(value, role):
                return None
            if isinstance(role, ImportsModule) and is_text:
                if refuses_module(value, role.packages):
                    return f"got {value!r}, and a file may not import {value.rpartition(':')[0]!r}", _FIX
                if is_limited() and any(part in value for part in role.refused):
                    return f"got {value!r}, which imports what its arguments name, and a file may not have it", _FIX
            if isinstance(role, SubclassOf):
                found = resolve(value, role.packages) if is_reference(value) else value
                base = load(role.base) if isinstance(role.base, str) else role.base
                if isinstance(base, type) and not (isinstance(found, type) and issubclass(found, base)):
                    return f"got {show(found)}, expected a class derived from {base.__name__}", ""
        if is_limited() and is_reference(value) and (packages := packages_for(hint)) is not None:
            resolve(value, packages)  # text where the annotation takes text too: whoever builds from it will resolve it
    except ConfigError as error:
        return str(error), ""
    return None
