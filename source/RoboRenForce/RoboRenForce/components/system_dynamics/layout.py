"""Observation groups as one flat state, and what each of its columns is.

predicted   the change is Gaussian: joint positions, velocities, ...
contacts    0 or 1, predicted as a probability
held        stays as it is while the model runs: commands, which something outside of the system chooses
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from ...configclass import ConfigError
from ...configclass.errors import did_you_mean
from ...envs.spec import EnvSpec
from ..observation import Observations


class StateLayout(nn.Module):
    """Concatenation of flat observation groups, `(..., D)`.

    Args:
        spec: Spec of the environment.
        groups: Groups of the state, in order.
        contacts: Group -> columns that are 0 or 1.
        held: Group -> columns that don't change.
    """

    predicted: Tensor
    """int64 `(P,)`: columns whose change is Gaussian."""
    contacts: Tensor
    """int64 `(C,)`: columns that are 0 or 1."""

    def __init__(
        self,
        spec: EnvSpec,
        groups: Sequence[str],
        contacts: Mapping[str, Sequence[int]],
        held: Mapping[str, Sequence[int]],
    ) -> None:
        super().__init__()
        for group in groups:
            if len(spec.obs_groups[group]) != 1 or not spec.dtype_of(group).is_floating_point:
                raise ConfigError(
                    f"A dynamics model predicts flat groups of numbers, and '{group}' of {spec.task} is "
                    f"{tuple(spec.obs_groups[group])} {spec.obs_dtypes.get(group, 'float32')}: leave it out, "
                    "obs_groups.dynamics=[...]."
                )
        self.groups = tuple(groups)
        self.sizes = [spec.obs_groups[group][0] for group in groups]
        self.dim = sum(self.sizes)
        special = {name: self._columns(columns, name) for name, columns in (("contacts", contacts), ("held", held))}
        if both := set(special["contacts"]) & set(special["held"]):
            raise ConfigError(f"The columns {sorted(both)} of the state are contacts and held at once: choose one.")
        rest = [column for column in range(self.dim) if column not in {*special["contacts"], *special["held"]}]
        if not rest:
            raise ConfigError("All columns of the state are contacts or held, and nothing is left to predict.")
        self.register_buffer("predicted", torch.tensor(rest), persistent=False)
        self.register_buffer("contacts", torch.tensor(special["contacts"], dtype=torch.int64), persistent=False)

    def _columns(self, chosen: Mapping[str, Sequence[int]], name: str) -> list[int]:
        """Return the columns of the flat state."""
        found, first = [], dict(zip(self.groups, [sum(self.sizes[:i]) for i in range(len(self.sizes))], strict=True))
        for group, columns in chosen.items():
            if group not in first:
                raise ConfigError(f"policy.{name} names the group '{group}': {did_you_mean(group, self.groups)}")
            size = self.sizes[self.groups.index(group)]
            if wrong := [column for column in columns if not 0 <= column < size]:
                raise ConfigError(f"policy.{name}.{group} has the columns {wrong}, expected 0 to {size - 1}.")
            found += [first[group] + column for column in columns]
        return found

    def flat(self, obs: Observations) -> Tensor:
        """Concatenate the groups, `(..., D)`."""
        return torch.cat([obs[group] for group in self.groups], dim=-1)

    def split(self, state: Tensor) -> dict[str, Tensor]:
        """Return the groups of a state `(..., D)`, as copies."""
        parts = state.split(self.sizes, dim=-1)
        return {group: part.clone() for group, part in zip(self.groups, parts, strict=True)}
