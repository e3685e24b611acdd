"""Policies as files that run without RoboRenForce: ONNX and TorchScript, each compared with the original after writing.

The normalizer is inside. A feed-forward policy maps `obs (batch, size)` to `actions (batch, ...)`; a recurrent one has
the additional input `state_in (layers, batch, size)`, zeros at the start of an episode, and the output `state_out`.
"""

from __future__ import annotations

import json
import logging
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .errors import UserError
from .optional import require_package

OPSET = 18
TOLERANCE = 1e-5
_BATCHES = (1, 5)
_STEPS = 3


@dataclass(frozen=True)
class Exportable:
    """A policy as a function of plain tensors, on the CPU and in evaluation mode."""

    module: nn.Module
    """Called with the inputs in order; returns one tensor, or a tuple in the order of `outputs`."""
    inputs: dict[str, Tensor]
    """Name -> example of any batch size."""
    outputs: tuple[str, ...]
    state: tuple[str, str] | None = None
    """Input and output of the memory of a recurrent policy, whose batch is axis 1; everywhere else it is axis 0."""
    metadata: dict[str, Any] | None = None
    """What the receiver has to know: groups, sizes, task."""

    def batch_axis(self, name: str) -> int:
        """Axis of the batch of an input."""
        return int(self.state is not None and name in self.state)

    def call(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The outputs by name."""
        with torch.no_grad():
            returned = self.module(*inputs.values())
        values = returned if len(self.outputs) > 1 else (returned,)
        return dict(zip(self.outputs, values, strict=True))

    def example(self, batch: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Random inputs of a batch size; the memory is empty."""
        found = {}
        for name, tensor in self.inputs.items():
            shape = list(tensor.shape)
            shape[self.batch_axis(name)] = batch
            if self.state is not None and name == self.state[0]:
                found[name] = torch.zeros(shape, dtype=tensor.dtype)
            elif tensor.dtype.is_floating_point:
                found[name] = 3.0 * torch.randn(shape, generator=generator, dtype=tensor.dtype)
            else:
                found[name] = torch.randint(0, 256, shape, generator=generator).to(tensor.dtype)
        return found


@dataclass(frozen=True)
class Exported:
    """What `export_policy` wrote."""

    paths: list[Path]
    errors: dict[str, float]
    """File name -> largest deviation from the original."""


def export_policy(policy: Exportable, folder: Path, metadata: Mapping[str, Any] | None = None) -> Exported:
    """Write `policy.pt` (TorchScript) and `policy.onnx` to `folder` and compare both with the original.

    Args:
        policy: What to export.
        folder: Made if it is absent.
        metadata: Added to what the policy says about itself; texts are written as they are, everything else as JSON.

    Raises:
        MissingPackageError: ONNX packages are missing; `policy.pt` has been written then.
        UserError: a written file computes something else than the policy; that file is not kept.
    """
    folder.mkdir(parents=True, exist_ok=True)
    texts = _as_texts({**(policy.metadata or {}), **(metadata or {})})
    errors = {"policy.pt": _write(folder / "policy.pt", policy, texts, _to_torchscript, _run_torchscript)}
    for module in ("onnx", "onnxruntime", "onnxscript"):
        require_package(module, extra="export", purpose="ONNX files")
    errors["policy.onnx"] = _write(folder / "policy.onnx", policy, texts, _to_onnx, _run_onnx)
    return Exported([folder / name for name in errors], errors)


Writer = Callable[[Exportable, Path, Mapping[str, str]], None]
Session = Callable[[Mapping[str, Tensor]], dict[str, Tensor]]


def _write(
    path: Path,
    policy: Exportable,
    texts: Mapping[str, str],
    writer: Writer,
    opener: Callable[[Path, Exportable], Session],
) -> float:
    """Write one file under its name only if it agrees with the original; returns the largest deviation."""
    partial = path.with_name(f".partial-{path.name}")
    try:
        writer(policy, partial, texts)
        deviation = parity(policy, opener(partial, policy))
        if not deviation <= TOLERANCE:
            raise UserError(
                f"The exported '{path.name}' deviates from the policy by {deviation:.2g}, more than {TOLERANCE:g}: "
                "it is not kept. Please report the network that it was exported from."
            )
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return deviation


def parity(policy: Exportable, session: Session) -> float:
    """Largest deviation of `session` from the policy, over random inputs, batch sizes and, with memory, several steps.

    Deviations of values above 1 are relative.
    """
    generator = torch.Generator().manual_seed(0)
    worst = 0.0
    for batch in _BATCHES:
        inputs = policy.example(batch, generator)
        for _ in range(_STEPS):
            expected, got = policy.call(inputs), session(inputs)
            for name, value in expected.items():
                scale = value.abs().clamp(min=1)
                worst = max(worst, float(((got[name].to(value.dtype) - value).abs() / scale).max()))
            inputs = policy.example(batch, generator)
            if policy.state is not None:
                inputs[policy.state[0]] = expected[policy.state[1]]
    return worst


def _to_torchscript(policy: Exportable, path: Path, texts: Mapping[str, str]) -> None:
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # deprecated, and still what C++ controllers load
        traced = torch.jit.trace(policy.module, tuple(policy.inputs.values()), check_trace=False)
        torch.jit.save(traced, str(path), _extra_files={"metadata.json": json.dumps(dict(texts))})


def _run_torchscript(path: Path, policy: Exportable) -> Session:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = torch.jit.load(str(path))

    def call(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        with torch.no_grad():
            returned = module(*inputs.values())
        return dict(zip(policy.outputs, returned if len(policy.outputs) > 1 else (returned,), strict=True))

    return call


def _to_onnx(policy: Exportable, path: Path, texts: Mapping[str, str]) -> None:
    import onnx

    batch = torch.export.Dim("batch")
    shapes = tuple({policy.batch_axis(name): batch} for name in policy.inputs)
    with warnings.catch_warnings(), _quiet_exporter():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            policy.module,
            tuple(policy.inputs.values()),
            str(path),
            input_names=list(policy.inputs),
            output_names=list(policy.outputs),
            opset_version=OPSET,
            dynamo=True,
            dynamic_shapes=(shapes,),
            external_data=False,
            verbose=False,
        )
    model = onnx.load(str(path))
    onnx.helper.set_model_props(model, dict(texts))
    onnx.save(model, str(path))


def _run_onnx(path: Path, policy: Exportable) -> Session:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def call(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        returned = session.run(list(policy.outputs), {name: value.numpy() for name, value in inputs.items()})
        return {name: torch.as_tensor(value) for name, value in zip(policy.outputs, returned, strict=True)}

    return call


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Keep the exporter's progress messages out of the terminal."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [log.level for log in loggers]
    for log in loggers:
        log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for log, level in zip(loggers, levels, strict=True):
            log.setLevel(level)


def _as_texts(metadata: Mapping[str, Any]) -> dict[str, str]:
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in metadata.items()}
