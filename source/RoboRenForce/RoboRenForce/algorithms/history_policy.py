"""Policy whose actor observes the previous action, which the policy itself remembers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from tensordict import TensorDict
from torch import Tensor, nn

from ..components.actor import Actor
from ..envs.obs_groups import PREVIOUS_ACTION
from ..utils.export import Exportable
from .actor_policy import ActorPolicy, describe_observations


class HistoryPolicy(ActorPolicy):
    """`ActorPolicy` that adds the group `previous_action` to the observations; zeros at the start of an episode."""

    def __init__(self, actor: Actor, *, deterministic: bool = True) -> None:
        super().__init__(actor, deterministic=deterministic)
        self._previous: Tensor | None = None

    @torch.no_grad()
    def forward(self, obs: TensorDict) -> Tensor:
        """Return actions `(N, A)` for observations `[N]`."""
        self._previous = super().forward(self._with_previous(obs))
        return self._previous

    def jacobian_norm(self, obs: TensorDict) -> Tensor | None:
        """Return the norm as `Policy.jacobian_norm`; the previous action is an observation too."""
        return super().jacobian_norm(self._with_previous(obs))

    def _with_previous(self, obs: TensorDict) -> TensorDict:
        num_envs = obs.batch_size[0]
        if self._previous is None or self._previous.shape[0] != num_envs:
            self.reset()
            parameter = next(self.actor.parameters())
            self._previous = parameter.new_zeros(num_envs, *self.actor.action_shape)
        return TensorDict({**dict(obs.items()), PREVIOUS_ACTION: self._previous}, obs.batch_size, obs.device)

    def reset(self, dones: Tensor | None = None) -> None:
        """Start new episodes where `dones` `(N,)` is set; everywhere if it is None."""
        super().reset(dones)
        if dones is None:
            self._previous = None
        elif self._previous is not None:
            self._previous = self._previous.masked_fill((dones != 0).unsqueeze(-1), 0.0)

    def exportable(self) -> Exportable:
        """Export as `ActorPolicy.exportable`, with the previous action as part of the recurrent state."""
        inner = super().exportable()
        encoder, spec = self.actor.encoder, self.actor.spec
        place = encoder.flat_groups.index(PREVIOUS_ACTION)
        column = spec.obs_dim(encoder.flat_groups[:place])
        groups = [group for group in encoder.flat_groups if group != PREVIOUS_ACTION]
        inputs, size = dict(inner.inputs), spec.obs_dim([PREVIOUS_ACTION])
        memory = inputs.pop("state_in", None)
        if groups:
            inputs["obs"] = torch.zeros(2, encoder.flat_features - size)
        else:
            del inputs["obs"]
        width = 0 if memory is None else memory.shape[0] * memory.shape[2]
        inputs["state_in"] = torch.zeros(1, 2, size + width)
        module = _ExportedHistory(inner.module, column, size, bool(groups), memory)
        metadata = {
            **(inner.metadata or {}),
            **describe_observations(spec, groups, encoder.image_groups),
            "spec": _without_previous_action(spec.to_dict()),
        }
        fed = [index for index in range(encoder.flat_features) if not column <= index < column + size]
        typical = {name: (mean[fed], std[fed]) for name, (mean, std) in inner.typical.items()} if groups else {}
        return Exportable(module, inputs, ("actions", "state_out"), ("state_in", "state_out"), metadata, typical)


class _ExportedHistory(nn.Module):
    """Exported actor whose state `(1, N, A + L S)` is the previous action followed by the recurrent state."""

    def __init__(self, inner: nn.Module, column: int, size: int, has_flat: bool, memory: Tensor | None) -> None:
        super().__init__()
        self.inner, self.column, self.size, self.has_flat = inner, column, size, has_flat
        self.memory_shape = None if memory is None else (memory.shape[0], memory.shape[2])

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return deterministic actions and the next state; inputs are flat observations, images, state."""
        *rest, state = inputs
        previous, memory = state[0, :, : self.size], state[0, :, self.size :]
        if self.has_flat:
            flat, *rest = rest
            flat = torch.cat([flat[:, : self.column], previous, flat[:, self.column :]], dim=-1)
        else:
            flat = previous
        if self.memory_shape is None:
            actions = self.inner(flat, *rest)
            return actions, actions.unsqueeze(0)
        memory = memory.unflatten(-1, self.memory_shape).transpose(0, 1)
        actions, memory = self.inner(flat, *rest, memory)
        return actions, torch.cat([actions, memory.transpose(0, 1).flatten(1)], dim=-1).unsqueeze(0)


def _without_previous_action(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Return the environment's own spec, without the group that the policy adds."""
    groups = {name: shape for name, shape in spec["obs_groups"].items() if name != PREVIOUS_ACTION}
    return {**spec, "obs_groups": groups}
