"""Return, length and success of the episodes that ended in an iteration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ...buffer.transition import Transition
from ...utils.distributed import DistributedContext

Ratio = tuple[Tensor, Tensor]


class EpisodeSums:
    """Sums over episodes, on the device, read as (sum, number of episodes) after each iteration."""

    def __init__(self, num_envs: int, device: torch.device) -> None:
        self._running = torch.zeros(3, num_envs, device=device)
        """Return, actions and success of the running episodes."""
        self._ended = torch.zeros(4, device=device)
        """The same of those that ended, and their number."""
        self._frames = torch.zeros((), dtype=torch.int64, device=device)

    def add(self, transition: Transition, mask: Tensor) -> None:
        """Add a step of the rows where `mask`, bool `(N,)`."""
        executed = mask.long() if transition.executed_steps is None else transition.executed_steps * mask
        success = torch.zeros_like(mask) if transition.success is None else transition.success & mask
        self._running += torch.stack([transition.reward * mask, executed.float(), success.float()])
        self._running[2].clamp_(max=1.0)  # once per episode, however often it is reported
        done = (transition.done != 0) & mask
        self._ended[:3] += torch.where(done, self._running, 0.0).sum(1)
        self._ended[3] += done.sum()
        self._running.masked_fill_(done, 0.0)
        self._frames += executed.sum()

    def collect(self) -> dict[str, Ratio]:
        """Return means as (sum, number of episodes), and start over."""
        returns, length, success, count = self._ended.clone().unbind(0)
        self._ended.zero_()
        one = torch.ones_like(count)
        return {
            "env/success_once": (success, count),
            "env/return": (returns, count),
            "env/episode_len": (length, count),
            "env/reward": (returns, length),
            "env/num_trajectories": (count, one),
        }

    def frames(self, distributed: DistributedContext) -> int:
        """Return the number of executed actions since the last call, a mean over processes; waits for the device."""
        count = int(distributed.sum_(self._frames)) // distributed.world_size
        self._frames.zero_()
        return count

    def restart(self) -> None:
        """Start new episodes in all rows."""
        self._running.zero_()

    def state_dict(self) -> dict[str, Any]:
        """Return the running episodes."""
        return {"running": self._running.clone()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore `state_dict`; with another number of rows, new episodes begin."""
        if state["running"].shape == self._running.shape:
            self._running.copy_(state["running"])
