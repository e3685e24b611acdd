"""Recording of MuJoCo Warp's step with independent kernels in parallel.

With some thousand environments every kernel of a step is short and leaves most of the GPU idle, and all of them wait
for one another. Three groups don't have to:

    inertia > velocities > smooth forces > acceleration  |  contacts > constraints             >  solver
    forces of the constraints > gradient                 |  the Hessian, from J, D and states  >  factorization
    M @ search                                           |  J @ search                         >  line search

The left sides stay on the first stream, the right sides go to a second one, and kernels that need both wait for both.
Only the order of independent kernels changes, so the numbers are those of the plain recording.

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
"""Kernels that write forces and states of the constraints."""

_GRADIENT = {
    "_zero_qfrc_constraint_sparse",
    "_update_constraint_init_qfrc_constraint_sparse",
    "_update_constraint_init_qfrc_constraint_dense",
    "_update_gradient_zero_grad_dot",
    "_update_gradient_grad",
}
"""Kernels that read the forces and write the constraints' generalized force, the gradient and scalars of worlds."""

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
"""Kernels that read M, J, D, the states and contacts; they write the Hessian."""

_CONES = {"_update_gradient_JTCJ_sparse", "_update_gradient_JTCJ_dense"}
"""Kernels whose threads stride over the contacts; their last two inputs are the number of strides and its length."""

_MASS_PRODUCT = "mul_m_kernel"
_JACOBIAN_PRODUCT = "_linesearch_jv_fused_kernel"

_THREADS_PER_BLOCK = 256
CONTACT_BLOCKS_PER_SM = 24
"""Blocks per multiprocessor; MuJoCo Warp launches 6, which gives each thread several contacts in sequence."""


@contextlib.contextmanager
def physics_branches(model: Any, device: Any, *, solver_branches: bool = True) -> Iterator[None]:
    """Record launches inside the block in branches, as far as they are known to be independent.

    Args:
        model: warp's model.
        device: warp's CUDA device, which is capturing inside the block.
        solver_branches: True to give the solver a second branch.
    """
    if branches_refusal(model):
        yield
        return
    side = wp.Stream(device)
    recorder = _SolverRecorder(device, side, solver_branches)
    launches = {name: recorder.wrapped(getattr(wp, name)) for name in ("launch", "launch_tiled")}
    with replaced(wp, **launches), _contacts_aside(_Branch(device, side)):
        yield


def branches_refusal(model: Any) -> str:
    """Return why there are no branches, or an empty string."""
    if changed := changed_functions(PHYSICS_BRANCHES):
        return f"MuJoCo Warp changed {', '.join(path.partition(':')[2] for path in changed)}"
    return "contacts or constraints are read early" if _has_rarities(model) else ""


def _has_rarities(model: Any) -> bool:
    """Return True if contacts or constraints are read before the solver, or constraints read velocities."""
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


class _Branch:
    """The second stream, from where it leaves the first one to where the first one waits for it."""

    def __init__(self, device: Any, side: Any) -> None:
        self._device, self.side = device, side
        self._fork: Any = None
        self._is_used = False

    @property
    def is_open(self) -> bool:
        """True if kernels may be sent to the second stream."""
        return self._fork is not None

    def fork(self) -> None:
        """Start the branch here."""
        self._fork = self._device.stream.record_event()

    def use(self) -> Any:
        """Return the second stream, which waits for the fork."""
        if not self._is_used:
            self.side.wait_event(self._fork)
            self._is_used = True
        return self.side

    def join(self) -> None:
        """Let the first stream wait for the branch, and close it."""
        if self._is_used:
            self._device.stream.wait_event(self.side.record_event())
        self._fork, self._is_used = None, False


@contextlib.contextmanager
def _contacts_aside(branch: _Branch) -> Iterator[None]:
    """Find contacts and make constraints on the second stream, from the inertia to the solver."""

    def after(first: Callable[[], None], function: Callable[..., None]) -> Callable[..., None]:
        def run(*args: Any, **kwargs: Any) -> None:
            first()
            function(*args, **kwargs)

        return run

    def aside(function: Callable[..., None]) -> Callable[..., None]:
        def run(*args: Any, **kwargs: Any) -> None:
            with wp.ScopedStream(branch.use(), sync_enter=False) if branch.is_open else contextlib.nullcontext():
                function(*args, **kwargs)

        return run

    with (
        replaced(smooth, crb=after(branch.fork, smooth.crb)),
        replaced(collision_driver, collision=aside(collision_driver.collision)),
        replaced(constraint, make_constraint=aside(constraint.make_constraint)),
        replaced(solver, solve=after(branch.join, solver.solve)),
    ):
        yield
        branch.join()


class _SolverRecorder:
    """Send each launch of the solver to one of two streams, and let all others wait for both."""

    def __init__(self, device: Any, side: Any, branches: bool) -> None:
        self._device = device
        self._branches = branches
        self._branch = _Branch(device, side)
        self._side_kernels: set[str] = set()
        """Kernels that may run in the second branch since the fork."""

    def wrapped(self, plain: Callable[..., Any]) -> Callable[..., Any]:
        """Return `wp.launch` or `wp.launch_tiled` with branches."""
        return lambda kernel, *args, **kwargs: self._launch(plain, kernel, *args, **kwargs)

    def _launch(self, plain: Callable[..., Any], kernel: Any, *args: Any, **kwargs: Any) -> Any:
        name = kernel.key.partition("__locals__")[0]
        if name in _CONES:
            self._widen(kwargs)
        if not self._branches:
            return plain(kernel, *args, **kwargs)
        if self._branch.is_open and name in self._side_kernels:
            return plain(kernel, *args, **kwargs, stream=self._branch.use())
        if name not in _GRADIENT:
            self._branch.join()
        if name == _MASS_PRODUCT:
            self._fork_for({_JACOBIAN_PRODUCT})
        result = plain(kernel, *args, **kwargs)
        if name == _STATES:
            self._fork_for(_HESSIAN)
        return result

    def _fork_for(self, kernels: set[str]) -> None:
        self._branch.fork()
        self._side_kernels = kernels

    def _widen(self, kwargs: dict[str, Any]) -> None:
        """Launch more threads, each with fewer contacts."""
        inputs, second = kwargs["inputs"], kwargs["dim"][1]
        strides, length = inputs[-2], inputs[-1]
        wide = math.ceil(self._device.sm_count * CONTACT_BLOCKS_PER_SM * _THREADS_PER_BLOCK / second)
        if wide > length:
            capacity = strides * length  # at least the number of contacts there is room for
            kwargs["dim"] = (wide, second)
            kwargs["inputs"] = [*inputs[:-2], math.ceil(capacity / wide), wide]
