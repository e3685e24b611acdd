"""Export of policies as files that run without RoboRenForce, each compared with the original after writing.

The normalizer is inside. A feed-forward policy maps `obs (batch, size)` to `actions (batch, ...)`; a recurrent one has
the additional input `state_in (layers, batch, size)`, zeros at the start of an episode, and the output `state_out`. The
file's metadata holds all other facts that a receiver needs; `docs/export.md` explains every key.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .errors import UserError
from .export_formats import DEFAULT_FORMATS, FORMATS, Format, check_formats
from .export_parity import parity
from .optional import require_package

METADATA_VERSION = 1
"""Version that changes when a key that receivers rely on changes its meaning."""
TOLERANCE = 1e-5


@dataclass(frozen=True)
class Exportable:
    """A policy as a function of plain tensors, on the CPU and in evaluation mode."""

    module: nn.Module
    """Module called with the inputs in order; returns one tensor, or a tuple in the order of `outputs`."""
    inputs: dict[str, Tensor]
    """Name -> example of any batch size."""
    outputs: tuple[str, ...]
    state: tuple[str, str] | None = None
    """Input and output names of the recurrent state, whose batch is axis 1; everywhere else it is axis 0."""
    metadata: dict[str, Any] | None = None
    """Facts for the receiver: groups, sizes, task."""
    typical: Mapping[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    """Input -> mean and standard deviation of the training observations, if known; 0 and 1 otherwise."""

    def batch_axis(self, name: str) -> int:
        """Return the batch axis of an input or output."""
        return int(self.state is not None and name in self.state)

    def call(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the outputs by name."""
        with torch.no_grad():
            return self.named(self.module(*(inputs[name] for name in self.inputs)))

    def named(self, returned: Tensor | Sequence[Tensor]) -> dict[str, Tensor]:
        """Return output -> value, from the result of a module."""
        values = (returned,) if isinstance(returned, Tensor) else returned
        return dict(zip(self.outputs, values, strict=True))

    def example(self, batch: int, generator: torch.Generator, spread: float = 1.0) -> dict[str, Tensor]:
        """Draw random inputs of a batch size, `spread` standard deviations around the mean; the state is zero."""
        found = {}
        for name, tensor in self.inputs.items():
            shape = list(tensor.shape)
            shape[self.batch_axis(name)] = batch
            if self.state is not None and name == self.state[0]:
                found[name] = torch.zeros(shape, dtype=tensor.dtype)
            elif tensor.dtype.is_floating_point:
                mean, std = self.typical.get(name, (0.0, 1.0))
                found[name] = mean + std * spread * torch.randn(shape, generator=generator, dtype=tensor.dtype)
            else:
                found[name] = torch.randint(0, 256, shape, generator=generator).to(tensor.dtype)
        return found

    @cached_property
    def program(self) -> torch.export.ExportedProgram:
        """Trace the policy for any batch size."""
        with torch.no_grad():
            return torch.export.export(
                self.module, tuple(self.inputs.values()), dynamic_shapes=(self.dynamic_shapes,), strict=False
            )

    @property
    def dynamic_shapes(self) -> tuple[dict[int, Any], ...]:
        """Return the batch axis of each input, for tracing."""
        batch = torch.export.Dim("batch")
        return tuple({self.batch_axis(name): batch} for name in self.inputs)

    def signature(self) -> dict[str, Any]:
        """Return the metadata of every policy: version of the keys, inputs and outputs in order, the state."""
        inputs = [self._described(name, tensor) for name, tensor in self.inputs.items()]
        outputs = [self._described(name, tensor) for name, tensor in self.call(self.inputs).items()]
        memory = None
        if self.state is not None:
            (shape,) = (entry["shape"] for entry in inputs if entry["name"] == self.state[0])
            memory = {"input": self.state[0], "output": self.state[1], "shape": shape, "start": "zeros"}
        return {"metadata_version": METADATA_VERSION, "inputs": inputs, "outputs": outputs, "memory": memory}

    def _described(self, name: str, tensor: Tensor) -> dict[str, Any]:
        shape: list[int | str] = list(tensor.shape)
        shape[self.batch_axis(name)] = "batch"
        return {"name": name, "shape": shape, "dtype": str(tensor.dtype).removeprefix("torch.")}


@dataclass(frozen=True)
class Exported:
    """Result of `export_policy`."""

    paths: list[Path]
    errors: dict[str, float]
    """File name -> largest deviation from the original."""


def export_policy(
    policy: Exportable,
    folder: Path,
    metadata: Mapping[str, Any] | None = None,
    *,
    formats: Sequence[str] = DEFAULT_FORMATS,
) -> Exported:
    """Write a policy to `folder` in several formats and compare each file with the original.

    Args:
        policy: Policy to export.
        folder: Folder, created if absent.
        metadata: Metadata to add to the policy's own; texts are written as they are, everything else as JSON.
        formats: `onnx` (`policy.onnx`), `pt2` (`policy.pt2`, `torch.export`), `torchscript` (`policy.pt`, deprecated
            in torch).

    Raises:
        MissingPackageError: Packages of a format are missing; formats that need none have been written then.
        UserError: A format is unknown, the policy returns NaN, the folder can't be written, or a written file computes
            something else than the policy; that file is not kept.
    """
    check_formats(formats)
    _require_finite(policy)
    texts = _as_texts({**policy.signature(), **(policy.metadata or {}), **(metadata or {})})
    errors = {}
    for written in sorted((FORMATS[name] for name in formats), key=lambda known: len(known.packages)):
        for module in written.packages:
            require_package(module, extra="export", purpose=f"{written.file_name} files")
        errors[written.file_name] = _write(folder / written.file_name, policy, texts, written)
    return Exported([folder / name for name in errors], errors)


def _write(path: Path, policy: Exportable, texts: Mapping[str, str], written: Format) -> float:
    """Write a file under its name only if it agrees with the original; returns the largest deviation."""
    content = written.encode(policy, texts)
    partial = path.with_name(f".partial-{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(content)
        deviation = parity(policy, written.open(partial, policy))
        if not deviation <= TOLERANCE:
            raise UserError(
                f"The exported '{path.name}' deviates from the policy by {deviation:.2g}, more than {TOLERANCE:g}: "
                "it is not kept. Please report the network that it was exported from."
            )
        os.replace(partial, path)
    except OSError as error:
        raise UserError(
            f"'{path}' can't be written: {error.strerror or error}. Free the place and export again."
        ) from error
    finally:
        if partial.is_file():
            partial.unlink()
    return deviation


def _require_finite(policy: Exportable) -> None:
    """Refuse a policy that returns NaN, which a comparison would not detect."""
    for name, value in policy.call(policy.example(8, torch.Generator().manual_seed(0))).items():
        if not bool(value.isfinite().all()):
            raise UserError(
                f"The policy's own '{name}' is NaN or infinite for observations like those of its training, expected "
                "finite numbers: it is not exported. Choose an earlier checkpoint (--checkpoint best)."
            )


def _as_texts(metadata: Mapping[str, Any]) -> dict[str, str]:
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in metadata.items()}
