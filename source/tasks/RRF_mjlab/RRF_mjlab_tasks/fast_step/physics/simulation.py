"""`Simulation` in a step: mjlab's own captured graphs, launched on torch's stream, and graphs of ours.

mjlab ends a step with `forward()`, which computes everything that depends on the state, and starts the next one
with a full physics step, which computes the same again. Between the two only controls and applied forces change, so
the first substep can start where they enter:

    mjlab    step | step | step | step | forward      step = kinematics, collision, ... actuation, solver, integration
    here     late | step | step | step | forward      late =                            actuation, solver, integration

The numbers are the same, because `late` reads the results of `forward` and runs the same kernels in the same order. For
the same reason substeps whose momentum and acceleration sensors are not read don't compute them.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable
from typing import Any

import mujoco
import mujoco_warp as mjwarp
import torch
import warp as wp
from mjlab.envs import ManagerBasedRlEnv
from mjlab.sensor import BuiltinSensor, ContactSensor, RayCastSensor
from mjlab.sensor.camera_sensor import CameraSensor
from mjlab.sim.sim_data import TorchArray, WarpBridge
from mujoco_warp._src import forward as mjw_forward
from mujoco_warp._src import sensor as mjw_sensor
from mujoco_warp._src import solver as mjw_solver

from ..mjlab_version import LATE_STEP, changed_functions
from ..replaced import replaced
from .branches import branches_refusal, physics_branches

_MOST_UNROLLED_ITERATIONS = 20
_WARP_SIZE = 32


class Physics:
    """Steps, resets and updates of one environment's simulation."""

    def __init__(self, env: ManagerBasedRlEnv) -> None:
        self._sim: Any = env.sim
        self._is_cuda = env.sim.wp_device.is_cuda
        self._uses_graphs = bool(self._is_cuda and env.sim.use_cuda_graph)
        self._keeps_loops = env.sim.wp_model.opt.iterations > _MOST_UNROLLED_ITERATIONS
        self._kernels = _kernels(env.sim)
        self._graphs: dict[str, Any] = {}
        self._streams: dict[int, Any] = {}
        self.late_refusal = _refuse_late_step(env)
        self._may_be_quiet = _reads_only_contacts(env)
        self.acceleration_columns = _acceleration_columns(env)
        """bool `(nsensordata,)`: sensors that a late step has to start from zero."""
        self.branches_refusal = branches_refusal(env.sim.wp_model) if self._uses_graphs else ""
        if self._uses_graphs:
            self._forces_stream = torch.cuda.Stream(env.device)
            self._capture()

    def write_on_current_stream(self) -> None:
        """Write to simulation arrays on torch's current stream.

        mjlab writes on warp's, which no capture of torch sees, and has no option for it: the stream is set where each
        array stores it, again before every capture, since arrays are wrapped when they are first used.
        """
        self._sim._reset_mask._torch_stream = None
        for bridge in (self._sim.data, self._sim.model):
            _unpin_streams(bridge)

    def substep(self, *, late: bool, last: bool) -> Callable[[], None]:
        """Return the function that does one substep of an environment step.

        Args:
            late: True if it follows `forward`, whose results it does not recompute.
            last: True if its sensors are read; those of the others are read only for contacts.
        """
        if self._sim.nan_guard.enabled:
            # The guard reads the state on the host before and after every substep.
            return lambda: self._on_torch_stream(self._sim.step)
        name = "late" if late else "step"
        quiet = not last and self._may_be_quiet
        return lambda: self._run(f"{name}_quiet" if quiet else name)

    def forward(self) -> None:
        """Recompute everything that depends on the state."""
        self._run("forward")

    def forward_state(self) -> None:
        """Compute the first half of `forward`: everything but forces, accelerations and their sensors."""
        self._run("state")

    def begin_forces(self) -> None:
        """Start the second half of `forward` on its own stream, beside code that reads and writes no forces."""
        if not self._uses_graphs:
            self._run("forces")
            return
        self._forces_stream.wait_stream(torch.cuda.current_stream(self._forces_stream.device))
        with torch.cuda.stream(self._forces_stream):
            self._run("forces")

    def wait_for_forces(self) -> None:
        """Let the current stream wait for `begin_forces`."""
        if self._uses_graphs:
            torch.cuda.current_stream(self._forces_stream.device).wait_stream(self._forces_stream)

    def second_forward(self) -> None:
        """Run `forward` for rows that were reset, after it has just run for the others.

        The solver starts the others at their solution, so it ends as soon as the reset rows are solved; the start point
        of the next step is restored.
        """
        warmstart, qacc = self._sim.data.qacc_warmstart._tensor, self._sim.data.qacc._tensor
        before = warmstart.clone()
        torch.where(self._sim._reset_mask._tensor.unsqueeze(1), warmstart, qacc, out=warmstart)
        self.forward()
        warmstart.copy_(before)

    def reset(self) -> None:
        """Set the rows of the simulation's reset mask to the model's defaults."""
        self._run("reset")

    def sense(self) -> None:
        """Cast rays and render cameras, between their preparation and their evaluation."""
        self._run("sense")

    def _run(self, name: str) -> None:
        graph = self._graphs.get(name)
        if graph is not None:
            wp.capture_launch(graph, stream=self._stream())
            return
        with self._sensors_for(name):
            self._on_torch_stream(self._kernels[name.removesuffix("_quiet")])

    def _on_torch_stream(self, launch: Callable[[], None]) -> None:
        if not self._is_cuda:
            launch()
            return
        with wp.ScopedStream(self._stream()):
            launch()

    def _stream(self) -> Any:
        """Return torch's current stream as warp's: work of both then runs in order without waiting for one another."""
        stream = torch.cuda.current_stream(torch.device(self._sim.device))
        if stream.cuda_stream not in self._streams:
            self._streams[stream.cuda_stream] = wp.stream_from_torch(stream)
        return self._streams[stream.cuda_stream]

    def _capture(self) -> None:
        sim, option = self._sim, self._sim.wp_model.opt
        self._graphs = {"reset": sim.reset_graph, "sense": sim.sense_graph}
        names = ["step", "step_quiet", "forward"]
        if not self.late_refusal:
            names += ["late", "late_quiet", "state", "forces"]
        # All iterations of the solver are recorded instead of a loop that the device decides on: worlds that are
        # solved skip the rest either way, and among thousands one usually needs all iterations.
        unrolled = replaced(option, graph_conditional=option.graph_conditional and self._keeps_loops)
        collecting = gc.isenabled()
        gc.disable()  # a finalizer that runs during a capture would be recorded
        try:
            with wp.ScopedDevice(sim.wp_device), unrolled, self._small_blocks():
                for name in names:
                    branches = physics_branches(sim.wp_model, sim.wp_device, solver_branches=not self._keeps_loops)
                    with self._sensors_for(name), wp.ScopedCapture() as capture, branches:
                        self._kernels[name.removesuffix("_quiet")]()
                    self._graphs[name] = capture.graph
        finally:
            if collecting:
                gc.enable()

    def _small_blocks(self) -> contextlib.AbstractContextManager[None]:
        """Use one warp per world if a matrix of the solver fits it: the default of two and more leaves threads idle.

        Measured on one H200 with 4,096 Go1 (18 degrees of freedom): a substep takes 2.08 instead of 2.16 ms.
        """
        if self._sim.mj_model.nv > _WARP_SIZE:
            return contextlib.nullcontext()
        blocks = self._sim.wp_model.block_dim
        return replaced(
            blocks,
            update_gradient_cholesky=min(blocks.update_gradient_cholesky, _WARP_SIZE),
            update_gradient_JTDAJ_dense=min(blocks.update_gradient_JTDAJ_dense, 2 * _WARP_SIZE),
        )

    def _sensors_for(self, name: str) -> contextlib.AbstractContextManager[None]:
        """Skip, in quiet launches, the passes over the body tree for accelerometers, force and momentum sensors."""
        if not name.endswith("_quiet"):
            return contextlib.nullcontext()
        return replaced(self._sim.wp_model, sensor_rne_postconstraint=False, sensor_subtree_vel=False)


def _kernels(sim: Any) -> dict[str, Callable[[], None]]:
    """Return name -> function that launches kernels of MuJoCo Warp; `state` and `forces` together are `forward`."""
    model, data = sim.wp_model, sim.wp_data

    def state() -> None:
        mjw_forward.fwd_position(model, data, factorize=False)
        data.sensordata.zero_()
        mjw_sensor.sensor_pos(model, data)
        data.energy.zero_()
        mjw_forward.fwd_velocity(model, data)
        mjw_sensor.sensor_vel(model, data)

    def forces() -> None:
        mjw_forward.fwd_actuation(model, data)
        mjw_forward.fwd_acceleration(model, data, factorize=True)
        mjw_solver.solve(model, data)
        mjw_sensor.sensor_acc(model, data)

    def late() -> None:
        forces()
        if model.opt.integrator == mjw_forward.IntegratorType.EULER:
            mjw_forward.euler(model, data)
        else:
            mjw_forward.implicit(model, data)

    return {
        "step": lambda: mjwarp.step(model, data),
        "forward": lambda: mjwarp.forward(model, data),
        "state": state,
        "forces": forces,
        "late": late,
        "reset": lambda: mjwarp.reset_data(model, data, reset=sim._reset_mask_wp),
        "sense": lambda: sim._sense_kernel(),
    }


def _refuse_late_step(env: ManagerBasedRlEnv) -> str:
    """Return why the first substep can't start late, or an empty string."""
    changed = changed_functions(LATE_STEP)
    model, wp_model = env.sim.mj_model, env.sim.wp_model
    kinds = mjw_forward.IntegratorType
    flags = mujoco.mjtEnableBit
    reasons = {
        f"MuJoCo Warp changed {', '.join(path.partition(':')[2] for path in changed)}": bool(changed),
        "the NaN guard watches every substep": env.sim.nan_guard.enabled,
        "the integrator is neither Euler nor implicit": wp_model.opt.integrator
        not in (kinds.EULER, kinds.IMPLICITFAST, kinds.IMPLICIT),
        "sleeping bodies are enabled": bool(model.opt.enableflags & flags.mjENBL_SLEEP),
        "energies are computed": bool(model.opt.enableflags & flags.mjENBL_ENERGY),
        "actuators or sensors have a delay": bool(getattr(wp_model, "nhistory", 0)),
        "the scene has mocap bodies, which may move between steps": model.nmocap > 0,
        "the model has callbacks": any(vars(wp_model.callback).values()),
    }
    return next((reason for reason, applies in reasons.items() if applies), "")


def _reads_only_contacts(env: ManagerBasedRlEnv) -> bool:
    """Return True if only contact sensors are known to read sensors between substeps."""
    metrics = getattr(env.metrics_manager, "_substep_term_indices", [])
    known = (BuiltinSensor, ContactSensor, RayCastSensor, CameraSensor)
    terms = env.action_manager._terms.values()
    return (
        not metrics
        and all(isinstance(sensor, known) for sensor in env.scene.sensors.values())
        and all(type(term).__module__.startswith("mjlab.") for term in terms)
    )


def _acceleration_columns(env: ManagerBasedRlEnv) -> torch.Tensor:
    model = env.sim.mj_model
    columns = torch.zeros(model.nsensordata, dtype=torch.bool)
    for sensor in range(model.nsensor):
        if model.sensor_needstage[sensor] == mujoco.mjtStage.mjSTAGE_ACC:
            start = model.sensor_adr[sensor]
            columns[start : start + model.sensor_dim[sensor]] = True
    return columns.to(env.device)


def _unpin_streams(bridge: WarpBridge) -> None:
    for wrapped in bridge._wrapped_cache.values():
        if isinstance(wrapped, TorchArray):
            wrapped._torch_stream = None
        elif isinstance(wrapped, WarpBridge):
            _unpin_streams(wrapped)
