"""A step as a list of stages: those that can be captured become CUDA graphs, the rest runs between them.

    [ actions ][ terminations ][ rewards ] ...      torch stages; neighbors that can be captured share one graph
    < physics >                                     launches of the simulator's own graphs
    ( event 'mine' )                                a stage that needs the host runs mjlab's code, with a sync

On the CPU the same stages run eagerly, so that the captured code is tested without a GPU.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from mjlab.envs import ManagerBasedRlEnv
from RoboRenForce.utils.cuda_graph import capturing

from ..errors import CannotCaptureError
from .addresses import StableCaches, StableTensors
from .constants import DeviceConstants
from .host_reads import HostReadGuard, refused_syncs, source_of

logger = logging.getLogger(__name__)

WARMUP_STEPS = 3
"""Number of eager steps before a capture: TorchScript functions profile twice and compile at their third call."""


@dataclass
class Stage:
    """Torch operations of fixed size that need nothing from the host."""

    name: str
    run: Callable[[], None]
    fallback: Callable[[], None] | None = None
    """mjlab's own code for the same work, which may wait for the host."""
    reason: str = ""
    """Reason for the fallback; empty if it isn't used."""


Launch = Callable[[], None]
"""A launch of the simulator: it has graphs of its own, so it stays between ours."""


class StepContext:
    """Objects that all segments of one environment share."""

    def __init__(
        self,
        env: ManagerBasedRlEnv,
        roots: dict[str, Any],
        before_capture: Callable[[], None],
        host_free: Callable[[], contextlib.AbstractContextManager[None]],
    ) -> None:
        self.env = env
        self.device = torch.device(env.device)
        self.stable = StableTensors(roots)
        self.caches = StableCaches(env.scene.sensors)
        self.constants = DeviceConstants(self.device)
        self.before_capture = before_capture
        self._host_free = host_free
        self.pool: Any = None
        self.renew_pool()

    def renew_pool(self) -> None:
        """Start a memory pool for coming captures: one whose graphs are all gone can't be used again."""
        self.pool = torch.cuda.graph_pool_handle() if self.device.type == "cuda" else None

    @contextlib.contextmanager
    def stage_code(self) -> Iterator[None]:
        """Run Python code of stages as `fallback_code` does, with constants from the device."""
        with self.fallback_code(), self.constants:
            yield

    @contextlib.contextmanager
    def fallback_code(self) -> Iterator[None]:
        """Run Python code: no gradients, no inference tensors in the state, mjlab's functions without the host."""
        with torch.inference_mode(False), torch.no_grad(), self._host_free():
            yield

    def sensor_flags(self) -> list[tuple[Any, bool, Any]]:
        """Return which sensors hold valid cached data now."""
        return [(sensor, sensor._cache_valid, sensor._cached_data) for sensor in self.env.scene.sensors.values()]


class Segment:
    """Neighboring stages that run as one CUDA graph after the warm-up."""

    def __init__(self, stages: list[Stage], context: StepContext, capture: bool, keep_flags: bool) -> None:
        self.stages = stages
        self._context = context
        self._capture_wanted = capture
        self._keep_flags = keep_flags
        self._graph: torch.cuda.CUDAGraph | None = None
        self._flags: list[tuple[Any, bool, Any]] = []
        self._eager_calls = 0

    @property
    def captured(self) -> bool:
        """True if calls replay a graph."""
        return self._graph is not None

    def __call__(self) -> None:
        """Run all stages once."""
        if self._graph is not None:
            self._graph.replay()
            for sensor, valid, data in self._flags:
                sensor._cache_valid, sensor._cached_data = valid, data
        elif self._capture_wanted and self._eager_calls >= WARMUP_STEPS:
            self._capture()
            self()
        else:
            self._eager_calls += 1
            self._context.before_capture()
            self._run_stages()

    def drop(self) -> None:
        """Drop the graph, because a number in it has changed; it is captured again after one eager call."""
        self._graph = None
        self._eager_calls = min(self._eager_calls, WARMUP_STEPS - 1)

    def _run_stages(self) -> None:
        with self._context.stage_code():
            for stage in self.stages:
                stage.run()
            self._context.stable.stabilize()

    def _capture(self) -> None:
        graph = torch.cuda.CUDAGraph()
        generator = torch.cuda.default_generators[self._context.device.index or 0]
        # A capture that fails leaves the generator registered with the dead graph; a fresh state frees it.
        random_state = generator.clone_state()
        stream = torch.cuda.current_stream(self._context.device)
        self._context.before_capture()
        try:
            with capturing(graph, self._context.pool):
                self._run_stages()
        except RuntimeError as error:
            torch.cuda.set_stream(stream)  # torch stays on its capture stream if the capture can't even begin
            generator.graphsafe_set_state(random_state)
            torch.cuda.synchronize(self._context.device)
            self._capture_wanted = False
            logger.warning(
                "Part '%s' of the step runs without a CUDA graph, because its capture failed: %s",
                " ... ".join(dict.fromkeys((self.stages[0].name, self.stages[-1].name))),
                str(error).splitlines()[0],
            )
            return
        self._graph = graph
        self._flags = self._context.sensor_flags() if self._keep_flags else []


def _fallback_call(stage: Any, context: StepContext) -> Callable[[], None]:
    """Return the fallback of `stage` as a function, with whatever syncs it needs."""

    def run() -> None:
        with context.fallback_code():
            stage.fallback()
            context.stable.stabilize()
            context.caches.stabilize()

    return run


def probe(stages: list[Stage | Launch], context: StepContext) -> list[Stage]:
    """Run every stage once and find those that need the host; the caller restores the state afterwards.

    Returns:
        Stages that fall back to mjlab's code, each with its reason.

    Raises:
        CannotCaptureError: A stage needs the host and has no fallback.
    """
    context.before_capture()
    fallen = []
    for stage in stages:
        if not isinstance(stage, Stage):
            continue
        try:
            with context.stage_code(), HostReadGuard(), refused_syncs(context.device):
                stage.run()
        except RuntimeError as error:
            if not isinstance(error, CannotCaptureError) and "synchronizing CUDA operation" not in str(error):
                raise
            place = source_of(error)
            reason = str(error).splitlines()[0] + (f" at {place}" if place else "")
            if stage.fallback is None:
                raise CannotCaptureError(f"{stage.name}: {reason}") from error
            stage.reason = reason
            fallen.append(stage)
    return fallen


def assemble(stages: list[Stage | Launch], context: StepContext, capture: bool) -> list[Callable[[], None]]:
    """Join neighboring stages into segments."""
    has_fallback = any(isinstance(stage, Stage) and stage.reason for stage in stages)
    program: list[Callable[[], None]] = []
    for capturable, group in itertools.groupby(stages, lambda stage: isinstance(stage, Stage) and not stage.reason):
        if capturable:
            program.append(Segment(list(group), context, capture, keep_flags=has_fallback))
        else:
            program += [_fallback_call(stage, context) if isinstance(stage, Stage) else stage for stage in group]
    return program
