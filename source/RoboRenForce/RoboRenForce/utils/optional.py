"""Optional packages: imported when needed, with the install command in the error if absent."""

from __future__ import annotations

import importlib
import importlib.util
from types import ModuleType

from .errors import MissingPackageError

CORE = "RoboRenForce"


def is_installed(module: str) -> bool:
    """Return True if a top-level module can be imported, without importing it."""
    return importlib.util.find_spec(module.partition(".")[0]) is not None


def install_line(extra: str | None, distribution: str, package: str = CORE) -> str:
    """Return the command that installs `distribution`, through an extra of one of our packages if possible."""
    return f'pip install "{package}[{extra}]"' if extra else f"pip install {distribution}"


def require_package(
    module: str, *, extra: str | None = None, purpose: str = "", distribution: str | None = None, package: str = CORE
) -> ModuleType:
    """Import an optional module.

    Args:
        module: Dotted name to import.
        extra: Extra of `package` that installs it; None if it is installed by its own name.
        purpose: Use of the module, as in "EnvPool tasks".
        distribution: Name on the package index, if it differs from the module's.
        package: Our package that has the extra.

    Raises:
        MissingPackageError: It is not installed; the message is one sentence with the install command.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        root = module.partition(".")[0]
        if error.name is None or error.name.partition(".")[0] != root:
            raise  # it is installed but one of its own imports fails: hiding that would mislead
        name = distribution or root
        need = f"{purpose} need{'' if purpose.endswith('s') else 's'} {name}" if purpose else f"{name} is needed"
        raise MissingPackageError(
            f"{need}, which is not installed: run `{install_line(extra, name, package)}`.", name=module
        ) from None
