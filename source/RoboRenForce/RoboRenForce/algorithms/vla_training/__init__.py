"""Learning vision-language-action policies."""

from .data_spec import spec_of_data
from .relative_actions import relative_spec
from .vla_policy import VLAPlayPolicy

__all__ = ["VLAPlayPolicy", "relative_spec", "spec_of_data"]
