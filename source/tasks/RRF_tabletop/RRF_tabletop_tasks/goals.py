"""Success, failure and progress by task: functions of the scene.

Progress is a potential: the dense reward is its difference over a step (Ng et al. 1999), so going back and forth earns
nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch

from .scene import PLATE, POST, Scene

TaskName = Literal["Place", "Reach", "Fork"]

REACHED = 0.1
"""Distance at which the hand is at a block."""
PLACED = 0.7 * PLATE
"""Distance from the middle of a plate at which a block is on it."""


@dataclass(frozen=True)
class Goal:
    """One task; functions of a scene of N environments return `(N,)`."""

    is_done: Callable[[Scene], torch.Tensor]
    has_failed: Callable[[Scene], torch.Tensor] | None
    progress: Callable[[Scene], torch.Tensor]
    num_blocks: int
    num_plates: int
    has_post: bool
    max_episode_length: int


def _distance(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    return (first - second).norm(dim=-1)


def _reached(scene: Scene) -> torch.Tensor:
    return _distance(scene.hand, scene.target) < REACHED


def _approach(scene: Scene) -> torch.Tensor:
    return -_distance(scene.hand, scene.target)


def _placed(scene: Scene) -> torch.Tensor:
    return (_distance(scene.target, scene.place) < PLACED) & (scene.held != scene.goal[:, 0])


def _carry(scene: Scene) -> torch.Tensor:
    """Nearer to the block, holding it, and nearer to the plate."""
    holds = scene.held == scene.goal[:, 0]
    return 0.25 * holds - torch.where(holds, 0.0, -_approach(scene)) - _distance(scene.target, scene.place)


def _touches_post(scene: Scene) -> torch.Tensor:
    return (_distance(scene.hand.unsqueeze(1), scene.posts) < POST).any(dim=1)


def _way_around(scene: Scene) -> torch.Tensor:
    """Minus the way that is left, by the side of the post where the hand is."""
    hand, post, target = scene.hand, scene.posts[:, 0], scene.target
    side = torch.where(hand[:, 0] >= post[:, 0], 1.0, -1.0)
    corner = post + torch.stack([side * 1.5 * POST, torch.zeros_like(side)], dim=1)
    around = _distance(hand, corner) + _distance(corner, target)
    return -torch.where(hand[:, 1] < post[:, 1], around, _distance(hand, target))


GOALS: dict[TaskName, Goal] = {
    "Place": Goal(_placed, None, _carry, num_blocks=3, num_plates=2, has_post=False, max_episode_length=60),
    "Reach": Goal(_reached, None, _approach, num_blocks=3, num_plates=0, has_post=False, max_episode_length=25),
    "Fork": Goal(
        _reached, _touches_post, _way_around, num_blocks=1, num_plates=0, has_post=True, max_episode_length=40
    ),
}
"""Task -> what it is about."""
