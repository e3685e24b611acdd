"""Capture of training steps in CUDA graphs, with an eager fallback whose reason is logged."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, is_dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from ..configclass import ConfigError

logger = logging.getLogger(__name__)

GraphMode = Literal["auto", "on", "off"]

_FIXED = "_roborenforce_fixed_address"
"""Attribute that marks tensors returned by a graph."""


class GraphedStep:
    """Function of tensors that is captured after a few eager calls and replayed from then on.

    Arguments and results are tensors, in any nesting of tuples, lists, mappings and data classes, always the same. A
    graph reads its arguments at fixed addresses, into which every call copies them, with one launch per dtype; results
    of another graph are at a fixed address already and are read there. Results are overwritten by the next call.

    All other tensors that the function reads and writes keep their addresses, and the function does not wait for the
    host. The eager calls are real ones: they do the work, create lazily made state (optimizer moments) and trigger
    compilation.

    With `auto` a failed capture falls back to eager calls with the reason in the log; with `on` it raises.

    Graphs of one `pool` (`torch.cuda.graph_pool_handle()`) compute in the same memory: running one of them may
    overwrite the results of those that were captured after it.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        device: torch.device,
        mode: GraphMode,
        name: str,
        warmup: int = 2,
        pool: Any = None,
    ) -> None:
        if mode == "on" and device.type != "cuda":
            raise ConfigError(
                f"cuda_graph=on needs a CUDA device, got '{device}'. Use cuda_graph=auto or --device cuda:0."
            )
        self.function = function
        self.device = device
        self.mode = mode
        self.name = name
        self.pool = pool
        self.graph: torch.cuda.CUDAGraph | None = None
        self._warmup = self._eager_calls_left = warmup
        self._inputs: list[Tensor] = []
        self._copied: list[list[int]] = []
        self._shared: list[int] = []
        self._results: Any = None

    @property
    def captured(self) -> bool:
        """True if calls replay a graph."""
        return self.graph is not None

    def __call__(self, *arguments: Any) -> Any:
        """Execute the step once."""
        if self.graph is not None:
            self._copy_in(list(tensors_of(arguments)))
            self.graph.replay()
            return self._results
        if self._eager_calls_left > 0:
            self._eager_calls_left -= 1
            return self._call_on_side_stream(arguments)
        if self._eager_calls_left == 0:
            self._capture(arguments)
            return self(*arguments)
        return self.function(*arguments)

    def __getstate__(self) -> dict[str, Any]:
        """Drop the graph: a copy, for instance in another process, captures its own."""
        own = {"graph": None, "pool": None, "_inputs": [], "_copied": [], "_shared": [], "_results": None}
        return self.__dict__ | own | {"_eager_calls_left": self._warmup}

    def _copy_in(self, given: list[Tensor]) -> None:
        inputs = self._inputs
        for indices in self._copied:
            torch._foreach_copy_(  # pyright: ignore[reportPrivateImportUsage]
                [inputs[index] for index in indices], [given[index] for index in indices]
            )
        for index in self._shared:
            if given[index] is not inputs[index]:  # not from that graph this time
                inputs[index].copy_(given[index])

    def release(self) -> None:
        """Free the graph; later calls are eager.

        Graphs that contain collectives have to be freed before their process group.
        """
        if self.graph is not None:
            torch.cuda.synchronize(self.device)
            self.graph.reset()
        self.graph, self._eager_calls_left = None, -1
        self._inputs, self._results = [], None

    def _call_on_side_stream(self, arguments: tuple[Any, ...]) -> Any:
        """Execute a warm-up call outside the default stream, as capture requires."""
        stream = torch.cuda.Stream(self.device)
        stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(stream):
            results = self.function(*arguments)
        torch.cuda.current_stream(self.device).wait_stream(stream)
        return results

    def _capture(self, arguments: tuple[Any, ...]) -> None:
        self._eager_calls_left = -1
        graph, stream = torch.cuda.CUDAGraph(), torch.cuda.current_stream(self.device)
        own = map_tensors(arguments, lambda tensor: tensor if _is_fixed(tensor) else tensor.clone())
        try:
            with capturing(graph, self.pool):
                results = self.function(*own)
        except RuntimeError as error:
            torch.cuda.set_stream(stream)  # a capture that fails at its end leaves the capture stream current
            torch.cuda.synchronize(self.device)
            _free_generator(self.device)
            if self.mode == "on":
                raise RuntimeError(f"Could not capture '{self.name}' in a CUDA graph: {_cause(error)}") from error
            logger.warning("'%s' runs without a CUDA graph, because the capture failed: %s", self.name, _cause(error))
            return
        self._inputs, self._results = list(tensors_of(own)), results
        self._shared = [index for index, tensor in enumerate(self._inputs) if _is_fixed(tensor)]
        by_dtype: dict[torch.dtype, list[int]] = {}
        for index, tensor in enumerate(self._inputs):
            if index not in self._shared:
                by_dtype.setdefault(tensor.dtype, []).append(index)
        self._copied = list(by_dtype.values())
        for tensor in tensors_of(results):
            setattr(tensor, _FIXED, True)
        self.graph = graph
        logger.info("'%s' runs as a CUDA graph.", self.name)


@contextmanager
def capturing(graph: torch.cuda.CUDAGraph, pool: Any = None) -> Iterator[None]:
    """Capture with `torch.cuda.graph`, then let the current stream wait for the capturing one.

    Before torch captures, it sets the generator's offset on the device to 0, on the capturing stream. Unordered, that
    can run after the first replay has set its offset on its own stream, for instance if another process uses the GPU,
    and the replay then draws random numbers that were drawn before.
    """
    capture: Any = torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local")
    with capture:
        yield
    torch.cuda.current_stream().wait_stream(capture.capture_stream)


def _free_generator(device: torch.device) -> None:
    """End the capture mode in which a failed capture left the random generator, by a successful capture.

    Replacing the generator's state instead would detach it from the graphs that were captured before.
    """
    with capturing(torch.cuda.CUDAGraph()):
        torch.zeros((), device=device)


def _cause(error: BaseException) -> str:
    """Return the first line of the first error: ending a failed capture raises another one."""
    while error.__context__ is not None:
        error = error.__context__
    return str(error).splitlines()[0]


def tensors_of(value: Any) -> Iterator[Tensor]:
    """Return the tensors in a nesting of tuples, lists, mappings and data classes, in order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for entry in value.values():
            yield from tensors_of(entry)
    elif isinstance(value, tuple | list):
        for entry in value:
            yield from tensors_of(entry)
    elif is_dataclass(value):
        for entry in fields(value):
            yield from tensors_of(getattr(value, entry.name))


def map_tensors(value: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """Return the same nesting with `function` applied to each of `tensors_of`; mappings become dicts."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, Mapping):
        return {name: map_tensors(entry, function) for name, entry in value.items()}
    if isinstance(value, tuple | list):
        return type(value)(map_tensors(entry, function) for entry in value)
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{e.name: map_tensors(getattr(value, e.name), function) for e in fields(value)})
    return value


def _is_fixed(tensor: Tensor) -> bool:
    """Return True if a graph writes this tensor, so that its address is fixed, and others can be copied into it.

    Nothing can be copied into an expanded tensor, whose entries share memory.
    """
    expanded = any(size > 1 and stride == 0 for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return hasattr(tensor, _FIXED) and not expanded


def graphed(
    function: Callable[..., Any], device: torch.device, mode: GraphMode, name: str, pool: Any = None
) -> Callable[..., Any]:
    """Wrap a function in a `GraphedStep` if graphs are possible and wanted; otherwise return it unchanged."""
    if device.type != "cuda" and mode != "on":
        return function
    return function if mode == "off" else GraphedStep(function, device, mode, name, pool=pool)


def release(*steps: Callable[..., Any]) -> None:
    """Free the graphs of the captured functions among `functions`, see `GraphedStep.release`."""
    for step in steps:
        if isinstance(step, GraphedStep):
            step.release()


class SideStream:
    """Work that may run in parallel: `with side: ...`, then `side.join()` before its results are used.

    On CUDA the block is issued to a second stream (captured, it becomes a parallel branch of the graph; its backward
    pass runs there too); elsewhere it simply runs.
    """

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._context: torch.cuda.StreamContext | None = None

    def __enter__(self) -> None:
        if self._stream is not None:
            self._stream.wait_stream(torch.cuda.current_stream(self._stream.device))
            self._context = torch.cuda.stream(self._stream)
            self._context.__enter__()

    def __exit__(self, *error: object) -> None:
        if self._context is not None:
            self._context.__exit__(*error)
            self._context = None

    def join(self) -> None:
        """Let the current stream wait for the block."""
        if self._stream is not None:
            torch.cuda.current_stream(self._stream.device).wait_stream(self._stream)
