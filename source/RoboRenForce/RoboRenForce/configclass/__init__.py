"""Configurations: `@configclass` and what belongs to it.

Nothing here imports torch or any other part of the project.
"""

from .base import Cfg
from .decorator import configclass
from .errors import ConfigError, Problem, UserError
from .fields import MISSING, ImportsModule, Range, SubclassOf
from .overrides import apply_overrides, apply_yaml, to_yaml
from .references import reference_to, resolve

__all__ = [
    "MISSING",
    "Cfg",
    "ConfigError",
    "ImportsModule",
    "Problem",
    "Range",
    "SubclassOf",
    "UserError",
    "apply_overrides",
    "apply_yaml",
    "configclass",
    "reference_to",
    "resolve",
    "to_yaml",
]
