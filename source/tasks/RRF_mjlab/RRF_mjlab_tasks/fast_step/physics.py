"""The simulator's part of a step: mjlab's own captured graphs, launched on torch's stream, and one graph of ours.

mjlab ends a step with `forward()`, which computes everything that depends on the state, and starts the next one
with a full physics step, which computes the same again. Between the two only controls and applied forces change, so
the first substep can start where they enter:

    mjlab    step | step | step | step | forward      step = kinematics, collision, ... actuation, solver, integration
    here     late | step | step | step | forward      late =                            actuation, solver, integration

The numbers are the same, because `late` reads what `forward` left and runs the same kernels in the same order. For
the same reason substeps whose momentum and acceleration sensors nobody reads don't compute them.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Iterator
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

from .known_mjlab import changed_functions
from .physics_branches import physics_branches

_FORWARD_FUNCTIONS = {
    "mujoco_warp._src.forward:forward": "b90e17c1687f",
    "mujoco_warp._src.forward:step": "d9055075bcee",
    "mujoco_warp._src.forward:fwd_acceleration": "9f2cf189f4ae",
    "mujoco_warp._src.forward:fwd_actuation": "73f91c4edbe5",
}

_MOST_UNROLLED_ITERATIONS = 20
_WARP_SIZE = 32


class Physics:
    """Steps, resets and refreshes the simulation of one environment."""

    def __init__(self, env: ManagerBasedRlEnv, reuse_forward: bool) -> None:
        self._sim = env.sim
        self._is_cuda = env.sim.wp_device.is_cuda
        self._graphs: dict[str, Any] = {}
        self._streams: dict[int, Any] = {}
        self.late_refusal = _refuse_late_step(env) if reuse_forward else "reuse_forward=False"
        self._may_be_quiet = _reads_only_contacts(env)
        self.acceleration_columns = _acceleration_columns(env)
        """bool `(nsensordata,)`: sensors that a late step has to start from zero."""
        if self._uses_graphs:
            self._forces_stream = torch.cuda.Stream(env.device)
            self._capture()

    @property
    def _uses_graphs(self) -> bool:
        return bool(self._is_cuda and self._sim.use_cuda_graph)

    def write_on_current_stream(self) -> None:
        """Write to simulation arrays on torch's current stream; mjlab uses warp's, which no capture sees."""
        self._sim._reset_mask._torch_stream = None
        for bridge in (self._sim.data, self._sim.model):
            _adopt_bridge(bridge)

    @property
    def _keeps_loops(self) -> bool:
        return self._sim.wp_model.opt.iterations > _MOST_UNROLLED_ITERATIONS

    def substep(self, *, late: bool, last: bool) -> Callable[[], None]:
        """The function that does one substep of an environment step.

        Args:
            late: it follows `forward` and computes nothing that `forward` has computed.
            last: its sensors are read; those of the others are read only for contacts.
        """
        if self._sim.nan_guard.enabled:
            # The guard reads the state on the host before and after every substep.
            return lambda: self._on_torch_stream(self._sim.step)
        quiet = not last and self._may_be_quiet
        name = ("late" if late else "step") + ("_quiet" if quiet else "")
        launch = self.launch_late_step if late else self.launch_step
        return lambda: self._run(name, launch, quiet)

    def forward(self) -> None:
        """Recompute everything that depends on the state."""
        self._run("forward", self.launch_forward)

    def forward_state(self) -> None:
        """The first half of `forward`: everything but forces, accelerations and their sensors."""
        self._run("state", self.launch_forward_state)

    def begin_forces(self) -> None:
        """The second half of `forward`, on a stream of its own: it may run beside what reads and writes no forces."""
        if not self._uses_graphs:
            self._on_torch_stream(self.launch_forward_forces)
            return
        self._forces_stream.wait_stream(torch.cuda.current_stream(self._forces_stream.device))
        with torch.cuda.stream(self._forces_stream):
            self._run("forces", self.launch_forward_forces)

    def wait_for_forces(self) -> None:
        """Let what follows wait for `begin_forces`."""
        if self._uses_graphs:
            torch.cuda.current_stream(self._forces_stream.device).wait_stream(self._forces_stream)

    def second_forward(self) -> None:
        """`forward` for rows that were reset, when the others have just had theirs.

        The solver starts the others at their solution, so it ends as soon as the rows that were reset are solved;
        where the next step starts it, is put back.
        """
        warmstart, qacc = self._sim.data.qacc_warmstart._tensor, self._sim.data.qacc._tensor
        before = warmstart.clone()
        torch.where(self._sim._reset_mask._tensor.unsqueeze(1), warmstart, qacc, out=warmstart)
        self.forward()
        warmstart.copy_(before)

    def reset(self) -> None:
        """Set the rows of the simulation's reset mask to the model's defaults."""
        self._run("reset", self.launch_reset)

    def sense(self) -> None:
        """Cast rays and render cameras, between their preparation and their evaluation."""
        self._run("sense", self.launch_sense)

    def launch_step(self) -> None:
        """The kernels of `step`."""
        mjwarp.step(self._sim.wp_model, self._sim.wp_data)

    def launch_forward(self) -> None:
        """The kernels of `forward`."""
        mjwarp.forward(self._sim.wp_model, self._sim.wp_data)

    def launch_forward_state(self) -> None:
        """The kernels of `forward_state`."""
        model, data = self._sim.wp_model, self._sim.wp_data
        mjw_forward.fwd_position(model, data, factorize=False)
        data.sensordata.zero_()
        mjw_sensor.sensor_pos(model, data)
        data.energy.zero_()
        mjw_forward.fwd_velocity(model, data)
        mjw_sensor.sensor_vel(model, data)

    def launch_forward_forces(self) -> None:
        """The kernels that `forward` launches after those of `forward_state`."""
        model, data = self._sim.wp_model, self._sim.wp_data
        mjw_forward.fwd_actuation(model, data)
        mjw_forward.fwd_acceleration(model, data, factorize=True)
        mjw_solver.solve(model, data)
        mjw_sensor.sensor_acc(model, data)

    def launch_reset(self) -> None:
        """The kernels of `reset`."""
        mjwarp.reset_data(self._sim.wp_model, self._sim.wp_data, reset=self._sim._reset_mask_wp)

    def launch_sense(self) -> None:
        """The kernels of `sense`."""
        self._sim._sense_kernel()

    def launch_late_step(self) -> None:
        """The kernels of `late_step`."""
        model, data = self._sim.wp_model, self._sim.wp_data
        mjw_forward.fwd_actuation(model, data)
        mjw_forward.fwd_acceleration(model, data, factorize=True)
        mjw_solver.solve(model, data)
        mjw_sensor.sensor_acc(model, data)
        if model.opt.integrator == mjw_forward.IntegratorType.EULER:
            mjw_forward.euler(model, data)
        else:
            mjw_forward.implicit(model, data)

    def _run(self, name: str, launch: Callable[[], None], quiet: bool = False) -> None:
        graph = self._graphs.get(name)
        if graph is not None:
            wp.capture_launch(graph, stream=self._stream())
            return
        with self._quiet_sensors() if quiet else contextlib.nullcontext():
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

    def _capture(self) -> None:
        sim = self._sim
        self._graphs = {"reset": sim.reset_graph, "sense": sim.sense_graph}
        launches = {"step": self.launch_step, "step_quiet": self.launch_step, "forward": self.launch_forward}
        if not self.late_refusal:
            launches |= {"late": self.launch_late_step, "late_quiet": self.launch_late_step}
            launches |= {"state": self.launch_forward_state, "forces": self.launch_forward_forces}
        collecting = gc.isenabled()
        gc.disable()  # a finalizer that runs during a capture would be recorded
        try:
            with wp.ScopedDevice(sim.wp_device), self._unrolled_solver(), self._small_blocks():
                for name, launch in launches.items():
                    quiet = self._quiet_sensors() if name.endswith("_quiet") else contextlib.nullcontext()
                    with quiet, wp.ScopedCapture() as capture, self._branches():
                        launch()
                    self._graphs[name] = capture.graph
        finally:
            if collecting:
                gc.enable()

    def _branches(self) -> contextlib.AbstractContextManager[None]:
        sim = self._sim
        return physics_branches(sim.wp_model, sim.wp_device, solver_branches=not self._keeps_loops)

    @contextlib.contextmanager
    def _small_blocks(self) -> Iterator[None]:
        """One warp per world where a matrix of the solver fits it: the default of two and more leaves threads idle.

        Measured on one H200 with 4,096 Go1 (18 degrees of freedom): a substep takes 2.08 instead of 2.16 ms.
        """
        blocks = self._sim.wp_model.block_dim
        before = blocks.update_gradient_cholesky, blocks.update_gradient_JTDAJ_dense
        if self._sim.mj_model.nv <= _WARP_SIZE:
            blocks.update_gradient_cholesky = min(before[0], _WARP_SIZE)
            blocks.update_gradient_JTDAJ_dense = min(before[1], 2 * _WARP_SIZE)
        try:
            yield
        finally:
            blocks.update_gradient_cholesky, blocks.update_gradient_JTDAJ_dense = before

    @contextlib.contextmanager
    def _quiet_sensors(self) -> Iterator[None]:
        """Leave out the passes over the body tree that only accelerometers, force and momentum sensors need."""
        model = self._sim.wp_model
        before = model.sensor_rne_postconstraint, model.sensor_subtree_vel
        model.sensor_rne_postconstraint = model.sensor_subtree_vel = False
        try:
            yield
        finally:
            model.sensor_rne_postconstraint, model.sensor_subtree_vel = before

    @contextlib.contextmanager
    def _unrolled_solver(self) -> Iterator[None]:
        """Record all iterations of the solver instead of a loop that the device decides on.

        Worlds that are solved skip the rest either way, and among thousands one usually needs all iterations.
        """
        option = self._sim.wp_model.opt
        before = option.graph_conditional
        option.graph_conditional = before and self._keeps_loops
        try:
            yield
        finally:
            option.graph_conditional = before


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


def _reads_only_contacts(env: ManagerBasedRlEnv) -> bool:
    """Whether nothing but contact sensors looks at sensors between substeps, as far as that is known."""
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


def _adopt_bridge(bridge: WarpBridge) -> None:
    for wrapped in bridge._wrapped_cache.values():
        if isinstance(wrapped, TorchArray):
            wrapped._torch_stream = None
        elif isinstance(wrapped, WarpBridge):
            _adopt_bridge(wrapped)
