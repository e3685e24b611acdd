"""`RewardManager.compute` with one operation for all terms, where mjlab has seven for each."""

from __future__ import annotations

from typing import Any

import torch
from mjlab.envs import ManagerBasedRlEnv


class FusedRewards:
    """Evaluation of mjlab's reward terms one by one, with a common summation."""

    def __init__(self, env: ManagerBasedRlEnv) -> None:
        self._env = env
        self._manager: Any = env.reward_manager
        self.sums = as_rows(self._manager._episode_sums)
        """float `(num_terms, num_envs)`: sums over the episode; mjlab's tensors are its rows."""
        self._nothing = torch.zeros(env.num_envs, device=env.device)

    def compute(self, dt: float) -> torch.Tensor:
        """Return the rewards `(num_envs,)` of this step, also added to the sums of the episode."""
        manager = self._manager
        terms = list(zip(manager._term_names, manager._term_cfgs, strict=True))
        if not terms:
            return manager._reward_buf.zero_()
        scale = dt if manager._scale_by_dt else 1.0
        values = torch.stack([self._value(name, cfg) for name, cfg in terms])  # (num_terms, num_envs)
        weights = torch.tensor([float(cfg.weight) for _, cfg in terms], device=values.device)
        values = torch.nan_to_num(values * weights.unsqueeze(1) * scale, nan=0.0, posinf=0.0, neginf=0.0)
        self.sums += values
        torch.div(values.t(), scale, out=manager._step_reward)
        return torch.sum(values, dim=0, out=manager._reward_buf)

    def _value(self, name: str, cfg: Any) -> torch.Tensor:
        if cfg.weight == 0.0:
            return self._nothing
        value = cfg.func(self._env, **cfg.params)
        self._manager._check_term_shape(name, value)
        return value.float()


def as_rows(tensors: dict[str, torch.Tensor]) -> torch.Tensor:
    """Replace tensors of one shape by the rows of one tensor `(len(tensors), *shape)` and return it.

    Readers of the dictionary get views of the tensor that one operation writes.
    """
    if not tensors:
        return torch.zeros(0)
    first = next(iter(tensors.values()))
    base = first._base
    if base is not None and all(tensor._base is base for tensor in tensors.values()):
        return base
    rows = torch.stack(list(tensors.values()))
    tensors.update(zip(tensors, rows.unbind(), strict=True))
    return rows
