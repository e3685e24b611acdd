"""Notice NaN and infinity in the environment without a host sync per step, and keep the step at which it began."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..algorithms.algorithm import StepOut
from ..envs.spec import EnvSpec


class NanGuard:
    """Watches observations, rewards and actions of every step.

    A flag on the device turns on at the first bad step; from then on the copy of that step is left as it is. The flag
    is read once per iteration, before anything is learned from the rollout.
    """

    def __init__(self, spec: EnvSpec, device: torch.device) -> None:
        self._groups = [name for name in spec.obs_groups if spec.dtype_of(name).is_floating_point]
        self._watches_final = "final_observations" in spec.extras
        self._bad = torch.zeros((), dtype=torch.bool, device=device)
        num_envs, action = spec.num_envs, spec.action
        self._snapshot = {
            f"obs.{name}": torch.zeros(num_envs, *spec.obs_groups[name], device=device) for name in self._groups
        } | {
            "action": torch.zeros(num_envs, *action.shape, dtype=action.dtype, device=device),
            "reward": torch.zeros(num_envs, device=device),
            "done": torch.zeros(num_envs, dtype=torch.int64, device=device),
        }

    def watch(self, action: Tensor, step: StepOut) -> None:
        """Look at one step; sums are enough, since NaN and infinity survive them."""
        current = {f"obs.{name}": step.obs[name] for name in self._groups}
        total = step.reward.sum()
        for value in current.values():
            total = total + value.sum()
        if self._watches_final:
            for name in self._groups:
                total = total + step.extras["final_observations"][name].sum()
        for name, value in {**current, "action": action, "reward": step.reward, "done": step.done}.items():
            kept = self._snapshot[name]
            torch.where(self._bad, kept, value.to(kept.dtype), out=kept)
        self._bad |= ~torch.isfinite(total)

    def tripped(self) -> bool:
        """Whether a bad step was seen; waits for the device."""
        return bool(self._bad)

    def blames_policy(self) -> bool:
        """Whether the first bad step was taken with a bad action."""
        action = self._snapshot["action"]
        return action.is_floating_point() and not bool(torch.isfinite(action).all())

    def bad_environments(self) -> list[int]:
        """Indices of environments with a bad value in the kept step; empty if it was only in the final observations."""
        bad = torch.zeros_like(self._snapshot["done"], dtype=torch.bool)
        for value in self._snapshot.values():
            bad |= ~torch.isfinite(value.flatten(1) if value.ndim > 1 else value.unsqueeze(1)).all(1)
        return bad.nonzero().flatten().tolist()

    def dump(self) -> dict[str, Any]:
        """The first bad step, for a file."""
        return {"step": self._snapshot, "bad_environments": self.bad_environments()}
