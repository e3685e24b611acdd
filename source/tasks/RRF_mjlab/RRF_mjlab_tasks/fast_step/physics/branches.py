"""Recording MuJoCo Warp's step so that kernels that don't need one another run at the same time.

With some thousand environments every kernel of a step is short and leaves most of the GPU idle, and all of them wait
for one another. Three groups don't have to:

    inertia > velocities > smooth forces > acceleration  |  contacts > constraints             >  solver
    forces of the constraints > gradient                 |  the Hessian, from J, D and states  >  factorization
    M @ search                                           |  J @ search                         >  line search

The left sides stay where they are, the right sides go to a second stream, and what needs both waits for both. Only the
order of independent kernels changes, so the numbers are those of the plain recording.

MuJoCo Warp takes no stream for a part of its step, so its functions and warp's `launch` are replaced while a graph is
recorded; a replay runs none of this.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import Any

import mujoco
import warp as wp
from mujoco_warp._src import collision_driver, constraint, smooth, solver

from ..mjlab_version import PHYSICS_BRANCHES, changed_functions
from ..replaced import replaced

_STATES = "_update_constraint_efc"
"""Writes forces and states of the constraints."""

_GRADIENT = {
    "_zero_qfrc_constraint_sparse",
    "_update_constraint_init_qfrc_constraint_sparse",
    "_update_constraint_init_qfrc_constraint_dense",
    "_update_gradient_zero_grad_dot",
    "_update_gradient_grad",
}
"""Read the forces; write the constraints' generalized force, the gradient and scalars of each world."""

_HESSIAN = {
    "_update_gradient_init_h_sparse",
    "_JTDAJ_sparse",
    "_update_gradient_JTDAJ_dense_tiled",
    "_update_gradient_JTCJ_sparse",
    "_update_gradient_JTCJ_dense",
    "_update_gradient_h_incremental",
    "_update_gradient_h_incremental_sparse",
    "_padding_h",
}
"""Read M, J, D, the states and contacts; write the Hessian."""

_CONES = {"_update_gradient_JTCJ_sparse", "_update_gradient_JTCJ_dense"}
"""Kernels whose threads stride over the contacts; their last two inputs are the number of strides and its length."""

_MASS_PRODUCT = "mul_m_kernel"
_JACOBIAN_PRODUCT = "_linesearch_jv_fused_kernel"

_THREADS_PER_BLOCK = 256
CONTACT_BLOCKS_PER_SM = 24
"""MuJoCo Warp launches 6, which gives each thread several contacts one after the other."""


@contextlib.contextmanager
def physics_branches(
    model: Any,
    device: Any,
    *,
    solver_branches: bool = True,
    contact_branch: bool = True,
    blocks: int = CONTACT_BLOCKS_PER_SM,
) -> Iterator[None]:
    """Record what is launched inside the block in branches, where they are known to be independent.

    Args:
        model: warp's model.
        device: warp's CUDA device, which is capturing inside the block.
        solver_branches: Whether the solver gets a second branch.
        contact_branch: Whether contacts and constraints are found beside the smooth dynamics.
        blocks: Thread blocks per multiprocessor of kernels that stride over contacts.
    """
    if changed_functions(PHYSICS_BRANCHES) or _has_rarities(model):
        yield
        return
    side = wp.Stream(device)
    recorder = _SolverRecorder(device, side, solver_branches, blocks)
    contacts = _ContactRecorder(device, side)
    launches = {name: recorder.wrapped(getattr(wp, name)) for name in ("launch", "launch_tiled")}
    with replaced(wp, **launches), contacts.recorded() if contact_branch else contextlib.nullcontext():
        yield


def _has_rarities(model: Any) -> bool:
    """Whether something reads contacts or constraints before the solver does, or constraints read velocities."""
    return bool(
        model.neq
        or model.nflex
        or model.nacttrnbody
        or model.nsensorcollision
        or model.sensor_limitpos_adr.size
        or model.sensor_limitvel_adr.size
        or model.opt.enableflags & (mujoco.mjtEnableBit.mjENBL_SLEEP | mujoco.mjtEnableBit.mjENBL_ENERGY)
        or not model.opt.run_collision_detection
        or any(vars(model.callback).values())
    )


class _ContactRecorder:
    """Finds contacts and makes constraints on the second stream, from the inertia to the solver."""

    def __init__(self, device: Any, side: Any) -> None:
        self._device, self._side = device, side
        self._fork: Any = None
        self._is_forked = False

    @contextlib.contextmanager
    def recorded(self) -> Iterator[None]:
        """Send what finds contacts and makes constraints to the second stream inside the block."""
        with (
            replaced(smooth, crb=self._after(self._mark_fork, smooth.crb)),
            replaced(collision_driver, collision=self._aside(collision_driver.collision)),
            replaced(constraint, make_constraint=self._aside(constraint.make_constraint)),
            replaced(solver, solve=self._after(self._join, solver.solve)),
        ):
            yield
            self._join()

    def _after(self, first: Callable[[], None], function: Callable[..., None]) -> Callable[..., None]:
        def run(*args: Any, **kwargs: Any) -> None:
            first()
            function(*args, **kwargs)

        return run

    def _aside(self, function: Callable[..., None]) -> Callable[..., None]:
        def run(*args: Any, **kwargs: Any) -> None:
            if self._fork is None:
                function(*args, **kwargs)
                return
            if not self._is_forked:
                self._side.wait_event(self._fork)
                self._is_forked = True
            with wp.ScopedStream(self._side, sync_enter=False):
                function(*args, **kwargs)

        return run

    def _mark_fork(self) -> None:
        self._fork = self._device.stream.record_event()

    def _join(self) -> None:
        """Let what follows wait for the constraints."""
        if self._is_forked:
            self._device.stream.wait_event(self._side.record_event())
        self._fork, self._is_forked = None, False


class _SolverRecorder:
    """Sends each launch of the solver to one of two streams, and lets all others wait for both."""

    def __init__(self, device: Any, side: Any, branches: bool, blocks: int) -> None:
        self._device, self._side = device, side
        self._branches = branches
        self._blocks = blocks
        self._fork: Any = None
        """Event after which the second branch may begin, or None where nothing may."""
        self._side_kernels: set[str] = set()
        """What may run in the second branch since the fork."""
        self._is_forked = False

    def wrapped(self, plain: Callable[..., Any]) -> Callable[..., Any]:
        """`wp.launch` or `wp.launch_tiled` with branches."""
        return lambda kernel, *args, **kwargs: self._launch(plain, kernel, *args, **kwargs)

    def _launch(self, plain: Callable[..., Any], kernel: Any, *args: Any, **kwargs: Any) -> Any:
        name = kernel.key.partition("__locals__")[0]
        if name in _CONES:
            self._widen(kwargs)
        if not self._branches:
            return plain(kernel, *args, **kwargs)
        if self._fork is not None and name in self._side_kernels:
            if not self._is_forked:
                self._side.wait_event(self._fork)
                self._is_forked = True
            return plain(kernel, *args, **kwargs, stream=self._side)
        if name not in _GRADIENT:
            self._join()
        if name == _MASS_PRODUCT:
            self._fork_here({_JACOBIAN_PRODUCT})
        result = plain(kernel, *args, **kwargs)
        if name == _STATES:
            self._fork_here(_HESSIAN)
        return result

    def _fork_here(self, kernels: set[str]) -> None:
        self._fork, self._side_kernels = self._device.stream.record_event(), kernels

    def _join(self) -> None:
        """Let what follows wait for the second branch, and allow no more of it."""
        if self._is_forked:
            self._device.stream.wait_event(self._side.record_event())
        self._fork, self._is_forked = None, False

    def _widen(self, kwargs: dict[str, Any]) -> None:
        """More threads, each with fewer contacts."""
        inputs, second = kwargs["inputs"], kwargs["dim"][1]
        strides, length = inputs[-2], inputs[-1]
        wide = math.ceil(self._device.sm_count * self._blocks * _THREADS_PER_BLOCK / second)
        if wide > length:
            capacity = strides * length  # at least the number of contacts there is room for
            kwargs["dim"] = (wide, second)
            kwargs["inputs"] = [*inputs[:-2], math.ceil(capacity / wide), wide]
