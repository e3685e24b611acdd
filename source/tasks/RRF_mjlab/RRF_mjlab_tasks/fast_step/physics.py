"""The simulator's part of a step: mjlab's own captured graphs, launched on torch's stream, and one graph of ours.

mjlab ends a step with `forward()`, which computes everything that depends on the state, and starts the next one with a full
physics step, which computes the same again. Between the two only controls and applied forces change, so the first substep can
start where they enter:

    mjlab      step | step | step | step | forward        step = kinematics, collision, ... | actuation, solver, integration
    here       late | step | step | step | forward        late =                              actuation, solver, integration

The numbers are the same, because `late` reads what `forward` left and runs the same kernels in the same order.
"""

from __future__ import annotations

import gc
from typing import Any

import mujoco
import mujoco_warp as mjwarp
import torch
import warp as wp
from mjlab.envs import ManagerBasedRlEnv
from mjlab.sim.sim_data import TorchArray, WarpBridge
from mujoco_warp._src import forward as mjw_forward
from mujoco_warp._src import sensor as mjw_sensor
from mujoco_warp._src import solver as mjw_solver

from .known_mjlab import changed_functions

_FORWARD_FUNCTIONS = {
    "mujoco_warp._src.forward:forward": "b90e17c1687f",
    "mujoco_warp._src.forward:step": "d9055075bcee",
    "mujoco_warp._src.forward:fwd_acceleration": "9f2cf189f4ae",
    "mujoco_warp._src.forward:fwd_actuation": "73f91c4edbe5",
}


class Physics:
    """Steps, resets and refreshes the simulation of one environment."""

    def __init__(self, env: ManagerBasedRlEnv, reuse_forward: bool) -> None:
        self._sim = env.sim
        self._is_cuda = env.sim.wp_device.is_cuda
        self._late_graph: Any = None
        self._streams: dict[int, Any] = {}
        self.late_refusal = _refuse_late_step(env) if reuse_forward else "reuse_forward=False"
        self.acceleration_columns = _acceleration_columns(env)
        """bool `(nsensordata,)`: sensors that a late step has to start from zero."""
        if not self.late_refusal and self._uses_graphs:
            self._late_graph = self._capture_late_step()

    @property
    def _uses_graphs(self) -> bool:
        return bool(self._is_cuda and self._sim.use_cuda_graph)

    def write_on_current_stream(self) -> None:
        """Let writes to simulation arrays use torch's current stream; mjlab sends them to warp's, where no capture sees them."""
        self._sim._reset_mask._torch_stream = None
        for bridge in (self._sim.data, self._sim.model):
            _adopt_bridge(bridge)

    def step(self) -> None:
        """One physics substep."""
        if self._sim.nan_guard.enabled:
            # The guard reads the state on the host before and after every substep.
            self._on_torch_stream(self._sim.step)
            return
        self._run(self._sim.step_graph, lambda: mjwarp.step(self._sim.wp_model, self._sim.wp_data))

    def late_step(self) -> None:
        """The first substep after `forward`, without what `forward` has computed already."""
        self._run(self._late_graph, self._late)

    def forward(self) -> None:
        """Recompute everything that depends on the state."""
        self._run(self._sim.forward_graph, lambda: mjwarp.forward(self._sim.wp_model, self._sim.wp_data))

    def reset(self) -> None:
        """Set the rows of the simulation's reset mask to the model's defaults."""
        self._run(
            self._sim.reset_graph,
            lambda: mjwarp.reset_data(self._sim.wp_model, self._sim.wp_data, reset=self._sim._reset_mask_wp),
        )

    def sense(self) -> None:
        """Cast rays and render cameras, between their preparation and their evaluation."""
        self._run(self._sim.sense_graph, self._sim._sense_kernel)

    def _run(self, graph: Any, launch: Any) -> None:
        if self._uses_graphs and graph is not None:
            wp.capture_launch(graph, stream=self._stream())
        else:
            self._on_torch_stream(launch)

    def _on_torch_stream(self, launch: Any) -> None:
        if not self._is_cuda:
            launch()
            return
        with wp.ScopedStream(self._stream()):
            launch()

    def _stream(self) -> Any:
        """Torch's current stream as warp's: work of both then runs in order without waiting for one another."""
        stream = torch.cuda.current_stream(torch.device(self._sim.device))
        if stream.cuda_stream not in self._streams:
            self._streams[stream.cuda_stream] = wp.stream_from_torch(stream)
        return self._streams[stream.cuda_stream]

    def _late(self) -> None:
        model, data = self._sim.wp_model, self._sim.wp_data
        mjw_forward.fwd_actuation(model, data)
        mjw_forward.fwd_acceleration(model, data, factorize=True)
        mjw_solver.solve(model, data)
        mjw_sensor.sensor_acc(model, data)
        if model.opt.integrator == mjw_forward.IntegratorType.EULER:
            mjw_forward.euler(model, data)
        else:
            mjw_forward.implicit(model, data)

    def _capture_late_step(self) -> Any:
        enabled = gc.isenabled()
        gc.disable()  # a finalizer that runs during a capture would be recorded
        try:
            with wp.ScopedDevice(self._sim.wp_device), wp.ScopedCapture() as capture:
                self._late()
        finally:
            if enabled:
                gc.enable()
        return capture.graph


def _refuse_late_step(env: ManagerBasedRlEnv) -> str:
    """Why the first substep can't start late, or an empty string."""
    changed = changed_functions(_FORWARD_FUNCTIONS)
    model, wp_model = env.sim.mj_model, env.sim.wp_model
    implicit = (mjw_forward.IntegratorType.IMPLICITFAST, mjw_forward.IntegratorType.IMPLICIT)
    flags = mujoco.mjtEnableBit
    reasons = {
        f"{', '.join(changed)} differs from what is known": bool(changed),
        "the NaN guard watches every substep": env.sim.nan_guard.enabled,
        "the integrator is neither Euler nor implicit": wp_model.opt.integrator
        not in (mjw_forward.IntegratorType.EULER, *implicit),
        "sleeping bodies are enabled": bool(model.opt.enableflags & flags.mjENBL_SLEEP),
        "energies are computed": bool(model.opt.enableflags & flags.mjENBL_ENERGY),
        "actuators or sensors have a delay": bool(getattr(wp_model, "nhistory", 0)),
        "the scene has mocap bodies, which may move between steps": model.nmocap > 0,
        "the model has callbacks": any(vars(wp_model.callback).values()),
    }
    return next((reason for reason, applies in reasons.items() if applies), "")


def _acceleration_columns(env: ManagerBasedRlEnv) -> torch.Tensor:
    model = env.sim.mj_model
    columns = torch.zeros(model.nsensordata, dtype=torch.bool)
    for sensor in range(model.nsensor):
        if model.sensor_needstage[sensor] == mujoco.mjtStage.mjSTAGE_ACC:
            start = model.sensor_adr[sensor]
            columns[start : start + model.sensor_dim[sensor]] = True
    return columns.to(env.device)


def _adopt_bridge(bridge: WarpBridge) -> None:
    for wrapped in bridge._wrapped_cache.values():
        if isinstance(wrapped, TorchArray):
            wrapped._torch_stream = None
        elif isinstance(wrapped, WarpBridge):
            _adopt_bridge(wrapped)
