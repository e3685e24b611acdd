"""A scripted expert that sees the scene, and the mistakes that it can be told to make."""

from __future__ import annotations

from typing import Annotated, Any

import torch
from RoboRenForce.configclass import Cfg, Range, configclass

from .dynamics import SPEED
from .scene import BLOCK, POST, Scene


class Expert:
    """Acts in a `TabletopEnv`, however it is wrapped; one call per step of the environment.

    The environment's own state is what it looks at, so observations are not read.
    """

    def __init__(self, cfg: ExpertCfg, env: Any) -> None:
        self.cfg = cfg
        self._env = env.unwrapped
        self._task = self._env.cfg.task
        device, rows = self._env.device, self._env.num_envs
        self._generator = torch.Generator(device).manual_seed(cfg.seed)
        self._fails = torch.zeros(rows, dtype=torch.bool, device=device)
        self._side = torch.ones(rows, device=device)
        self._error = torch.zeros(rows, 2, device=device)
        self.reset()

    def reset(self, dones: torch.Tensor | None = None) -> None:
        """Choose anew, for rows that begin an episode: the way around a post, and whether to fail."""
        rows = torch.ones_like(self._fails) if dones is None else dones.bool()
        drawn = self._draw(4)
        self._fails = torch.where(rows, drawn[:, 0] < self.cfg.failure_rate, self._fails)
        right = drawn[:, 1] < self.cfg.right_share
        self._side = torch.where(rows, torch.where(right, 1.0, -1.0), self._side)
        angle = 2.0 * torch.pi * drawn[:, 2]
        wrong = 3.0 * BLOCK * torch.stack([angle.cos(), angle.sin()], dim=1)
        self._error = torch.where(rows.unsqueeze(1), wrong, self._error)

    def __call__(self, obs: Any = None) -> torch.Tensor:
        """Actions `(num_envs, 3)` for the scene as it is now."""
        scene: Scene = self._env.scene
        error = self._error * self._fails.unsqueeze(1)
        actions = {"Place": self._place, "Reach": self._reach, "Fork": self._go_around}[self._task](scene, error)
        if self.cfg.noise:
            shape = actions[:, :2].shape
            noise = torch.randn(shape, generator=self._generator, device=actions.device)
            actions[:, :2] += self.cfg.noise * noise
        return actions.clamp(-1.0, 1.0)

    def _place(self, scene: Scene, error: torch.Tensor) -> torch.Tensor:
        """Go there, close, carry, open; those that fail grasp beside the block, again and again."""
        holds = scene.held == scene.goal[:, 0]
        aim = torch.where(holds.unsqueeze(1), scene.place, scene.target + error)
        arrived = (aim - scene.hand).norm(dim=1) < self.cfg.tolerance
        # A hand that has closed over nothing opens again.
        closes = torch.where(holds, ~arrived, arrived & (scene.aperture > 0.5))
        waits = holds & (scene.aperture > 0.01)  # until the fingers are closed
        return self._towards(scene, torch.where(waits.unsqueeze(1), scene.hand, aim), ~closes)

    def _reach(self, scene: Scene, error: torch.Tensor) -> torch.Tensor:
        return self._towards(scene, scene.target + error, torch.ones_like(self._fails))

    def _go_around(self, scene: Scene, error: torch.Tensor) -> torch.Tensor:
        """By the corner on the chosen side; those that fail go straight ahead."""
        post, hand = scene.posts[:, 0], scene.hand
        # Whoever is clearly on one side stays there: an expert that labels another's states must not cross the post.
        off = hand[:, 0] - post[:, 0]
        side = torch.where(off.abs() > 0.5 * POST, off.sign(), self._side)
        self._side = side
        corner = post + torch.stack([side * 1.7 * POST, torch.full_like(side, 0.0)], dim=1)
        passed = hand[:, 1] >= post[:, 1] - 0.05
        aim = torch.where((passed | self._fails).unsqueeze(1), scene.target, corner)
        return self._towards(scene, aim, torch.ones_like(self._fails))

    def _towards(self, scene: Scene, aim: torch.Tensor, opens: torch.Tensor) -> torch.Tensor:
        """Straight to `aim`, `(N, 2)`, and not beyond it."""
        way = (aim - scene.hand) / (SPEED * self.cfg.speed)
        way = way / way.norm(dim=1, keepdim=True).clamp(min=1.0) * self.cfg.speed
        return torch.cat([way, torch.where(opens, 1.0, -1.0).unsqueeze(1)], dim=1)

    def _draw(self, columns: int) -> torch.Tensor:
        return torch.rand(self._env.num_envs, columns, generator=self._generator, device=self._env.device)


@configclass
class ExpertCfg(Cfg):
    """Options of `Expert`; build it with `ExpertCfg(...).build(env)`."""

    class_type: type = Expert
    noise: Annotated[float, Range(ge=0)] = 0.0
    """Standard deviation of what is added to the movements, which are in [-1, 1]: the expert corrects it later."""
    failure_rate: Annotated[float, Range(ge=0, le=1)] = 0.0
    """Share of episodes in which it misses."""
    right_share: Annotated[float, Range(ge=0, le=1)] = 0.5
    """Share of episodes in which it goes around a post on the right; both ways are equally long."""
    speed: Annotated[float, Range(gt=0, le=1)] = 1.0
    """Length of its movements, relative to the longest along one axis."""
    tolerance: Annotated[float, Range(gt=0)] = 0.04
    """Distance at which it opens or closes its fingers."""
    seed: int = 0
