"""Rewards that tell nothing: found in every iteration, counted, and said once, for all learners of VLA policies."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from ...utils.distributed import DistributedContext

EQUAL_REWARDS, NO_ADVANTAGES = "rollout/rewards_are_equal", "rollout/is_silent"
"""Metrics that are 1 where all executed actions of an iteration got the same reward, and where all advantages are 0."""
PATIENCE = 20
"""Iterations without any difference after which the user is told."""


class EqualRewards:
    """Lowest and highest reward of the executed actions of an iteration, on the device.

    Args:
        device: Of the rewards.
        distributed: Processes of the run, whose rewards are compared with one another, too.
    """

    def __init__(self, device: torch.device, distributed: DistributedContext) -> None:
        self._distributed = distributed
        self._lowest = torch.full((), torch.inf, device=device)
        self._highest = -self._lowest
        self.count = 0
        """Iterations since the last one with a difference."""
        self._told = False

    def add(self, rewards: Tensor, executed: Tensor) -> None:
        """Add rewards of actions; those where bool `executed`, of the same shape, is False don't count."""
        self._lowest = torch.minimum(self._lowest, torch.where(executed, rewards, torch.inf).min())
        self._highest = torch.maximum(self._highest, torch.where(executed, rewards, -torch.inf).max())

    def metrics(self) -> dict[str, Tensor]:
        """Return the metric of the rewards of this iteration, equal in all processes; without rewards it is 0."""
        distributed = self._distributed
        found = torch.stack([self._lowest, self._highest])
        # Sums are all that processes exchange: each fills in its own row.
        bounds = found.new_zeros(distributed.world_size, 2)
        bounds[distributed.rank] = found
        lowest, highest = distributed.sum_(bounds).unbind(1)
        return {EQUAL_REWARDS: (lowest.min() == highest.max()).float()}

    def restart(self) -> None:
        """Begin the next iteration."""
        self._lowest.fill_(torch.inf)
        self._highest.fill_(-torch.inf)

    def warnings(self, metrics: Mapping[str, float]) -> Iterable[str]:
        """Yield why nothing is learned, once, after `PATIENCE` iterations without a difference."""
        equal, silent = metrics.get(EQUAL_REWARDS) == 1, metrics.get(NO_ADVANTAGES) == 1  # in all processes
        self.count = self.count + 1 if equal or silent else 0
        if self.count < PATIENCE or self._told:
            return
        self._told = True
        if equal:
            yield (
                f"every executed action has got the same reward for {self.count} iterations, so that at most the "
                "length of episodes can be learned from: a sparse reward that no episode earns (try a dense one, more "
                "noise or temperature, easier starts or demonstrations), or a factor that removes it (reward_coef, "
                "weights of the environment)."
            )
        else:
            yield (
                f"all advantages have been 0 for {self.count} iterations, so that nothing is learned: the rewards of "
                "episodes that are compared are equal, or their groups are left out (lowest_mean, highest_mean). A "
                "policy that always succeeds has learned all that this teaches; for one that never does try more noise "
                "or temperature, a dense reward, or larger groups."
            )
