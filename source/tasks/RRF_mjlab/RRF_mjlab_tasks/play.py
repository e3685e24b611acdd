"""What playing an MJLab policy adds to playing in general: tracking errors, mjlab's viewers, mjlab's ONNX metadata."""

from __future__ import annotations

import json
from typing import Any

import torch
from RoboRenForce.algorithms import Policy
from RoboRenForce.envs.vec_env import VecEnv
from RoboRenForce.runners.play_run import PlayRun
from RoboRenForce.runners.runner import Runner
from RoboRenForce.utils.console import say
from RoboRenForce.utils.run_dir import write_text_atomically

TRACKING_STEPS = 500
"""Steps over which the tracking error is averaged: ten seconds at 50 Hz."""


def measure_tracking(run: PlayRun, runner: Runner) -> dict[str, float]:
    """Mean velocity error of all environments over ten seconds, printed and added to `eval.json`; {} without one."""
    errors = velocity_errors(runner.env, runner.policy(), TRACKING_STEPS)
    if errors:
        say(f"tracking      {errors['linear']:.3f} m/s linear, {errors['angular']:.3f} rad/s angular error")
        content = json.loads(run.run_dir.evaluation.read_text())
        content["velocity_error"] = errors | {"num_envs": runner.env.num_envs, "steps": TRACKING_STEPS}
        write_text_atomically(run.run_dir.evaluation, json.dumps(content, indent=1) + "\n")
    return errors


@torch.no_grad()
def velocity_errors(env: VecEnv, policy: Policy, steps: int) -> dict[str, float]:
    """Mean distance of the base velocity from the command: `linear` in m/s (x and y), `angular` in rad/s (yaw)."""
    simulator: Any = env.unwrapped
    if "twist" not in simulator.command_manager.active_terms:
        return {}
    obs, _ = env.reset()
    policy.reset()
    linear, angular = torch.zeros((), device=env.device), torch.zeros((), device=env.device)
    for _ in range(steps):
        obs, _, dones, _ = env.step(policy(obs))
        policy.reset(dones)
        command = simulator.command_manager.get_command("twist")
        data = simulator.scene["robot"].data
        linear += (command[:, :2] - data.root_link_lin_vel_b[:, :2]).norm(dim=-1).mean()
        angular += (command[:, 2] - data.root_link_ang_vel_b[:, 2]).abs().mean()
    return {"linear": float(linear / steps), "angular": float(angular / steps)}


def onnx_metadata(env: VecEnv, run_name: str) -> dict[str, str]:
    """The metadata that mjlab writes into its ONNX files, as text: joints, gains, default positions, scales, names.

    Tasks whose actions are not joint positions have no such description and get an empty one.
    """
    from mjlab.envs.mdp.actions import JointPositionAction
    from mjlab.rl.exporter_utils import get_base_metadata, list_to_csv_str

    simulator: Any = env.unwrapped
    actions = simulator.action_manager
    if "joint_pos" not in actions.active_terms or not isinstance(actions.get_term("joint_pos"), JointPositionAction):
        return {}
    metadata = get_base_metadata(simulator, run_name)
    return {key: list_to_csv_str(value) if isinstance(value, list) else str(value) for key, value in metadata.items()}


def view(env: VecEnv, policy: Policy, kind: str, steps: int | None) -> None:
    """Run one of mjlab's viewers until it is closed, or for `steps` steps."""
    from mjlab.viewer import NativeMujocoViewer, ViserPlayViewer

    viewer = (ViserPlayViewer if kind == "viser" else NativeMujocoViewer)(env, policy)
    viewer.run(num_steps=steps)
