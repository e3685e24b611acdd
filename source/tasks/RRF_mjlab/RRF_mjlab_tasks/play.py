"""Additions to playing for MJLab policies: tracking errors, mjlab's viewers, mjlab's ONNX metadata."""

from __future__ import annotations

from typing import Any

import torch
from RoboRenForce.algorithms import Policy
from RoboRenForce.envs.vec_env import VecEnv


def velocity_errors(simulator: Any) -> dict[str, dict[str, torch.Tensor]]:
    """Return the distance of the base velocity from the command: `linear` (x, y) in m/s, `angular` (yaw) in rad/s.

    Args:
        simulator: mjlab's environment; the result is empty if it has no velocity command.
    """
    if "twist" not in simulator.command_manager.active_terms:
        return {}
    command = simulator.command_manager.get_command("twist")
    data = simulator.scene["robot"].data
    linear = (command[:, :2] - data.root_link_lin_vel_b[:, :2]).norm(dim=-1)
    angular = (command[:, 2] - data.root_link_ang_vel_b[:, 2]).abs()
    return {"velocity_error": {"linear": linear, "angular": angular}}


def tracking_errors(simulator: Any) -> dict[str, dict[str, torch.Tensor]]:
    """Return the distance of the robot from the motion that it tracks; empty if it tracks none.

    `body` is the mean over the tracked bodies in m, `body_relative` the same with the motion moved to the robot and
    turned to its heading, `joint` the root mean square over joints in rad.

    Args:
        simulator: mjlab's environment.
    """
    from mjlab.tasks.tracking.mdp import MotionCommand
    from mjlab.tasks.tracking.mdp.metrics import compute_mpkpe, compute_root_relative_mpkpe

    manager = simulator.command_manager
    for term in (manager.get_term(name) for name in manager.active_terms):
        if isinstance(term, MotionCommand):
            joint = (term.joint_pos - term.robot_joint_pos).square().mean(dim=-1).sqrt()
            body, relative = compute_mpkpe(term), compute_root_relative_mpkpe(term)
            return {"tracking_error": {"body": body, "body_relative": relative, "joint": joint}}
    return {}


def onnx_metadata(simulator: Any, run: str, action_bounds: torch.Tensor | None = None) -> dict[str, str]:
    """Return mjlab's metadata of ONNX files as text: joints, gains, default positions, scales, names.

    For a policy that acts in [-1, 1] the scales include `action_bounds` `(A,)`, so that mjlab's tools compute the right
    actions from its output.

    The result is empty for tasks whose actions are not joint positions.
    """
    from mjlab.envs.mdp.actions import JointPositionAction
    from mjlab.rl.exporter_utils import get_base_metadata, list_to_csv_str

    actions = simulator.action_manager
    if "joint_pos" not in actions.active_terms or not isinstance(actions.get_term("joint_pos"), JointPositionAction):
        return {}
    metadata = get_base_metadata(simulator, run)
    if action_bounds is not None:
        scale = torch.as_tensor(metadata["action_scale"], device=action_bounds.device)
        metadata["action_scale"] = (scale * action_bounds).tolist()
    return {key: list_to_csv_str(value) if isinstance(value, list) else str(value) for key, value in metadata.items()}


def view(env: VecEnv, policy: Policy, kind: str, steps: int | None) -> None:
    """Run one of mjlab's viewers until it is closed, or for `steps` steps."""
    from mjlab.viewer import NativeMujocoViewer, ViserPlayViewer

    viewer = (ViserPlayViewer if kind == "viser" else NativeMujocoViewer)(env, policy)
    viewer.run(num_steps=steps)
