"""Reasons why a part of mjlab's step can't be made fast."""

from __future__ import annotations


class CannotCaptureError(RuntimeError):
    """A part of the step can't run with fixed sizes and without the host; the message says why."""


class HostReadError(CannotCaptureError):
    """The host needs a value that is on the device."""


class NotMaskableError(CannotCaptureError):
    """A function is not separable by environment."""
