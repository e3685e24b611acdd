"""Placeholder for the `EnvSpec` of a run without environment: any access explains the error."""

from __future__ import annotations

from typing import Any, cast

from ..utils.errors import ConfigError
from .spec import EnvSpec


class _NoSpec:
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # asked by `copy` and `pickle`, which take that as "has none"
            raise AttributeError(name)
        raise ConfigError(
            f"The learner asks for the {name} of an environment, and this run has none: let its data state a spec, or "
            "use a runner that steps an environment."
        )

    def __repr__(self) -> str:
        return "no environment"


NO_SPEC = cast(EnvSpec, _NoSpec())
"""Placeholder that raises a ConfigError on any access."""
