"""Storage of one synchronous rollout and its mini-batches.

Layout: every field of the schema is one tensor `(T, N, ...)`, allocated once. `T` counts environment steps, `N`
environments:

    t:            0     1     2   ...  T-1
    obs          o_0   o_1   o_2      o_T-1
    action, ...  a_0   a_1   a_2      a_T-1
    start         1     0     1                   start[t] = 1: obs[t] is the first of an episode

Only the recurrent states before the first step are kept, `state/<network>`; those after a step, `next_state/<network>`,
are not.

On a GPU the write position is a device tensor, so a captured step can write at ever new places. For the update each
field is gathered once by a permutation; a mini-batch is then a contiguous slice, not another gather.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

import torch
from tensordict import TensorDict
from torch import Tensor

from ..configclass import ConfigError
from .transition import Transition, TransitionSchema


@dataclass
class RolloutBatch:
    """Part of a rollout. Leading dimensions are `(B,)`, or `(T, B)` of whole environments for recurrent policies."""

    obs: TensorDict
    action: Tensor
    advantage: Tensor
    return_: Tensor
    record: dict[str, Tensor]
    """Other fields of the schema: the record of `act` and, in whole transitions, the outcome of the step."""
    next_obs: TensorDict | None = None
    """True successors; only present if a term reads them."""
    mask: Tensor | None = None
    """bool: False in rows that did not act; None: all acted."""
    states: dict[str, Tensor] = field(default_factory=dict)
    """Recurrent state of each network before the first step, `(layers, B, features)`."""

    @property
    def value(self) -> Tensor:
        """V(s) when the action was chosen."""
        return self.record["value"]

    @property
    def log_prob(self) -> Tensor:
        """log pi(a|s) when the action was chosen."""
        return self.record["log_prob"]

    @property
    def start(self) -> Tensor | None:
        """bool: the observation is the first of an episode."""
        return self.record.get("start")

    @property
    def dist_params(self) -> dict[str, Tensor]:
        """Parameters of the distribution that acted, for the KL divergence."""
        return {name.removeprefix("dist/"): x for name, x in self.record.items() if name.startswith("dist/")}

    @property
    def num_collected(self) -> int:
        """Number of rows that were collected as they are; rows behind them were added and have no `dist_params`."""
        return next(iter(self.dist_params.values())).shape[self.advantage.dim() - 1]

    @property
    def entropy_weight(self) -> Tensor | None:
        """Weight of each row in the entropy bonus; None: 1."""
        return self.record.get("entropy_weight")

    @property
    def reward(self) -> Tensor:
        """Reward including learned rewards, scaling, and the bootstrap of time-outs."""
        return self.record["reward"]

    @property
    def terminated(self) -> Tensor:
        """bool: the episode terminated."""
        return self.record["terminated"]

    @property
    def time_outs(self) -> Tensor:
        """bool: the episode was truncated."""
        return self.record["time_outs"]

    @property
    def done(self) -> Tensor:
        """bool: the episode ended, for either reason."""
        return self.terminated | self.time_outs

    @property
    def is_sequence(self) -> bool:
        """True if the leading dimensions are `(T, B)`."""
        return self.advantage.dim() == 2

    def map(self, function: Callable[[Tensor], Tensor]) -> RolloutBatch:
        """Apply `function` to every tensor with the leading dimensions; `states` stay as they are."""
        return replace(mapped(replace(self, states={}), function), states=self.states)

    def narrow(self, first: int, count: int) -> RolloutBatch:
        """Return `count` rows from `first` on, as views; sequences have their rows in the second dimension."""
        dim = self.advantage.dim() - 1
        states = {name: state.narrow(1, first, count) for name, state in self.states.items()}
        return replace(self.map(lambda tensor: tensor.narrow(dim, first, count)), states=states)

    def collected(self) -> RolloutBatch:
        """Return the rows without those that were added."""
        added = self.num_collected < self.advantage.shape[-1]
        return self.narrow(0, self.num_collected) if added else self


def mapped(batch: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """Apply `function` to each tensor of a data class, also in its groups; None stays None."""
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

    def __init__(self, schema: TransitionSchema, num_steps: int, device: torch.device) -> None:
        self.num_steps, self.num_envs = num_steps, schema.num_envs
        rows: dict[str, Tensor] = {}
        self.states: dict[str, Tensor] = {}
        """Recurrent states before the first step, `(layers, N, features)`."""
        for name, entry in schema.fields.items():
            if name.startswith("state/"):
                layers, features = entry.shape
                zeros = torch.zeros(layers, self.num_envs, features, device=device)
                self.states[name.removeprefix("state/")] = zeros
            elif not name.startswith("next_state/"):
                rows[name] = entry.zeros(num_steps, self.num_envs, device=device)
        self.rows = rows
        """Field -> `(T, N, ...)`."""
        self.obs, self.next_obs = self._group("obs"), self._group("next_obs")
        self.action, self.reward = rows["action"], rows["reward"]
        self.terminated, self.time_outs = rows["terminated"], rows["time_outs"]
        self.mask = rows.get("mask")
        self.advantage, self.return_ = torch.zeros_like(self.reward), torch.zeros_like(self.reward)
        self._cursor = torch.zeros(1, dtype=torch.int64, device=device)
        # On a CPU, where nothing is captured, the place is known, and one call copies to views that were made once.
        self._views = list(zip(*(field.unbind(0) for field in rows.values()), strict=True))
        self._position = 0 if device.type == "cpu" else None

    @property
    def value(self) -> Tensor:
        """V(s_t), `(T, N)`."""
        return self.rows["value"]

    @property
    def log_prob(self) -> Tensor:
        """log pi(a_t|s_t), `(T, N)`."""
        return self.rows["log_prob"]

    @property
    def done(self) -> Tensor:
        """bool `(T, N)`: the episode ended at the step."""
        return self.terminated | self.time_outs

    @property
    def dist_params(self) -> dict[str, Tensor]:
        """Parameters of the distributions that acted, `(T, N, ...)`."""
        return {name.removeprefix("dist/"): rows for name, rows in self.rows.items() if name.startswith("dist/")}

    def _group(self, part: str) -> TensorDict:
        prefix = f"{part}/"
        found: dict[str, Any] = {
            name.removeprefix(prefix): rows for name, rows in self.rows.items() if name.startswith(prefix)
        }
        return TensorDict(found, batch_size=[self.num_steps, self.num_envs])

    def write_states(self, record: Mapping[str, Tensor]) -> None:
        """Store the recurrent states of the first step of a rollout."""
        for name, state in self.states.items():
            state.copy_(record[f"state/{name}"].transpose(0, 1))

    def add(self, step: Transition) -> None:
        """Store a step at the cursor and advance it."""
        values = [step.value_of(name) for name in self.rows]
        if self._position is not None:
            torch._foreach_copy_(self._views[self._position], values)  # pyright: ignore[reportPrivateImportUsage]
            self._position += 1
            return
        for rows, value in zip(self.rows.values(), values, strict=True):
            rows.index_copy_(0, self._cursor, value.to(rows.dtype).expand(rows.shape[1:]).unsqueeze(0))
        self._cursor.add_(1)

    def restart(self) -> None:
        """Start the next rollout."""
        self._cursor.zero_()
        self._position = None if self._position is None else 0

    def flat(self, index: Tensor, *, whole: bool = True) -> RolloutBatch:
        """Return all steps as a batch `(T * N,)` in the order of `index`: all fields, or those of a policy loss."""
        return self._batch(lambda rows: rows.flatten(0, 1).index_select(0, index), whole)

    def sequences(self, env_index: Tensor, *, whole: bool = True) -> RolloutBatch:
        """Return whole environments `(T, N)` in the order of `env_index`, with their initial recurrent states."""
        batch = self._batch(lambda rows: rows.index_select(1, env_index), whole)
        batch.states = {name: state.index_select(1, env_index) for name, state in self.states.items()}
        return batch

    def _batch(self, gather: Callable[[Any], Tensor], whole: bool) -> RolloutBatch:
        found = {name: gather(rows) for name, rows in self.rows.items() if whole or name not in _OF_TRANSITIONS}
        advantage = gather(self.advantage)
        leading = advantage.shape

        def take(part: str) -> TensorDict | None:
            prefix = f"{part}/"
            group: dict[str, Any] = {
                name.removeprefix(prefix): found.pop(name) for name in list(found) if name.startswith(prefix)
            }
            return TensorDict(group, batch_size=leading) if group else None

        obs: Any = take("obs")
        return RolloutBatch(
            obs=obs,
            next_obs=take("next_obs"),
            action=found.pop("action"),
            mask=found.pop("mask", None),
            advantage=advantage,
            return_=gather(self.return_),
            record=found,
        )


_OF_TRANSITIONS = ("reward", "terminated", "time_outs", "group_id", "policy_version")
"""Fields that advantages were computed from; afterwards only regularizers and learned rewards read them."""


def mini_batches(batch: RolloutBatch, num_mini_batches: int) -> Iterator[RolloutBatch]:
    """Split a gathered batch into contiguous mini-batches of equal size; recurrent ones hold whole environments."""
    size = batch.advantage.shape[-1] // num_mini_batches
    for first in range(0, size * num_mini_batches, size):
        part = batch.narrow(first, size)
        # The library's recurrent networks take contiguous states only.
        yield replace(part, states={name: state.contiguous() for name, state in part.states.items()})


class Epochs:
    """Mini-batches of an update: several epochs over a rollout.

    Args:
        buffer: Rollout.
        count: Number of epochs.
        num_mini_batches: Mini-batches per epoch.
        shuffle: A permutation for every epoch, one for all of them, or the order of collection.
        recurrent: True if mini-batches hold whole environments.
        whole: True if they hold whole transitions, see `RolloutBuffer.flat`.
    """

    def __init__(
        self,
        buffer: RolloutBuffer,
        count: int,
        num_mini_batches: int,
        shuffle: Literal["epoch", "once", "none"],
        recurrent: bool,
        whole: bool = True,
    ) -> None:
        self._buffer, self.count, self.num_mini_batches = buffer, count, num_mini_batches
        self.recurrent, self.whole = recurrent, whole
        self._shuffles = shuffle != "none"
        size = buffer.num_envs * (1 if recurrent else buffer.num_steps)
        if size % num_mini_batches:
            raise ConfigError(
                f"algorithm.num_mini_batches = {num_mini_batches} does not divide the {size} "
                f"{'environments' if recurrent else 'transitions'} of a rollout. Choose a divisor, or change "
                "--num_envs or num_steps_per_env."
            )
        device = buffer.reward.device
        self.orders = [torch.arange(size, device=device) for _ in range(count if shuffle == "epoch" else 1)]

    @classmethod
    def of(cls, cfg: Any, buffer: RolloutBuffer, recurrent: bool, *, whole: bool) -> Epochs:
        """Build the epochs that the options of a learner ask for."""
        return cls(buffer, cfg.num_learning_epochs, cfg.num_mini_batches, cfg.shuffle, recurrent, whole)

    def shuffle(self) -> None:
        """Draw new permutations, in place, outside of the captured update that reads them."""
        if self._shuffles:
            for order in self.orders:
                torch.randperm(order.shape[0], out=order)

    def __iter__(self) -> Iterator[RolloutBatch]:
        """Yield the mini-batches of all epochs; epochs beyond the last permutation reuse its gather."""
        gather = self._buffer.sequences if self.recurrent else self._buffer.flat
        rollout = gather(self.orders[0], whole=self.whole)
        for epoch in range(self.count):
            if 0 < epoch < len(self.orders):
                rollout = gather(self.orders[epoch], whole=self.whole)
            yield from mini_batches(rollout, self.num_mini_batches)
