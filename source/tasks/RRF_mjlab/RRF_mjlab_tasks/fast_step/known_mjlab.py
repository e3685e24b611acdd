"""Which mjlab the fast step mirrors: the source of every function whose behavior it reproduces, by fingerprint."""

from __future__ import annotations

import hashlib
import importlib
import inspect
from collections.abc import Mapping
from importlib.metadata import version

KNOWN_MINOR = "1.6."

MIRRORED: dict[str, str] = {
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
}


def fingerprint(path: str) -> str:
    """First characters of the SHA-256 of the source of `module:Class.function`; empty if it doesn't exist."""
    module, _, qualified = path.partition(":")
    target: object = importlib.import_module(module)
    for name in qualified.split("."):
        target = getattr(target, name, None)
        if target is None:
            return ""
    return hashlib.sha256(inspect.getsource(target).encode()).hexdigest()[:12]  # type: ignore[arg-type]


def changed_functions(known: Mapping[str, str]) -> list[str]:
    """Those whose source differs from what was recorded."""
    return [path for path, value in known.items() if fingerprint(path) != value]


def refusal() -> str:
    """Why the installed mjlab is not the one that is mirrored, or an empty string."""
    installed = version("mjlab")
    if not installed.startswith(KNOWN_MINOR):
        return f"mjlab {installed} is installed, and the fast step knows {KNOWN_MINOR}*"
    changed = changed_functions(MIRRORED)
    if changed:
        return f"mjlab {installed} changed {', '.join(path.partition(':')[2] for path in changed)}"
    return ""
