"""Classes and functions as text, and back: `module:name`, or `/path/script.py:name` for definitions of a script.

Text of a program, or typed by its user, is as trusted as the program: `resolve` imports what it names. While a file is
read, `trust.only` puts an allow-list between the text and the imports.
"""

from __future__ import annotations

import contextlib
import importlib
import re
import shlex
import sys
from contextvars import ContextVar
from pathlib import Path
from types import ModuleType
from typing import Any, TypeGuard

from .errors import ConfigError, did_you_mean

_REFERENCE = re.compile(r"([A-Za-z_][\w.]*|[^\n]*\.py):[A-Za-z_][\w.]*")


limit: ContextVar[Any] = ContextVar("limit", default=None)
"""The `trust.AllowList` that `resolve` asks instead of importing; None: everything may be imported."""


def is_reference(text: Any) -> TypeGuard[str]:
    """Return True if `text` has the form `module:name` or `script.py:name`."""
    return isinstance(text, str) and _REFERENCE.fullmatch(text) is not None


def resolve(reference: str, packages: tuple[str, ...] | None = ()) -> Any:
    """Return the object that a reference names (the name may be dotted); a ConfigError explains a failure.

    With an allow-list in force, `packages` are covered besides its own; None: the field expects no class or function,
    so only objects of the trusted configuration are found.
    """
    if not is_reference(reference):
        raise ConfigError(f"{reference!r} is no reference: write 'module:name', for example 'torch.nn:ELU'.")
    allowed = limit.get()
    return load(reference) if allowed is None else allowed.find(reference, packages)


def load(reference: str) -> Any:
    """Return the object that a reference names, without an allow-list."""
    place, _, name = reference.rpartition(":")
    found: Any = find_module(reference)
    for part in name.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            names = [known for known in dir(found) if not known.startswith("_")]
            raise ConfigError(f"{reference!r} can't be found in {place}: {did_you_mean(part, names)}") from None
    return found


def find_module(reference: str) -> ModuleType:
    """Return the module (imported if necessary) or the running script that a reference starts with."""
    place = reference.rpartition(":")[0]
    main = sys.modules["__main__"]
    if place.endswith(".py"):
        if (script := main_script()) is not None and script.name == Path(place).name:
            return main
        raise ConfigError(
            f"{reference!r} is known to that script only, which is not running: give your command to "
            f"`python {shlex.quote(place)}`, or define it in a module that can be imported."
        )
    if place == main_module():
        return main
    try:  # built-in modules such as torch._C._nn are loaded but have no file to import them from
        return sys.modules.get(place) or importlib.import_module(place)
    except ImportError as error:
        raise ConfigError(
            f"{reference!r} can't be imported ({error}): check the module's name or install it."
        ) from error


def main_module() -> str | None:
    """Return the name of the module that runs as `python -m name`; None for a script, which can't be imported."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return None if spec is None else spec.name


def main_script() -> Path | None:
    """Return the running script; None for `python -m`, installed commands and interactive sessions."""
    file = getattr(sys.modules["__main__"], "__file__", None)
    if file is None or main_module() is not None or not file.endswith(".py"):
        return None
    return Path(file).resolve()


def reference_to(value: Any) -> str:
    """Return the text that `resolve` turns into this class or function; raise a ConfigError if none does."""
    module = getattr(value, "__module__", None)
    if module == "__main__":  # says nothing in another process
        module = main_module() or main_script() or module
    # The qualified name of C functions may name a hidden class (torch.relu), hence the second attempt.
    for name in (getattr(value, "__qualname__", None), getattr(value, "__name__", None)):
        reference = f"{module}:{name}"
        if module is not None and name is not None and is_reference(reference):
            with contextlib.suppress(ConfigError):
                found = load(reference)
                if found is value or found == value:
                    return reference
    raise ConfigError(f"{value!r} can't be written as 'module:name': define it by name at the top level of a module.")
