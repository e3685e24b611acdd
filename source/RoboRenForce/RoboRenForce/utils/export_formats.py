"""File formats of exported policies: encoding a policy to bytes, and opening them again."""

from __future__ import annotations

import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .errors import UserError, did_you_mean
from .export_parity import Session

if TYPE_CHECKING:
    from .export import Exportable

OPSET = 18
METADATA_FILE = "metadata.json"
"""Name of the metadata inside the files of torch."""


@dataclass(frozen=True)
class Format:
    """Writer and reader of one kind of file."""

    file_name: str
    encode: Callable[[Exportable, Mapping[str, str]], bytes]
    open: Callable[[Path, Exportable], Session]
    packages: tuple[str, ...] = ()
    """Modules needed beyond torch."""


def _encode_pt2(policy: Exportable, texts: Mapping[str, str]) -> bytes:
    file = io.BytesIO()
    torch.export.save(policy.program, file, extra_files={METADATA_FILE: json.dumps(dict(texts))})
    return file.getvalue()


def _open_pt2(path: Path, policy: Exportable) -> Session:
    return _module_session(torch.export.load(path).module(), policy)


def _encode_torchscript(policy: Exportable, texts: Mapping[str, str]) -> bytes:
    file = io.BytesIO()
    with _deprecated(), torch.no_grad():
        traced = torch.jit.trace(policy.module, tuple(policy.inputs.values()), check_trace=False)
        torch.jit.save(traced, file, _extra_files={METADATA_FILE: json.dumps(dict(texts))})
    return file.getvalue()


def _open_torchscript(path: Path, policy: Exportable) -> Session:
    with _deprecated():
        return _module_session(torch.jit.load(str(path)), policy)


def _module_session(module: Callable[..., Tensor], policy: Exportable) -> Session:
    def call(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        with torch.no_grad():
            return policy.named(module(*(inputs[name] for name in policy.inputs)))

    return call


def _encode_onnx(policy: Exportable, texts: Mapping[str, str]) -> bytes:
    import onnx

    with warnings.catch_warnings(), _quiet_exporter():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            policy.program,
            (),
            input_names=list(policy.inputs),
            output_names=list(policy.outputs),
            opset_version=OPSET,
            dynamo=True,
            dynamic_shapes=(policy.dynamic_shapes,),  # names the batch axis
            verbose=False,
        )
    if program is None:
        raise RuntimeError("torch.onnx.export returned no program")
    model = program.model_proto
    onnx.helper.set_model_props(model, dict(texts))
    return model.SerializeToString()


def _open_onnx(path: Path, policy: Exportable) -> Session:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def call(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        returned = session.run(list(policy.outputs), {name: value.numpy() for name, value in inputs.items()})
        return policy.named([torch.as_tensor(value) for value in returned])

    return call


FORMATS = {
    "onnx": Format("policy.onnx", _encode_onnx, _open_onnx, ("onnx", "onnxruntime", "onnxscript")),
    "pt2": Format("policy.pt2", _encode_pt2, _open_pt2),
    "torchscript": Format("policy.pt", _encode_torchscript, _open_torchscript),
}


DEFAULT_FORMATS = ("onnx", "pt2")


def check_formats(formats: Sequence[str]) -> None:
    """Raise a UserError if a format is unknown or none is named."""
    for name in formats:
        if name not in FORMATS:
            raise UserError(f"There is no export format '{name}': {did_you_mean(name, FORMATS)}")
    if not formats:
        raise UserError(f"No export format is named: choose from {', '.join(FORMATS)}.")


@contextmanager
def _deprecated() -> Iterator[None]:
    """Silence torch's deprecation of TorchScript, which some C++ controllers still load."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


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
