"""Learning vision-language-action policies."""

from .data_spec import spec_of_data
from .vla_policy import VLAPlayPolicy

__all__ = ["VLAPlayPolicy", "spec_of_data"]
