"""Allow-list for names in files: a file is data and causes no import that its reader did not expect.

A file may name classes and functions that are defined, under public names, in RoboRenForce, in installed task packages
or in the running script; modules and activation functions of torch; and everything that the configuration it is read
into already holds. Names that are merely reachable through a module, such as its imports, are not covered. SECURITY.md
states the boundary.
"""

from __future__ import annotations

import contextlib
import enum
import inspect
import sys
import typing
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import entry_points
from pathlib import Path
from types import FunctionType
from typing import Any, NamedTuple

from .errors import ConfigError, did_you_mean
from .fields import ImportsModule, SubclassOf, field_types
from .hints import is_callable_hint, is_cfg, simplify
from .references import find_module, limit, load, main_module, main_script, reference_to

TASK_PACKAGES = "roborenforce.tasks"
"""Entry-point group by which task packages announce themselves."""

_ACTIVATION_MODULES = ("torch", "torch.nn.functional", "torch._C._nn")
_ACTIVATIONS = frozenset(
    [
        "celu",
        "elu",
        "gelu",
        "glu",
        "hardshrink",
        "hardsigmoid",
        "hardswish",
        "hardtanh",
        "leaky_relu",
        "log_softmax",
        "logsigmoid",
        "mish",
        "relu",
        "relu6",
        "selu",
        "sigmoid",
        "silu",
        "softmax",
        "softmin",
        "softplus",
        "softshrink",
        "softsign",
        "tanh",
        "tanhshrink",
    ]
)

_source_packages: set[str] = set()


def allow_package(module: str) -> None:
    """Allow a task package that is used from its source tree, where it has no entry point."""
    _source_packages.add(module)


def allowed_packages() -> set[str]:
    """Return RoboRenForce and the modules of installed task packages; each covers its submodules."""
    installed = {point.value.partition(":")[0] for point in entry_points(group=TASK_PACKAGES)}
    return {__name__.partition(".")[0], *installed, *_source_packages}


def is_covered(module: str, packages: Iterable[str]) -> bool:
    """Return True if a module is one of `packages` or below one, under public names."""
    below = any(module == package or module.startswith(f"{package}.") for package in packages)
    return below and not _is_private(module)


class AllowList(NamedTuple):
    """Names that a file may use besides installed ones: those that a trusted configuration holds."""

    objects: Mapping[str, Any]
    """Reference -> class or function."""
    texts: frozenset[str]
    """References that the trusted configuration holds as text."""
    in_role: frozenset[tuple[Any, Any]]
    """Role of a field and its value: accepted, even if Python code assigned it against its role."""
    everything: bool = False
    """True if the file is trusted: it may name anything, and only roles are checked."""

    @classmethod
    def of(cls, *configs: Any, everything: bool = False) -> AllowList:
        """Build the list of everything in these configurations, at every depth."""
        objects: dict[str, Any] = {}
        texts: set[str] = set()
        in_role: set[tuple[Any, Any]] = set()
        for value, roles in _everything_in(configs):
            in_role.update((role, value) for role in roles if isinstance(value, Hashable))
            if isinstance(value, str):
                texts.add(_key(value))
                continue
            with contextlib.suppress(ConfigError):  # a lambda: no text leads to it
                objects[_key(reference_to(value))] = value
        return cls(objects, frozenset(texts), frozenset(in_role), everything)

    def find(self, reference: str, packages: tuple[str, ...] | None = ()) -> Any:
        """Return the object that `reference` names, if allowed; the arguments are those of `resolve`.

        Raises:
            ConfigError: It is not allowed, or there is no such name.
        """
        key = _key(reference)
        token = limit.set(None)  # modules that are imported now are trusted to resolve what they like
        try:
            if key in self.objects:
                return self.objects[key]
            holder, _, member = key.rpartition(".")
            if isinstance(kind := self.objects.get(holder), enum.EnumMeta) and member in kind.__members__:
                return kind[member]
            if self.everything or key in self.texts:
                return load(reference)
            found = None if packages is None else _find_defined(reference, packages)
        finally:
            limit.reset(token)
        if found is None:
            raise ConfigError(f"a file may not name {reference!r}; {_REPAIR}")
        return found


_REPAIR = (
    "it may name classes of RoboRenForce, of installed task packages and of torch.nn, and what the task uses; "
    "give --trust (in Python trust=True) if you trust its author"
)


@contextmanager
def only(allowed: AllowList) -> Iterator[None]:
    """Limit `resolve` to an allow-list."""
    token = limit.set(allowed)
    try:
        yield
    finally:
        limit.reset(token)


def is_limited() -> bool:
    """Return True if text comes from a file that is not trusted."""
    allowed = limit.get()
    return isinstance(allowed, AllowList) and not allowed.everything


def is_held(value: Any, role: Any) -> bool:
    """Return True if a file is being read into a configuration that already holds this value in this role."""
    allowed = limit.get()
    return isinstance(allowed, AllowList) and isinstance(value, Hashable) and (role, value) in allowed.in_role


def refuses_module(text: str, packages: Iterable[str]) -> bool:
    """Return True if an allow-list is in force that keeps `module:rest` from importing its module.

    Args:
        text: Text with the module before its colon, if there is one.
        packages: Packages that may be imported besides those allowed everywhere.
    """
    module, colon, _ = text.rpartition(":")
    return is_limited() and bool(colon) and not is_covered(module, {*allowed_packages(), *packages})


def _find_defined(reference: str, packages: tuple[str, ...]) -> Any:
    """Return the class or function if it is defined where files may look; None otherwise."""
    place, _, name = reference.rpartition(":")
    if place in _ACTIVATION_MODULES and name in _ACTIVATIONS:
        return getattr(sys.modules.get(place), name, None)
    if _is_running(place):
        module, homes = sys.modules["__main__"], {"__main__"}
    elif is_covered(place, ["torch.nn"]):
        module, homes = sys.modules.get(place), {"torch.nn"}
    else:
        homes = {*allowed_packages(), *packages}
        module = find_module(reference) if is_covered(place, homes) else None
    if module is None or _is_private(name):
        return None
    found = _walk(module, name)
    if found is None and not hasattr(module, name.partition(".")[0]):
        known = [there for there in vars(module) if not there.startswith("_")]
        raise ConfigError(f"{reference!r} can't be found in {place}: {did_you_mean(name, known)}")
    if not isinstance(found, type | FunctionType):
        return None
    home = found.__module__ or ""
    if homes == {"torch.nn"} and not (isinstance(found, type) and issubclass(found, sys.modules["torch.nn"].Module)):
        return None
    at_home = home in homes or is_covered(home, homes)
    return found if at_home and _walk(sys.modules.get(home), found.__qualname__) is found else None


def _is_running(place: str) -> bool:
    script = main_script()
    return place in ("__main__", main_module()) or (
        script is not None and place.endswith(".py") and Path(place).name == script.name
    )


def _walk(found: Any, name: str) -> Any:
    """Look up a name of a module, or of a class in it, without lookups in modules and instances on the way."""
    first, *rest = name.split(".")
    found = getattr(found, first, None)
    for part in rest:
        found = inspect.getattr_static(found, part, None) if isinstance(found, type) else None
    return found


def _is_private(name: str) -> bool:
    return any(part.startswith("_") for part in name.split("."))


def _key(reference: str) -> str:
    """Return the form in which references are compared: a script counts by its file name, wherever it is now."""
    place, colon, name = reference.rpartition(":")
    if place == "__main__":
        place = main_module() or str(main_script() or place)
    return f"{Path(place).name if place.endswith('.py') else place}{colon}{name}"


def _everything_in(configs: Iterable[Any]) -> Iterator[tuple[Any, tuple[Any, ...]]]:
    """Yield classes, functions and references at every depth, with the roles that their fields give them."""
    waiting: list[tuple[Any, tuple[Any, ...]]] = [(config, ()) for config in configs]
    seen: set[int] = set()
    while waiting:
        value, roles = waiting.pop()
        if isinstance(value, str):
            if roles:
                yield value, roles
        elif isinstance(value, type) or callable(value):
            yield value, roles
        elif isinstance(value, enum.Enum):
            yield type(value), ()
        elif id(value) not in seen:
            seen.add(id(value))
            if is_cfg(value):
                yield type(value), ()
                hints = field_types(type(value))
                waiting += [(getattr(value, name), tuple(_roles_in(hint))) for name, hint in hints.items()]
            elif isinstance(value, Mapping):
                waiting += [(item, roles) for pair in value.items() for item in pair]
            elif isinstance(value, list | tuple | set | frozenset):
                waiting += [(item, roles) for item in value]


def _roles_in(hint: Any) -> Iterator[Any]:
    """Yield the roles in an annotation, at any depth; a bare class or callable is a role of its own."""
    plain, metadata = simplify(hint)
    yield from (item for item in metadata if isinstance(item, SubclassOf | ImportsModule))
    if is_callable_hint(plain):
        yield Callable
    else:
        for inner in typing.get_args(plain):
            yield from _roles_in(inner)
