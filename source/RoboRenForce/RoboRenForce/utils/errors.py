"""Errors with a sentence for the user: what, got, expected, fix.

Scripts catch `UserError` only, print its message and exit with 1; anything else is our defect and keeps its traceback.
"""

from __future__ import annotations

from ..configclass.errors import ConfigError, Problem, UserError, did_you_mean, nearest

__all__ = [
    "CheckpointError",
    "ConfigError",
    "DivergedError",
    "EnvContractError",
    "HangError",
    "MissingPackageError",
    "NonFiniteError",
    "NotEnoughMemory",
    "Problem",
    "ProcessesLostError",
    "RunDirectoryError",
    "RunLockedError",
    "SpecMismatch",
    "UnknownTaskError",
    "UserError",
    "did_you_mean",
    "nearest",
]


class MissingPackageError(UserError, ImportError):
    """An optional package is needed but not installed."""


class NotEnoughMemory(UserError, ValueError):  # noqa: N818 - reads better where it is raised
    """A configured object does not fit into the memory of a device."""


class UnknownTaskError(UserError, LookupError):
    """No task is registered under the given id."""


class SpecMismatch(UserError, ValueError):  # noqa: N818 - reads better where it is raised
    """A policy was not trained for this environment."""


class CheckpointError(UserError, RuntimeError):
    """A checkpoint is absent, damaged, foreign or of another configuration."""


class BaseModelError(CheckpointError):
    """A checkpoint belongs to other frozen weights."""


class EnvContractError(UserError, RuntimeError):
    """An environment breaks the `VecEnv` contract."""


class HangError(UserError, RuntimeError):
    """A step, an update or a callback does not return."""


class ProcessesLostError(UserError, RuntimeError):
    """Other processes of the run do not answer."""


class NonFiniteError(UserError, ArithmeticError):
    """NaN or infinity appeared in observations, rewards, losses or parameters."""


class DivergedError(NonFiniteError):
    """Losses or actions of a learner are not finite: it is not worth a checkpoint, even if its parameters are."""


class RunDirectoryError(UserError, OSError):
    """The run directory can't be made or written."""


class RunLockedError(RunDirectoryError):
    """Another process trains in the run directory."""
