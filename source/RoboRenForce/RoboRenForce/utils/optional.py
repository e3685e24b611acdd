"""Optional packages: imported where they are needed, with the install line in the error when they are absent."""

from __future__ import annotations

import importlib
import importlib.util
from types import ModuleType

from .errors import MissingPackageError

CORE = "RoboRenForce"


def is_installed(module: str) -> bool:
    """Whether a top-level module can be imported, without importing it."""
    return importlib.util.find_spec(module.partition(".")[0]) is not None


def install_line(extra: str | None, distribution: str, package: str = CORE) -> str:
    """The command that installs `distribution`, through an extra of one of our packages if there is one."""
    return f'pip install "{package}[{extra}]"' if extra else f"pip install {distribution}"


def require_package(
    module: str, *, extra: str | None = None, purpose: str = "", distribution: str | None = None, package: str = CORE
) -> ModuleType:
    """Import an optional module.

    Args:
        module: dotted name to import.
        extra: the extra of `package` that brings it; None if it is installed by its own name.
        purpose: what it is needed for, as in "EnvPool tasks".
        distribution: name on the package index where it differs from the module's.
        package: the package of ours that has the extra.

    Raises:
        MissingPackageError: it is not installed; the message is one sentence with the install line.
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
