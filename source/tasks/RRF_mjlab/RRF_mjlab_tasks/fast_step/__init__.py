"""mjlab's environment step without the host: fixed sizes, CUDA graphs, the same numbers.

`make_fast_step` is the way in; nothing outside this package imports its modules. What of mjlab each one replaces, and
why:

    step                   ManagerBasedRlEnv.step               Python between kernels: the GPU waits for the host
    program                the order of that step               resets of indexed rows become masks of fixed size
    mjlab_version, changes fingerprints of what is mirrored     another mjlab must be seen before it is stepped wrongly
    replaced               (attributes for the length of a block)

    masked/                the managers, for a mask of rows instead of `env_ids`
      rows                 functions that take `env_ids`        the number of ids is known on the host only
      events               EventManager                         which event is due is a branch on values
      commands             CommandTerm and its subclasses       resampling and metrics of indexed rows
      motion_command       MotionCommand                        the same, and counts of failures per bin
      command_adapters     (which of them runs a term)
      curricula            CurriculumManager                    terrain levels of indexed rows
      resets               _reset_idx, the managers' reset      the same, with the statistics that mjlab logs
      observations         ObservationManager                   the last observation of an episode is never computed
      rewards              RewardManager.compute                seven operations per term where one does for all
      held_rows            (rows that a step leaves alone)      mjlab has none
      entity_memo          EntityData                           the same quantity is computed for every term anew
      sensors              ContactSensor                        whether its cache is stale is known on the host only
      host_free            three functions inside mjlab         they branch on values
      terrain_normals      terrain_utils.fit_terrain_normal     torch.linalg.eigh reports to the host
      buffers              CircularBuffer, DelayBuffer          the pointer is a Python number, frozen in a graph

    physics/
      simulation           Simulation                           streams; `forward` and the next `step` overlap
      branches             mujoco_warp.step                     independent kernels wait for one another

    capture/               what makes CUDA graphs of it, with no word of what a step does
      stages               stages, segments, fallbacks          what needs the host stays between the graphs
      host_reads           (finds what needs the host)
      host_values          weights and ranges                   numbers are frozen in a graph
      addresses            attributes bound to new tensors      a graph reads and writes fixed addresses
      constants            torch.tensor([...]), x[[0, 1]]       each copies from the host
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .errors import CannotCaptureError
from .mjlab_version import refusal

if TYPE_CHECKING:
    from mjlab.envs import ManagerBasedRlEnv

    from .step import FastStep

__all__ = ["CannotCaptureError", "make_fast_step", "refusal"]


def make_fast_step(
    env: ManagerBasedRlEnv, *, final_observations: bool, capture: bool, holds_rows: bool = False
) -> FastStep:
    """Build the `FastStep` of an environment that has been reset at least once; see there for the arguments.

    Raises:
        CannotCaptureError: The installed mjlab is another one, or the environment can't be stepped this way.
    """
    if reason := refusal():
        raise CannotCaptureError(reason)
    try:
        from .step import FastStep  # imports names that another MuJoCo Warp may not have
    except ImportError as error:
        raise CannotCaptureError(f"a name that the fast step needs is gone: {error}") from error
    return FastStep(env, final_observations=final_observations, capture=capture, holds_rows=holds_rows)
