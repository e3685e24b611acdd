"""Notice NaN and infinity in the environment without a host sync per step, and keep the step at which it began."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ..algorithms.algorithm import StepOut
from ..envs.spec import EnvSpec


class NanGuard:
    """Watches observations, rewards and actions of every step.

    A flag on the device turns on at the first bad step; from then on the copy of that step is left as it is. The flag
    is read once per iteration, before anything is learned from the rollout. On a CPU, where reading is free, it is read
    at every step, so that only a bad step is copied.
    """

    def __init__(self, spec: EnvSpec, device: torch.device) -> None:
        self._groups = [name for name in spec.obs_groups if spec.dtype_of(name).is_floating_point]
        self._watches_final = "final_observations" in spec.extras
        self._reads_at_once = device.type == "cpu"
        self._bad = torch.zeros((), dtype=torch.bool, device=device)
        shapes = {f"obs.{name}": (torch.float32, spec.obs_groups[name]) for name in self._groups}
        shapes["action"] = (spec.action.dtype, spec.action.shape)
        shapes["reward"] = (torch.float32, ())
        shapes["done"] = (torch.int64, ())
        self._snapshot = {
            name: torch.zeros(spec.num_envs, *shape, dtype=dtype, device=device)
            for name, (dtype, shape) in shapes.items()
        }

    def watch(self, action: Tensor, step: StepOut) -> None:
        """Look at one step; sums are enough, since NaN and infinity survive them."""
        obs = [step.obs[name] for name in self._groups]
        total = step.reward.sum()
        for value in obs:
            total = total + value.sum()
        if self._watches_final:
            final = step.extras["final_observations"]
            for name in self._groups:
                total = total + final[name].sum()
        if self._reads_at_once and math.isfinite(float(total)):
            return
        for kept, value in zip(self._snapshot.values(), (*obs, action, step.reward, step.done), strict=True):
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
