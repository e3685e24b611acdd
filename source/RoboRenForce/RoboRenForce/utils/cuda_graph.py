"""Capture a step of the training loop in a CUDA graph, or say why not."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch

from ..configclass import ConfigError

logger = logging.getLogger(__name__)

GraphMode = Literal["auto", "on", "off"]


class GraphedStep:
    """A function without arguments that is captured after a few eager calls and replayed from then on.

    The function reads and writes tensors whose addresses stay the same, and does not talk to the host. The eager
    calls are real ones: they do the work, create lazily made state (optimizer moments) and compile what is compiled.

    With `auto` a failed capture falls back to eager calls with the reason in the log; with `on` it raises.
    """

    def __init__(
        self, function: Callable[[], None], device: torch.device, mode: GraphMode, name: str, warmup: int = 2
    ) -> None:
        if mode == "on" and device.type != "cuda":
            raise ConfigError(
                f"cuda_graph=on needs a CUDA device, got '{device}'. Use cuda_graph=auto or --device cuda:0."
            )
        self.function = function
        self.device = device
        self.mode = mode
        self.name = name
        self.graph: torch.cuda.CUDAGraph | None = None
        self._eager_calls_left = warmup

    @property
    def captured(self) -> bool:
        """Whether calls replay a graph."""
        return self.graph is not None

    def __call__(self) -> None:
        """Do the step once."""
        if self.graph is not None:
            self.graph.replay()
        elif self._eager_calls_left > 0:
            self._eager_calls_left -= 1
            self._call_on_side_stream()
        elif self._eager_calls_left == 0:
            self._capture()
            self()
        else:
            self.function()

    def release(self) -> None:
        """Free the graph; later calls are eager. Graphs that hold collectives have to go before their process group."""
        if self.graph is not None:
            torch.cuda.synchronize(self.device)
            self.graph.reset()
        self.graph, self._eager_calls_left = None, -1

    def _call_on_side_stream(self) -> None:
        """Warm-up outside the default stream, as capture requires."""
        stream = torch.cuda.Stream(self.device)
        stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(stream):
            self.function()
        torch.cuda.current_stream(self.device).wait_stream(stream)

    def _capture(self) -> None:
        self._eager_calls_left = -1
        graph, stream = torch.cuda.CUDAGraph(), torch.cuda.current_stream(self.device)
        try:
            with capturing(graph):
                self.function()
        except RuntimeError as error:
            torch.cuda.set_stream(stream)  # a capture that fails at its end leaves the capture stream current
            torch.cuda.synchronize(self.device)
            _free_generator(self.device)
            if self.mode == "on":
                raise RuntimeError(f"Could not capture '{self.name}' in a CUDA graph: {_cause(error)}") from error
            logger.warning("'%s' runs without a CUDA graph, because the capture failed: %s", self.name, _cause(error))
            return
        self.graph = graph
        logger.info("'%s' runs as a CUDA graph.", self.name)


@contextmanager
def capturing(graph: torch.cuda.CUDAGraph, pool: Any = None) -> Iterator[None]:
    """`torch.cuda.graph`, and afterwards the current stream waits for the one that captured.

    Before torch captures, it sets the generator's offset on the device to 0, on the capturing stream. Unordered, that
    can land behind the offset that the first replay sets on its own stream, for instance where another process uses
    the GPU, and the replay draws random numbers that were drawn before.
    """
    capture: Any = torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local")
    with capture:
        yield
    torch.cuda.current_stream().wait_stream(capture.capture_stream)


def _free_generator(device: torch.device) -> None:
    """End the capture mode in which a failed capture left the random generator, by a capture that succeeds.

    Replacing the generator's state instead would cut it off from the graphs that were captured before.
    """
    with capturing(torch.cuda.CUDAGraph()):
        torch.zeros((), device=device)


def _cause(error: BaseException) -> str:
    """First line of the error that came first: ending a failed capture raises one of its own."""
    while error.__context__ is not None:
        error = error.__context__
    return str(error).splitlines()[0]


def graphed(function: Callable[[], None], device: torch.device, mode: GraphMode, name: str) -> Callable[[], None]:
    """A `GraphedStep` where graphs are possible and wanted, otherwise the function itself."""
    if device.type != "cuda" and mode != "on":
        return function
    return function if mode == "off" else GraphedStep(function, device, mode, name)


class SideStream:
    """Work that may run beside what follows it: `with side: ...`, then `side.join()` before its results are used.

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
