"""Storage of one synchronous rollout and its mini-batches.

Layout: every field is one tensor `(T, N, ...)`, allocated once. `T` counts environment steps, `N` environments:

    t:            0     1     2   ...  T-1  |  T
    obs          o_0   o_1   o_2      o_T-1 | o_T     (one more row: the successor of every step is obs[t + 1])
    action, ...  a_0   a_1   a_2      a_T-1 |
    start         1     0     1             |         start[t] = 1: obs[t] is the first of an episode

Writing goes through a cursor that lives on the device, so a captured step can write at ever new places. For the
update each field is gathered once by a permutation; a mini-batch is then a contiguous slice, not another gather.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from tensordict import TensorDict
from torch import Tensor

from ..envs.spec import EnvSpec


@dataclass
class RolloutBatch:
    """Part of a rollout. Leading dimensions are `(B,)`, or `(T, B)` of whole environments for recurrent policies."""

    obs: TensorDict
    action: Tensor
    log_prob: Tensor
    value: Tensor
    advantage: Tensor
    return_: Tensor
    dist_params: dict[str, Tensor]
    """Parameters of the distribution that acted, for the KL divergence."""
    done: Tensor
    start: Tensor
    next_obs: TensorDict | None = None
    """True successors where `done` is 0; only there if a loss term asks for them."""
    states: dict[str, Tensor] = field(default_factory=dict)
    """Recurrent state of each network before the first step, `(layers, B, features)`."""

    def map(self, function: Callable[[Tensor], Tensor]) -> RolloutBatch:
        """Apply `function` to every tensor with the leading dimensions; `states` stay as they are."""
        return replace(mapped(replace(self, states={}), function), states=self.states)


def mapped(batch: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """A data class of tensors, and groups of them, with `function` applied to each; what is None stays None."""
    changed = {}
    for entry in fields(batch):
        value = getattr(batch, entry.name)
        if isinstance(value, Tensor):
            changed[entry.name] = function(value)
        elif value is not None:
            changed[entry.name] = _map_dict(value, function)
    return replace(batch, **changed)


def _map_dict(group: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """Map a TensorDict or a dict of tensors to its own kind."""
    mapped = {name: function(tensor) for name, tensor in group.items()}
    if isinstance(group, TensorDict):
        first = next(iter(mapped.values()))
        return TensorDict(mapped, batch_size=first.shape[: len(group.batch_size)])
    return mapped


class RolloutBuffer:
    """`T` steps of `N` environments."""

    def __init__(self, spec: EnvSpec, num_steps: int, device: torch.device) -> None:
        self.num_steps, self.num_envs, self.device = num_steps, spec.num_envs, device
        shape = (num_steps, spec.num_envs)
        self.obs = TensorDict(
            {
                name: torch.zeros(
                    num_steps + 1, spec.num_envs, *size, dtype=default_dtype(spec.dtype_of(name)), device=device
                )
                for name, size in spec.obs_groups.items()
            },
            batch_size=[num_steps + 1, spec.num_envs],
        )
        self.action = torch.zeros(*shape, *spec.action.shape, dtype=default_dtype(spec.action.dtype), device=device)
        self.reward = torch.zeros(shape, device=device)
        self.done = torch.zeros(shape, device=device)
        self.start = torch.zeros(num_steps + 1, spec.num_envs, dtype=torch.bool, device=device)
        self.log_prob = torch.zeros(shape, device=device)
        self.value = torch.zeros(shape, device=device)
        self.advantage = torch.zeros(shape, device=device)
        self.return_ = torch.zeros(shape, device=device)
        self.dist_params: dict[str, Tensor] = {}
        self.states: dict[str, Tensor] = {}
        """Recurrent states at t = 0."""
        self._cursor = torch.zeros(1, dtype=torch.int64, device=device)

    def write_obs(self, obs: TensorDict) -> None:
        """Store the observations at the cursor: those of the next step, or the successors of the last."""
        for name, rows in self.obs.items():
            tensor: Any = rows  # a group is one tensor, never a nested TensorDict
            tensor.index_copy_(0, self._cursor, obs[name].unsqueeze(0))

    def write(self, field_name: str, value: Tensor) -> None:
        """Store `(N, ...)` into a field at the cursor."""
        rows = getattr(self, field_name)
        rows.index_copy_(0, self._cursor, value.unsqueeze(0).to(rows.dtype))

    def write_dist_params(self, params: dict[str, Tensor]) -> None:
        """Store the parameters of the distribution that acted; the first call allocates."""
        for name, value in params.items():
            if name not in self.dist_params:
                self.dist_params[name] = torch.zeros(
                    self.num_steps, *value.shape, dtype=value.dtype, device=self.device
                )
            self.dist_params[name].index_copy_(0, self._cursor, value.unsqueeze(0))

    def advance(self, done: Tensor) -> None:
        """Move the cursor to the next step; `done` `(N,)` marks the starts of new episodes there."""
        self._cursor.add_(1)
        self.start.index_copy_(0, self._cursor, (done != 0).unsqueeze(0))

    def restart(self) -> None:
        """Begin the next rollout where this one ended: the last successors are its first observations."""
        self._cursor.zero_()
        self.start[0].copy_(self.start[-1])

    def flat(self, index: Tensor, *, successors: bool = False) -> RolloutBatch:
        """All transitions as one batch `(T * N,)` in the order of `index`."""
        steps = self.num_steps
        return self._batch(lambda rows: rows[:steps].flatten(0, 1).index_select(0, index), successors=successors)

    def sequences(self, env_index: Tensor, *, successors: bool = False) -> RolloutBatch:
        """Whole environments `(T, N)` in the order of `env_index`, with their recurrent states at t = 0."""
        steps = self.num_steps
        batch = self._batch(lambda rows: rows[:steps].index_select(1, env_index), successors=successors)
        batch.states = {name: state.index_select(1, env_index) for name, state in self.states.items()}
        return batch

    def _batch(self, gather: Callable[[Any], Tensor], *, successors: bool) -> RolloutBatch:
        log_prob = gather(self.log_prob)

        def observations(first: int) -> TensorDict:
            return TensorDict(
                {name: gather(rows[first:]) for name, rows in self.obs.items()}, batch_size=log_prob.shape
            )

        return RolloutBatch(
            obs=observations(0),
            action=gather(self.action),
            log_prob=log_prob,
            value=gather(self.value),
            advantage=gather(self.advantage),
            return_=gather(self.return_),
            dist_params={name: gather(rows) for name, rows in self.dist_params.items()},
            done=gather(self.done),
            start=gather(self.start),
            next_obs=observations(1) if successors else None,
        )


def mini_batches(batch: RolloutBatch, num_mini_batches: int, *, recurrent: bool) -> Iterator[RolloutBatch]:
    """Split a gathered batch into contiguous mini-batches of equal size; recurrent ones hold whole environments."""
    dim = 1 if recurrent else 0
    size = batch.log_prob.shape[dim] // num_mini_batches
    for first in range(0, size * num_mini_batches, size):
        part = batch.map(lambda tensor, first=first: tensor.narrow(dim, first, size))
        part.states = {name: state.narrow(1, first, size).contiguous() for name, state in batch.states.items()}
        yield part


def default_dtype(dtype: torch.dtype) -> torch.dtype:
    """float32 follows torch's default dtype, so that tests can run everything in float64."""
    return torch.get_default_dtype() if dtype == torch.float32 else dtype
