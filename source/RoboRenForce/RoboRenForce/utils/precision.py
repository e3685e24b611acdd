"""Numeric precision of networks, set in one place.

torch has an older and a newer switch for TF32, and mixing them makes torch.compile raise; mjlab uses the older one, so
we do too.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Literal, cast

import torch
from torch import nn

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


@contextmanager
def weights_cast_once(module: nn.Module) -> Iterator[None]:
    """Within it autocast finds the weights of linear layers in its own type: several passes cast them once.

    The results are the same to the last bit. Without autocast, or where gradients are needed, it changes nothing.
    """
    linears = [part for part in module.modules() if isinstance(part, nn.Linear) and type(part.weight) is nn.Parameter]
    # Changed in place, so that optimizers and checkpoints find parameters in the order they know.
    tables = [cast("dict[str, Any]", part._parameters) for part in linears if part.weight.dtype == torch.float32]
    device = tables[0]["weight"].device.type if tables else "cpu"
    if torch.is_grad_enabled() or not torch.is_autocast_enabled(device):
        yield
        return
    weights = [table["weight"] for table in tables]
    casts = [weight.to(torch.get_autocast_dtype(device)) for weight in weights]  # all, before any is put in place
    try:
        for table, cast_weight in zip(tables, casts, strict=True):
            table["weight"] = cast_weight
        yield
    finally:
        for table, weight in zip(tables, weights, strict=True):
            table["weight"] = weight
