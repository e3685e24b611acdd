"""Notice NaN, infinity and absurd numbers in the environment without a host sync per step, and keep their rollout."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..buffer.step_inputs import copy_together
from ..buffer.transition import Transition
from ..components.normalizer import plausible
from ..envs.spec import EnvSpec


class NanGuard:
    """Keeps a copy of the rollout and looks at it once, before anything is learned from it.

    Copying costs a few launches per step and, for 4,096 environments with 120 numbers each and 24 steps, 100 MB;
    looking at every step would cost a reduction per tensor and step. Images are left out.
    """

    def __init__(self, spec: EnvSpec, steps: int, device: torch.device) -> None:
        self._groups = [name for name in spec.obs_groups if spec.dtype_of(name).is_floating_point]
        self._keeps_final = "final_observations" in spec.extras
        shapes = {f"obs.{name}": (torch.float32, spec.obs_groups[name]) for name in self._groups}
        if self._keeps_final:
            shapes |= {f"final_obs.{name}": (torch.float32, spec.obs_groups[name]) for name in self._groups}
        shapes["action"] = (spec.action.dtype, spec.action.shape)
        shapes["reward"] = (torch.float32, ())
        shapes["done"] = (torch.int64, ())
        self._rollout = {
            name: torch.zeros(steps, spec.num_envs, *shape, dtype=dtype, device=device)
            for name, (dtype, shape) in shapes.items()
        }
        # Views are made once: making them at every step would cost as much as the copies.
        self._rows = list(zip(*(tensor.unbind(0) for tensor in self._rollout.values()), strict=True))
        self._step = 0

    def watch(self, step: Transition) -> None:
        """Keep one step."""
        values = [step.reset_obs[name] for name in self._groups]
        if self._keeps_final and step.next_obs is not None:
            values += [step.next_obs[name] for name in self._groups]
        *rows, done = self._rows[self._step]
        copy_together(rows, [*values, step.action, step.reward])
        done.copy_(step.done)
        self._step += 1

    def tripped(self) -> bool:
        """Whether the kept rollout is bad, then the next one begins; waits for the device."""
        finite = [plausible(tensor[: self._step]).all() for tensor in self._rollout.values()]
        self._step = 0
        return not bool(torch.stack(finite).all())

    def report(self) -> dict[str, Any]:
        """What `tripped` found: the rollout `(steps, num_envs, ...)`, its first bad step and who was bad in it."""
        bad = torch.stack([~plausible(tensor).flatten(2).all(2) for tensor in self._flat().values()]).any(0)
        first = int(bad.any(1).int().argmax())
        action = self._rollout["action"][first]
        return {
            "rollout": self._rollout,
            "first_bad_step": first,
            "bad_environments": bad[first].nonzero().flatten().tolist(),
            "action_is_bad": not bool(plausible(action).all()),
        }

    def _flat(self) -> dict[str, Tensor]:
        """The rollout with at least one dimension behind `(steps, num_envs)`."""
        return {name: tensor.unsqueeze(-1) for name, tensor in self._rollout.items()}
