"""`terrain_utils.fit_terrain_normal` with an eigendecomposition that doesn't report to the host."""

from __future__ import annotations

import torch


def fit_terrain_normal(points: torch.Tensor, valid_mask: torch.Tensor) -> torch.Tensor:
    """Fit the normal of the plane through each cloud of points, by least squares.

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
    """Return ascending eigenvalues, and the eigenvector of the smallest, of symmetric `(B, 3, 3)`, by cyclic Jacobi.

    Three rotations a sweep annihilate the off-diagonal entries in turn (Golub and Van Loan, Matrix Computations, 8.5);
    for 3 x 3 in float32 the off-diagonal is at rounding level after four sweeps.
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
    """Apply one Jacobi rotation that zeroes the entry `(p, q)`."""
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
