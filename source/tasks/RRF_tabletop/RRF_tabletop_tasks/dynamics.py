"""Dynamics of the table: the hand follows its command, fingers close over a block, a held block goes with the hand."""

from __future__ import annotations

from dataclasses import replace

import torch

from .scene import BLOCK, Scene

SPEED = 0.15
"""Furthest that the hand goes in a step, in x and in y."""
FINGER_SPEED = 1.0 / 3.0
"""Change of the aperture in a step."""
GRASP = 0.13
"""Blocks whose middle is at most this far from the hand's are caught."""


def move(scene: Scene, actions: torch.Tensor) -> Scene:
    """One step.

    Args:
        scene: of N environments.
        actions: `(N, 3)` in [-1, 1]: x, y, and fingers: open above 0, close otherwise.
    """
    hand = (scene.hand + SPEED * actions[:, :2]).clamp(-1.0, 1.0)
    wanted = (actions[:, 2] > 0).float()
    aperture = scene.aperture + (wanted - scene.aperture).clamp(-FINGER_SPEED, FINGER_SPEED)
    closes = (scene.aperture > 0.5) & (aperture <= 0.5)
    opens = (scene.aperture <= 0.5) & (aperture > 0.5)

    distance = (scene.blocks - hand.unsqueeze(1)).norm(dim=2)
    nearest, index = distance.min(dim=1)
    held = torch.where(closes & (nearest <= GRASP), index, scene.held)
    numbers = torch.arange(scene.blocks.shape[1], device=hand.device)
    moves = (numbers == held.unsqueeze(1)).unsqueeze(2)  # (N, B, 1)
    blocks = torch.where(moves, hand.unsqueeze(1), scene.blocks)
    dropped = opens & (held >= 0)
    blocks = torch.where(dropped.view(-1, 1, 1), _pushed_aside(blocks, hand, moves), blocks)
    held = torch.where(opens, -1, held)
    return replace(scene, hand=hand, aperture=aperture, held=held, blocks=blocks)


def _pushed_aside(blocks: torch.Tensor, dropped: torch.Tensor, is_dropped: torch.Tensor) -> torch.Tensor:
    """Blocks that lie where another one is dropped, at `dropped` `(N, 2)`, slide away until they only touch it."""
    away = blocks - dropped.unsqueeze(1)
    distance = away.norm(dim=2, keepdim=True)
    # Exactly below it there is no direction: to the right then.
    right = torch.stack([torch.ones_like(distance), torch.zeros_like(distance)], dim=2).squeeze(3)
    direction = torch.where(distance > 1e-6, away / distance.clamp(min=1e-6), right)
    slid = dropped.unsqueeze(1) + direction * distance.clamp(min=2.3 * BLOCK)
    return torch.where(is_dropped, blocks, slid.clamp(-1.0, 1.0))
