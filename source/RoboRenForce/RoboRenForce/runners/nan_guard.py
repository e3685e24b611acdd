"""Detection of NaN, infinity and absurd numbers from the environment, without a host sync per step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..buffer.transition import Transition
from ..components.normalizer import plausible
from ..envs.spec import EnvSpec


class NanGuard:
    """Keep the smallest and the largest number of every tensor and step, and check once, before the update.

    That is one reduction per tensor and step. The steps themselves, which show the environments at fault, are in the
    learner's storage. Images are left out.
    """

    def __init__(self, spec: EnvSpec, steps: int, device: torch.device) -> None:
        self._groups = [
            name for name, shape in spec.obs_groups.items() if spec.dtype_of(name).is_floating_point and 0 not in shape
        ]
        self._keeps_final = "final_observations" in spec.extras
        self._acts_in_floats = spec.action.dtype.is_floating_point
        tensors = 2 + len(self._groups) * (2 if self._keeps_final else 1)
        self._range = torch.zeros(steps, tensors, 2, device=device)
        """Smallest and largest numbers; the first tensor is the action."""
        # Views are made once: making them at every step would cost as much as the arithmetic.
        self._rows = [[tuple(cell.unbind(0)) for cell in row] for row in self._range]
        self._step = 0
        self._last: Transition

    def watch(self, step: Transition) -> None:
        """Record the range of one step, on the device."""
        values = [step.reward, *(step.reset_obs[name] for name in self._groups)]
        if self._keeps_final and step.next_obs is not None:
            values += [step.next_obs[name] for name in self._groups]
        action, *rows = self._rows[self._step]
        if self._acts_in_floats:
            torch.aminmax(step.action.float(), out=action)
        for value, row in zip(values, rows, strict=False):
            torch.aminmax(value.float(), out=row)
        self._last = step
        self._step += 1

    def tripped(self) -> bool:
        """Return True if a step since the last call was bad; waits for the device."""
        taken, self._step = self._range[: self._step], 0
        return not bool(plausible(taken).all())

    def report(self, stored: Mapping[str, Tensor]) -> dict[str, Any]:
        """Return the data behind `tripped`: its first bad step and the environments at fault.

        Args:
            stored: Steps as the learner stored them, `(steps, num_envs, ...)` by the names of its schema.
        """
        bad = ~plausible(self._range).all(2)  # (steps, tensors)
        first = int(bad.any(1).int().argmax())
        last = {"action": self._last.action, "reward": self._last.reward}
        last |= {f"reset_obs/{name}": self._last.reset_obs[name] for name in self._groups}
        if self._last.next_obs is not None:
            last |= {f"next_obs/{name}": self._last.next_obs[name] for name in self._groups}
        return {
            "rollout": {name: rows.clone() for name, rows in stored.items()},
            "last_step": last,
            "first_bad_step": first,
            "bad_environments": _bad_rows(stored, last, first),
            "action_is_bad": bool(bad[first, 0]),
        }


def _bad_rows(stored: Mapping[str, Tensor], last: Mapping[str, Tensor], step: int) -> list[int]:
    """Return the environments with a bad number after `step`; none if the step was not stored."""
    values = []
    for name, rows in stored.items():
        index = step + name.startswith("obs/")  # the observation of the step after it
        if name.startswith(("obs/", "next_obs/", "action", "reward")) and index < len(rows):
            values.append(rows[index])
    if not stored or step == len(next(iter(stored.values()))) - 1:
        values += last.values()
    bad = [~plausible(value).reshape(len(value), -1).all(1) for value in values if value.is_floating_point()]
    return torch.stack(bad).any(0).nonzero().flatten().tolist() if bad else []
