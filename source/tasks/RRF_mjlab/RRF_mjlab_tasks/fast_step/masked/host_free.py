"""Functions of mjlab that branch on values, computed with `torch.where` instead.

They replace mjlab's while stages run and no longer. mjlab has no hook for them: terms and sensors call them by name, in
the middle of code that is otherwise fine.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from mjlab.managers.observation_manager import ObservationManager
from mjlab.sensor import RayCastSensor
from mjlab.tasks.velocity.mdp import terrain_utils

from ..replaced import replaced
from .terrain_normals import fit_terrain_normal

_SINGULAR_BELOW = 0.1
"""Horizontal length of the x axis below which mjlab takes the heading from the y axis."""


def yaw_rotation(sensor: RayCastSensor, rot_mat: torch.Tensor) -> torch.Tensor:
    """Return the rotation about z of each frame `(B, 3, 3)`: from its x axis, or from y where x is nearly vertical."""
    del sensor
    x_axis, y_axis = rot_mat[:, :2, 0], rot_mat[:, :2, 1]
    x_length = torch.linalg.vector_norm(x_axis, dim=1, keepdim=True)
    y_unit = y_axis / torch.linalg.vector_norm(y_axis, dim=1, keepdim=True).clamp(min=1e-6)
    from_y = torch.stack([y_unit[:, 1], -y_unit[:, 0]], dim=1)
    heading = torch.where(x_length < _SINGULAR_BELOW, from_y, x_axis / x_length.clamp(min=1e-6))
    cos, sin = heading[:, 0], heading[:, 1]
    zero = torch.zeros_like(cos)
    rows = [cos, -sin, zero, sin, cos, zero, zero, zero, torch.ones_like(cos)]
    return torch.stack(rows, dim=1).view(-1, 3, 3)


@contextlib.contextmanager
def host_free() -> Iterator[None]:
    """Replace mjlab's functions by those of this module inside the block."""
    theirs = ObservationManager._check_and_handle_nans
    with (
        replaced(RayCastSensor, _extract_yaw_rotation=yaw_rotation),
        replaced(ObservationManager, _check_and_handle_nans=_sanitizing(theirs)),
        replaced(terrain_utils, fit_terrain_normal=fit_terrain_normal),
    ):
        yield


def _sanitizing(theirs: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """Return `_check_and_handle_nans` that, for `sanitize`, doesn't check if there is anything to do."""

    def handle(manager: Any, tensor: torch.Tensor, context: str, policy: str) -> torch.Tensor:
        if policy == "sanitize":
            return torch.nan_to_num(tensor, nan=0.0, posinf=0.0, neginf=0.0)
        return theirs(manager, tensor, context, policy)  # the other policies report to the host

    return handle
