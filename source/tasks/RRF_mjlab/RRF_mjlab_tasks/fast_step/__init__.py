"""Exports only."""

from .errors import CannotCaptureError
from .step import FastStep

__all__ = ["CannotCaptureError", "FastStep"]
