"""Supported versions of mjlab and MuJoCo Warp, by fingerprints of the source that the fast step reproduces or uses.

`changes` prints the differences of another version; `docs/adding/mjlab_version.md` says how to support it.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
from collections.abc import Iterable
from importlib.metadata import version
from typing import Any

KNOWN_MINOR = "1.6."

FINGERPRINTS: dict[str, str] = {
    "mjlab.envs.manager_based_rl_env:ManagerBasedRlEnv.step": "349ee31687a4",
    "mjlab.envs.manager_based_rl_env:ManagerBasedRlEnv.reset": "9ea6ab767920",
    "mjlab.envs.manager_based_rl_env:ManagerBasedRlEnv._reset_idx": "46d95f86728a",
    "mjlab.managers.action_manager:ActionManager": "bd155ef19ca3",
    "mjlab.managers.command_manager:CommandTerm": "68727d586854",
    "mjlab.managers.command_manager:CommandManager": "eab84bc633f3",
    "mjlab.managers.curriculum_manager:CurriculumManager": "2673ffb53fdf",
    "mjlab.managers.event_manager:EventManager": "c0ff08a23925",
    "mjlab.managers.metrics_manager:MetricsManager": "3ca3a7ed0d0e",
    "mjlab.managers.observation_manager:ObservationManager": "2cac66ef8439",
    "mjlab.managers.reward_manager:RewardManager": "02d57d15141f",
    "mjlab.managers.termination_manager:TerminationManager": "37e8c7935ebc",
    "mjlab.entity.entity:Entity.reset": "b3dbfc7f24e5",
    "mjlab.entity.data:EntityData.clear_state": "3e7e22dd65bd",
    "mjlab.actuator.actuator:Actuator.reset": "64ca1890cba9",
    "mjlab.envs.mdp.actions.actions:BaseAction.reset": "8b7573ba19fd",
    "mjlab.envs.mdp.curriculums:_apply_stages": "6f162a536871",
    "mjlab.tasks.velocity.mdp.velocity_command:UniformVelocityCommand": "a8039d3dbd7f",
    "mjlab.tasks.velocity.mdp.curriculums:terrain_levels_vel": "e7f07a21f976",
    "mjlab.tasks.velocity.mdp.curriculums:commands_vel": "4bbdbda68812",
    "mjlab.tasks.velocity.mdp.terrain_utils:fit_terrain_normal": "8af9b824f9e9",
    "mjlab.tasks.manipulation.mdp.commands:LiftingCommand": "288b8e6dc0dd",
    "mjlab.tasks.manipulation.mdp.commands:MultiCubeLiftingCommand": "797a892e7e81",
    "mjlab.tasks.tracking.mdp.commands:MotionCommand": "445a4b647e70",
    "mjlab.terrains.terrain_entity:TerrainEntity.update_env_origins": "0950ed997008",
    "mjlab.scene.scene:Scene": "6b7bf2f35af0",
    "mjlab.sensor.sensor:Sensor": "9a1a29240f67",
    "mjlab.sensor.sensor_context:SensorContext.prepare": "800215cb80de",
    "mjlab.sensor.sensor_context:SensorContext.finalize": "20a59aaf6414",
    "mjlab.sensor.contact_sensor:ContactSensor.reset": "2387790e082a",
    "mjlab.sensor.contact_sensor:ContactSensor._compute_data": "a772595c4c5c",
    "mjlab.sensor.raycast_sensor:RayCastSensor._extract_yaw_rotation": "48424559689a",
    "mjlab.sim.sim:Simulation": "5cf7744894d6",
    "mjlab.sim.sim_data:TorchArray": "ead014c1304d",
    "mjlab.sim.sim_data:WarpBridge": "d500924f3bc6",
    "mjlab.utils.buffers.circular_buffer:CircularBuffer": "c8203e0e3d66",
    "mjlab.utils.buffers.delay_buffer:DelayBuffer": "8ebafced91aa",
    "mujoco_warp._src.forward:forward": "b90e17c1687f",
    "mujoco_warp._src.forward:fwd_position": "ea6e5f8bfc4e",
    "mujoco_warp._src.forward:fwd_velocity": "77b8164c8b95",
    "mujoco_warp._src.forward:fwd_actuation": "73f91c4edbe5",
    "mujoco_warp._src.forward:fwd_acceleration": "9f2cf189f4ae",
    "mujoco_warp._src.forward:step": "d9055075bcee",
    "mujoco_warp._src.collision_driver:collision": "3d1c73121265",
    "mujoco_warp._src.constraint:make_constraint": "7e5cb296c429",
    "mujoco_warp._src.smooth:crb": "5e42220d8762",
    "mujoco_warp._src.smooth:transmission": "63551a400bee",
    "mujoco_warp._src.sensor:sensor_pos": "27a16a292aeb",
    "mujoco_warp._src.sensor:sensor_vel": "9035ef404385",
    "mujoco_warp._src.passive:passive": "e5a0c75168a0",
    "mujoco_warp._src.solver:init_context": "39ae65b78736",
    "mujoco_warp._src.solver:_solve": "5528c91f9778",
    "mujoco_warp._src.solver:_solver_iteration": "06d3e27168cb",
    "mujoco_warp._src.solver:_linesearch": "2c8ccfa28976",
    "mujoco_warp._src.solver:_update_constraint": "e1e8685539e4",
    "mujoco_warp._src.solver:_update_gradient": "54c690ba6297",
    "mujoco_warp._src.solver:_update_gradient_incremental": "8191cf2e5cc8",
    "mujoco_warp._src.solver:_cholesky_factorize_solve": "ceeacc189391",
    "mujoco_warp._src.support:mul_m": "ba226227582d",
}
"""`module:Class.function` -> first characters of the SHA-256 of its source."""

MIRRORED = tuple(path for path in FINGERPRINTS if path.startswith("mjlab."))
"""Functions that the fast step reproduces or calls by private names; it is refused if one differs."""

LATE_STEP = tuple(
    f"mujoco_warp._src.forward:{name}" for name in ("forward", "step", "fwd_acceleration", "fwd_actuation")
)
"""Functions behind the late first substep, which starts where `forward` ended; a whole step if one differs."""

PHYSICS_BRANCHES = tuple(
    path for path in FINGERPRINTS if path.startswith("mujoco_warp.") and path != "mujoco_warp._src.forward:step"
)
"""Functions that were read to find independent kernels; all are recorded in sequence if one differs."""


def fingerprint(source: str) -> str:
    """Return the first characters of the SHA-256 of `source`."""
    return hashlib.sha256(source.encode()).hexdigest()[:12]


def installed_source(path: str) -> str:
    """Return the source of `module:Class.function` as it runs; empty if it doesn't exist."""
    module, _, qualified = path.partition(":")
    try:
        target: Any = importlib.import_module(module)
        for name in qualified.split("."):
            target = getattr(target, name)
    except (ModuleNotFoundError, AttributeError):
        return ""
    return inspect.getsource(target)


def changed_functions(paths: Iterable[str]) -> list[str]:
    """Return those of `paths` whose source is not the known one."""
    return [path for path in paths if fingerprint(installed_source(path)) != FINGERPRINTS[path]]


def refusal() -> str:
    """Return why the installed mjlab is not the mirrored one, or an empty string."""
    installed = version("mjlab")
    if not installed.startswith(KNOWN_MINOR):
        return f"mjlab {installed} is installed, and the fast step knows {KNOWN_MINOR}*"
    changed = changed_functions(MIRRORED)
    if changed:
        return f"mjlab {installed} changed {', '.join(path.partition(':')[2] for path in changed)}"
    return ""
