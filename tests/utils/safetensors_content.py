"""The safetensors format, read as its page describes it."""

from __future__ import annotations

import json
from pathlib import Path

import torch

DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "I64": torch.int64}


def content_of(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a file, which have to lie one after the other without holes."""
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header, data = json.loads(content[8 : 8 + length]), content[8 + length :]
    tensors, end = {}, 0
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        start, stop = entry["data_offsets"]
        assert start == end
        end = stop
        tensors[name] = torch.frombuffer(bytearray(data[start:stop]), dtype=DTYPES[entry["dtype"]]).view(
            tuple(entry["shape"])
        )
    assert end == len(data)
    return tensors
