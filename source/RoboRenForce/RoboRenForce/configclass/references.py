"""Classes and functions as text, `module:name`, and back."""

from __future__ import annotations

import importlib
import re
import sys
from typing import Any, TypeGuard

from .errors import ConfigError, did_you_mean

_REFERENCE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")


def is_reference(text: Any) -> TypeGuard[str]:
    """Whether `text` has the form `module:name`."""
    return isinstance(text, str) and _REFERENCE.fullmatch(text) is not None


def resolve(reference: str) -> Any:
    """Import what `module:name` names; the name may be dotted.

    Raises:
        ConfigError: the text has another form, the module can't be imported, or it has no such name.
    """
    if not is_reference(reference):
        raise ConfigError(f"{reference!r} is no reference: write 'module:name', for example 'torch.nn:ELU'.")
    module_name, _, name = reference.partition(":")
    try:  # built-in modules such as torch._C._nn are loaded but have no file to import them from
        found: Any = sys.modules.get(module_name) or importlib.import_module(module_name)
    except ImportError as error:
        raise ConfigError(
            f"{reference!r} can't be imported ({error}): check the module's name or install it."
        ) from error
    for part in name.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            names = [known for known in dir(found) if not known.startswith("_")]
            raise ConfigError(f"{reference!r} can't be found in {module_name}: {did_you_mean(part, names)}") from None
    return found


def reference_to(value: Any) -> str:
    """`module:name` of a class or function.

    Raises:
        ConfigError: the name does not lead back to the same object, as for lambdas.
    """
    module = getattr(value, "__module__", None)
    # The qualified name of C functions may name a hidden class (torch.relu), hence the second attempt.
    for name in (getattr(value, "__qualname__", None), getattr(value, "__name__", None)):
        reference = f"{module}:{name}"
        if module is None or name is None or not is_reference(reference):
            continue
        try:
            found = resolve(reference)
        except ConfigError:
            continue
        if found is value or found == value:
            return reference
    raise ConfigError(f"{value!r} can't be written as 'module:name': define it by name at the top level of a module.")
