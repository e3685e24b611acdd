"""Statistics of finished evaluation episodes, kept on the device."""

from __future__ import annotations

from typing import Any

import torch


class EvalStatistics:
    """Statistics of the last `window` finished episodes of each of `num_envs` rows.

    `history` is float `(3, num_envs, window)` over return, length and success; entries without an episode are NaN.
    """

    def __init__(self, num_envs: int, window: int, device: torch.device) -> None:
        self._history = torch.full((3, num_envs, window), torch.nan, device=device)
        self._count = torch.zeros(num_envs, dtype=torch.int64, device=device)
        self._running = torch.zeros(2, num_envs, device=device)  # return and length so far
        self._valid = torch.ones(num_envs, dtype=torch.bool, device=device)
        self._knows_success = False

    def record(self, rewards: torch.Tensor, dones: torch.Tensor, success: torch.Tensor | None) -> None:
        """Add one step: rewards float, dones int64 and success bool, each `(num_envs,)`."""
        self._knows_success = success is not None
        done = dones.bool()
        running = self._running + torch.stack([rewards, torch.ones_like(rewards)])
        outcome = torch.full_like(rewards, torch.nan) if success is None else success.float()
        finished = torch.stack([*running, outcome]).unsqueeze(2)  # (3, num_envs, 1)
        slot = (self._count % self._history.shape[2]).view(1, -1, 1).expand(3, -1, 1)
        counts = done & self._valid
        kept = self._history.gather(2, slot)
        self._history = self._history.scatter(2, slot, torch.where(counts.view(1, -1, 1), finished, kept))
        self._count = self._count + counts
        self._running = torch.where(done, 0.0, running)
        self._valid = self._valid | done

    def restart(self) -> None:
        """Start a new episode in all rows."""
        self._running = torch.zeros_like(self._running)
        self._valid = torch.ones_like(self._valid)

    def discard_running(self) -> None:
        """Don't count the current episodes, except those that haven't taken a step yet."""
        self._valid = self._valid & (self._running[1] == 0)

    def log(self) -> dict[str, torch.Tensor]:
        """Return means over the window, 0-dim on the device; NaN until the first episode has finished."""
        means = self._history.flatten(1).nanmean(dim=1)
        found = {"Eval/mean_return": means[0], "Eval/mean_episode_length": means[1]}
        if self._knows_success:
            found["Eval/success_rate"] = means[2]
        return found

    def report(self) -> dict[str, float]:
        """Return the means on the host, with the number of episodes in the window; empties the window."""
        found = {name: float(value) for name, value in self.log().items()}
        found["Eval/num_episodes"] = float(self._history[0].isfinite().sum())
        self._history = torch.full_like(self._history, torch.nan)
        return found

    def state_dict(self) -> dict[str, Any]:
        """Return all tensors."""
        return {"history": self._history, "count": self._count, "running": self._running, "valid": self._valid}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self._history, self._count, self._running, self._valid = (
            state[name].to(self._history.device).clone() for name in ("history", "count", "running", "valid")
        )
