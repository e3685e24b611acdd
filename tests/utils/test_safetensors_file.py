"""Files of tensors, as they were written by us, and as a download leaves them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from RoboRenForce.utils.errors import CheckpointError
from RoboRenForce.utils.safetensors_file import read_shapes, read_tensors, write_tensors

pytestmark = pytest.mark.contract
pytest.importorskip("safetensors")

TENSORS = {"a.weight": torch.arange(6.0).view(2, 3), "b": torch.ones(3, dtype=torch.bfloat16), "c": torch.tensor(7)}


def test_what_is_written_is_read(tmp_path: Path) -> None:
    with open(tmp_path / "model.safetensors", "wb") as file:
        write_tensors(file, {name: (t.dtype, t.shape) for name, t in TENSORS.items()}, TENSORS.__getitem__)
    found = read_tensors(tmp_path / "model.safetensors", fix="")
    assert found.keys() == TENSORS.keys()
    assert all(
        torch.equal(found[name], tensor) and found[name].dtype == tensor.dtype for name, tensor in TENSORS.items()
    )
    assert read_shapes(tmp_path / "model.safetensors", fix="") == {"a.weight": (2, 3), "b": (3,), "c": ()}


@pytest.mark.parametrize("read", [read_tensors, read_shapes])
@pytest.mark.parametrize("content", [None, b"", b"\1" * 40, b"\2" + b"\0" * 7 + b"\xff\xff"])
def test_a_damaged_file_is_a_sentence(read, content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"model\.safetensors' can't be read \(.*\): download it again\.$"):
        read(path, fix="download it again")
