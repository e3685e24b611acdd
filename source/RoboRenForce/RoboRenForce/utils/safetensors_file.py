"""The safetensors format: 8 bytes of header length, a JSON header, raw tensors. It holds numbers only, no code.

Written here, because that is less than a dependency (https://github.com/huggingface/safetensors#format). Files that
may come from anywhere are read by the `safetensors` library, which distrusts their headers.
"""

from __future__ import annotations

import json
import mmap
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from .errors import CheckpointError
from .optional import require_package

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}
Shapes = Mapping[str, tuple[torch.dtype, Sequence[int]]]
"""Name -> dtype and shape."""


def write_tensors(file: BinaryIO, shapes: Shapes, tensor_of: Callable[[str], Tensor]) -> dict[str, int]:
    """Write tensors one after the other, requesting each only at its turn; returns their first bytes."""
    order = sorted(shapes, key=lambda name: -shapes[name][0].itemsize)  # so that each is aligned
    header, end = {}, 0
    for name in order:
        dtype, shape = shapes[name]
        start, end = end, end + dtype.itemsize * torch.Size(shape).numel()
        header[name] = {"dtype": NAMES[dtype], "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)
    for name in order:
        file.write(as_bytes(tensor_of(name)))
    return {name: 8 + len(text) + header[name]["data_offsets"][0] for name in order}


def read_tensors(path: Path, *, fix: str) -> dict[str, Tensor]:
    """Read all tensors of a file, on the CPU.

    Args:
        path: File.
        fix: End of the sentence if it can't be read: what to do.

    Raises:
        CheckpointError: it can't be read.
        MissingPackageError: `safetensors` is not installed.
    """
    with _opened(path, fix) as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no dict


def read_shapes(path: Path, *, fix: str) -> dict[str, tuple[int, ...]]:
    """Read the shapes of all tensors of a file, and nothing else of it; arguments and errors as of `read_tensors`."""
    with _opened(path, fix) as file:
        return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 - no dict


@contextmanager
def _opened(path: Path, fix: str) -> Iterator[Any]:
    library = require_package("safetensors", extra="vla", purpose="Weights in safetensors files")
    try:
        with library.safe_open(path, "pt") as file:
            yield file
    except (OSError, library.SafetensorError) as error:
        raise CheckpointError(f"'{path}' can't be read ({error}): {fix}.") from None


def map_file(path: Path) -> Tensor:
    """Map the bytes of a file, read when they are used; writing into them does not change the file."""
    with open(path, "rb") as file:
        return torch.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY), dtype=torch.uint8)


def tensor_at(data: Tensor, start: int, dtype: torch.dtype, shape: Sequence[int]) -> Tensor:
    """Return the tensor of a shape that starts at byte `start` of `data`."""
    return data[start : start + dtype.itemsize * torch.Size(shape).numel()].view(dtype).view(torch.Size(shape))


def as_bytes(tensor: Tensor) -> memoryview:
    """Return the elements of a tensor as bytes, row after row."""
    return tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data
