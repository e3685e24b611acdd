"""Devices by the names of a command line."""

from __future__ import annotations

import os
import re

import torch

from .errors import UserError


def find_device(name: str) -> torch.device:
    """Return the device called `name`; under torchrun, `cuda` is the one of this process.

    Raises:
        UserError: There is no such device.
    """
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    too_large = re.fullmatch(r"cuda:\d{3,}", name)  # torch takes these modulo 256
    if device is None or device.type not in ("cpu", "cuda", "mps") or too_large:
        raise UserError(f"There is no device {name[:60]!r}; use cpu, cuda, cuda:<number> or mps.")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UserError(f"--device {name} needs a Mac with an Apple GPU: use --device cpu, or see `rrf doctor`.")
    if device.type != "cuda":
        return torch.device(device.type)
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not count:
        raise UserError(
            f"--device {name} needs an NVIDIA GPU, and torch {torch.__version__} finds none: "
            "use --device cpu, or see `rrf doctor`."
        )
    index = int(os.environ.get("LOCAL_RANK", "0")) if device.index is None else device.index
    if index >= count:
        raise UserError(f"There is no device cuda:{index}; this machine has {count}, counted from cuda:0.")
    return torch.device("cuda", index)
