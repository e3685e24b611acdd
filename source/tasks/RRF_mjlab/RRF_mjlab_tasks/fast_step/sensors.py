"""Sensors without host reads: yaw frames, terrain normals, contact data after a reset.

Each function here computes what mjlab's computes, with `torch.where` in place of a branch on a value.
"""

from __future__ import annotations

import dataclasses
import types
from typing import Any

import torch
from mjlab.envs import ManagerBasedRlEnv
from mjlab.sensor import BuiltinSensor, ContactSensor, RayCastSensor, Sensor
from mjlab.sensor.camera_sensor import CameraSensor
from mjlab.tasks.velocity.mdp import terrain_utils

_SINGULAR_BELOW = 0.1
"""Horizontal length of the x axis below which mjlab takes the heading from the y axis."""


def adopt_sensors(env: ManagerBasedRlEnv) -> None:
    """Let ray sensors of this environment find their yaw without asking the host."""
    for sensor in env.scene.sensors.values():
        if isinstance(sensor, RayCastSensor):
            sensor._extract_yaw_rotation = types.MethodType(_yaw_rotation, sensor)  # type: ignore[method-assign]


def _yaw_rotation(sensor: RayCastSensor, rot_mat: torch.Tensor) -> torch.Tensor:
    """Rotation about z of each frame `(B, 3, 3)`: from the x axis, or from the y axis where x is nearly vertical."""
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


class ContactReadings:
    """What observations see of contact sensors after `forward()`.

    mjlab keeps the data that rewards have read, unless some environment was reset, which invalidates the cache of
    all. So a contact observation is one substep old in steps without any reset. The same choice is made here, on
    the device.
    """

    def __init__(self, env: ManagerBasedRlEnv) -> None:
        kept = (BuiltinSensor, RayCastSensor, CameraSensor)  # views of live data, or invalidated by sense()
        self._sensors = [sensor for sensor in env.scene.sensors.values() if not isinstance(sensor, kept)]
        self._stale: list[tuple[Sensor, Any]] = []

    def keep(self) -> None:
        """Before the reset: remember what is cached."""
        self._stale = [(sensor, sensor._cached_data) for sensor in self._sensors if sensor._cache_valid]

    def invalidate(self) -> None:
        """Forget all caches, as a reset does."""
        for sensor in self._sensors:
            sensor._invalidate_cache()

    def merge(self, any_done: torch.Tensor) -> None:
        """After `forward()`: read the sensors anew if `any_done`, bool `()`, is True, else serve what was cached."""
        for sensor, stale in self._stale:
            fresh = sensor._compute_data()
            sensor._cached_data = _choose(any_done, fresh, stale)
            sensor._cache_valid = True


def _choose(condition: torch.Tensor, chosen: Any, other: Any) -> Any:
    if torch.is_tensor(chosen):
        return chosen if chosen is other else torch.where(condition, chosen, other)
    if dataclasses.is_dataclass(chosen) and not isinstance(chosen, type):
        values = {
            field.name: _choose(condition, getattr(chosen, field.name), getattr(other, field.name))
            for field in dataclasses.fields(chosen)
        }
        return type(chosen)(**values)
    return chosen


def reset_contact_sensor(sensor: ContactSensor, mask: torch.Tensor) -> None:
    """`ContactSensor.reset` for the rows of `mask`, bool `(num_envs,)`."""
    rows = mask.unsqueeze(1)
    if sensor._air_time_state is not None:
        for value in vars(sensor._air_time_state).values():
            value.masked_fill_(rows, 0.0)
    for value in (sensor._history_state or {}).values():
        value.masked_fill_(mask.view(-1, *[1] * (value.dim() - 1)), 0.0)


def fit_terrain_normal(points: torch.Tensor, valid_mask: torch.Tensor) -> torch.Tensor:
    """`terrain_utils.fit_terrain_normal` with an eigen decomposition that doesn't report to the host.

    Args:
        points: `(B, N, 3)`, hits in the world frame.
        valid_mask: bool `(B, N)`.

    Returns:
        `(B, 3)` unit normals that point up; `(0, 0, 1)` where fewer than three points are valid or they span no plane.
    """
    count = valid_mask.sum(dim=1)
    weight = valid_mask.float().unsqueeze(-1)
    centroid = (points * weight).sum(dim=1) / count.clamp(min=1).float().unsqueeze(-1)
    centered = (points - centroid.unsqueeze(1)) * weight
    covariance = torch.einsum("bni,bnj->bij", centered, centered)
    finite = torch.isfinite(covariance).all(dim=(-2, -1))
    identity = torch.eye(3, device=points.device, dtype=points.dtype)
    covariance = torch.where(finite.view(-1, 1, 1), covariance, identity)

    eigenvalues, normal = smallest_eigenvector(covariance)
    normal = torch.where((normal[:, 2] < 0).unsqueeze(-1), -normal, normal)
    eps = torch.finfo(eigenvalues.dtype).eps
    plane_like = (eigenvalues[:, 0] / eigenvalues[:, 1].clamp(min=eps)) < 0.1
    has_spread = eigenvalues[:, 1] > eigenvalues[:, 2].clamp(min=eps) * 1e-6
    reliable = (count >= 3) & plane_like & has_spread & finite
    up = torch.zeros_like(normal)
    up[:, 2] = 1.0
    return torch.where(reliable.unsqueeze(-1), normal, up)


def smallest_eigenvector(matrix: torch.Tensor, sweeps: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    """Eigenvalues in ascending order and the eigenvector of the smallest, of symmetric `(B, 3, 3)`, by cyclic Jacobi.

    Three rotations a sweep annihilate the off-diagonal entries in turn (Golub and Van Loan, Matrix Computations,
    8.5); for 3 x 3 in float32 the off-diagonal is at rounding level after four sweeps.
    """
    work = matrix.double()
    vectors = torch.eye(3, device=matrix.device, dtype=torch.float64).expand_as(work).clone()
    for _ in range(sweeps):
        for p, q in ((0, 1), (0, 2), (1, 2)):
            work, vectors = _rotate(work, vectors, p, q)
    values = torch.diagonal(work, dim1=1, dim2=2)
    ordered = values.sort(dim=1)
    index = ordered.indices[:, :1].unsqueeze(1).expand(-1, 3, 1)
    vector = vectors.gather(2, index).squeeze(2)
    return ordered.values.to(matrix.dtype), vector.to(matrix.dtype)


def _rotate(work: torch.Tensor, vectors: torch.Tensor, p: int, q: int) -> tuple[torch.Tensor, torch.Tensor]:
    """One Jacobi rotation that zeroes the entry `(p, q)`."""
    off = work[:, p, q]
    safe = torch.where(off == 0, torch.ones_like(off), off)
    theta = (work[:, q, q] - work[:, p, p]) / (2.0 * safe)
    tangent = torch.copysign(torch.ones_like(theta), theta) / (theta.abs() + torch.sqrt(theta * theta + 1.0))
    tangent = torch.where(off == 0, torch.zeros_like(tangent), tangent)
    cos = torch.rsqrt(tangent * tangent + 1.0)
    sin = tangent * cos
    rotation = torch.eye(3, device=work.device, dtype=work.dtype).expand_as(work).clone()
    rotation[:, p, p], rotation[:, q, q] = cos, cos
    rotation[:, p, q], rotation[:, q, p] = sin, -sin
    return rotation.transpose(1, 2) @ work @ rotation, vectors @ rotation


class HostFreeTerrainNormals:
    """Serves `fit_terrain_normal` of this module to mjlab's reward terms inside the block."""

    def __enter__(self) -> None:
        """Exchange the function."""
        self._theirs = terrain_utils.fit_terrain_normal
        terrain_utils.fit_terrain_normal = fit_terrain_normal

    def __exit__(self, *exc_info: object) -> None:
        """Put mjlab's back."""
        terrain_utils.fit_terrain_normal = self._theirs
