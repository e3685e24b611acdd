"""Numeric precision of networks, set in one place.

torch has an older and a newer switch for TF32, and mixing them makes torch.compile raise; mjlab uses the older one, so
we do too.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch

Precision = Literal["fp32", "tf32", "bf16"]
"""fp32: exact; tf32: matrix products in TF32 on GPUs that have it; bf16: networks in bfloat16, losses in fp32."""


def set_matmul_precision(precision: Precision, device: torch.device) -> None:
    """Allow or forbid TF32 in matrix products and convolutions on `device`; no effect on a CPU."""
    if device.type == "cuda":
        allowed = precision != "fp32"
        torch.backends.cuda.matmul.allow_tf32 = allowed
        torch.backends.cudnn.allow_tf32 = allowed


def full_precision(device: torch.device) -> AbstractContextManager:
    """Return a context that suspends autocast."""
    if not torch.amp.is_autocast_available(device.type):  # the meta device knows none
        return nullcontext()
    return torch.autocast(device.type, enabled=False)


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager:
    """Return a bfloat16 autocast for `precision="bf16"`, else a context without effect."""
    return torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else nullcontext()
