"""Scale of mjlab's actions for a policy that acts within [-1, 1].

mjlab's actions have no bounds: they are offsets in units that the task chose. Policies of SAC and TD3 act in a box,
whose border needs a meaning.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from mjlab.envs.mdp.actions import JointPositionAction
from RoboRenForce.utils.errors import UserError


def action_bounds(env: Any, bound: float | Literal["joint_limits"]) -> torch.Tensor:
    """Return mjlab's action for the policy's action 1, `(A,)`.

    Args:
        env: mjlab's environment.
        bound: One number for all actions, or "joint_limits": the largest offset that leads to a joint's limit, to the
            farther one of its two.

    Raises:
        UserError: "joint_limits" for a task whose actions are not joint positions, or for a joint without limits.
    """
    manager = env.action_manager
    if bound != "joint_limits":
        return torch.full((manager.total_action_dim,), float(bound), device=env.device)
    return torch.cat([_of_term(name, manager.get_term(name)) for name in manager.active_terms])


def _of_term(name: str, term: Any) -> torch.Tensor:
    if not isinstance(term, JointPositionAction):
        raise UserError(
            f"action_bound=joint_limits needs joint positions as actions, and action '{name}' is a "
            f"{type(term).__name__}: give env.action_bound a number."
        )
    limits = term._entity.data.default_joint_pos_limits[0, term.target_ids]  # (A, 2)
    offset, scale = _first_row(term.offset, limits), _first_row(term.scale, limits)
    bounds = (limits - offset.unsqueeze(-1)).abs().amax(-1) / scale
    endless = [joint for joint, value in zip(term.target_names, bounds.tolist(), strict=True) if not 0 < value < 1e3]
    if endless:
        raise UserError(
            f"action_bound=joint_limits: {', '.join(endless[:4])} have no limits: give env.action_bound a number."
        )
    return bounds


def _first_row(value: torch.Tensor | float, limits: torch.Tensor) -> torch.Tensor:
    """Return a setting of an action term, `(N, A)` or one number, as `(A,)`."""
    return value[0] if isinstance(value, torch.Tensor) else limits.new_full((len(limits),), value)
