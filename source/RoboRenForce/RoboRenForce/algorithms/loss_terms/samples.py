"""What regularizers of smoothness read of a mini-batch, whichever algorithm it comes from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...buffer.rollout import RolloutBatch
from ...configclass import ConfigError
from .loss_term import AnyBatch


@dataclass
class Samples:
    """States with their true successors, `(B,)`, or `(T, B)` of sequences."""

    obs: dict[str, Tensor]
    next_obs: dict[str, Tensor]
    """True successors where the episode did not end; empty if the rollout stores none."""
    action: Tensor
    start: Tensor | None
    """bool: the observation is the first of an episode."""
    states: Mapping[str, Tensor]
    """Recurrent state of each network before the first step, `(layers, B, features)`; missing ones are zero."""
    acted: Tensor | None
    """bool: False at padding and in rows that waited; None: all acted."""
    ended: Tensor
    """bool: the episode ended with this step."""

    @classmethod
    def of(cls, batch: AnyBatch, most: int) -> Samples:
        """Return the first `most` samples of a batch, which are in random order; of sequences, of as many steps."""
        dim = 1 if batch.is_sequence else 0
        steps = batch.action.shape[0] if batch.is_sequence else 1
        count = min(batch.action.shape[dim], max(1, most // steps))

        def cut(x: Tensor) -> Tensor:
            return x.narrow(dim, 0, count)

        obs = {name: cut(x) for name, x in batch.obs.items()}
        next_obs = {} if batch.next_obs is None else {name: cut(x) for name, x in batch.next_obs.items()}
        start = None if batch.start is None else cut(batch.start)
        if isinstance(batch, RolloutBatch):
            states = {name: state.narrow(1, 0, count) for name, state in batch.states.items()}
            acted = None if batch.mask is None else cut(batch.mask)
            return cls(obs, next_obs, cut(batch.action), start, states, acted, cut(batch.done))
        if batch.is_sequence:  # of a replay: it has one observation more than it has steps
            next_obs = {name: x[1:] for name, x in obs.items()}
            obs = {name: x[:-1] for name, x in obs.items()}
            start = None if start is None else start[:-1]
        acted = None if batch.valid is None else cut(batch.valid) != 0
        return cls(obs, next_obs, cut(batch.action), start, {}, acted, cut(batch.discount) == 0)

    @property
    def is_sequence(self) -> bool:
        """True if the leading dimensions are `(T, B)`."""
        return self.ended.dim() == 2

    @property
    def continued(self) -> Tensor:
        """bool: the step happened and its successor belongs to the same episode."""
        return ~self.ended if self.acted is None else self.acted & ~self.ended

    def evaluate(self, network: Any, name: str, features: Sequence[Tensor]) -> list[Tensor]:
        """Return the outputs `(..., out)` of an actor or V critic at several versions of its features `(..., F)`.

        One pass serves all; each version starts from the same recurrent state.
        """
        count = len(features)
        state, start = self.states.get(name), self.start
        state = None if state is None else torch.cat([state] * count, dim=1)
        start = None if start is None else torch.cat([start] * count, dim=-1)
        output, _ = network.evaluate_features(torch.cat(list(features), dim=-2), state, start)
        return list(output.chunk(count, dim=-2))

    def actions(self, actor: Any, features: Sequence[Tensor]) -> list[Tensor]:
        """Return the deterministic actions `(..., A)` at several versions of the actor's features, see `evaluate`."""
        return [actor.mode(output) for output in self.evaluate(actor, "actor", features)]


def squared_distance(first: Tensor, second: Tensor) -> Tensor:
    """Return ||first - second||^2 over the last dimension."""
    return (first - second).square().sum(-1)


def require_continuous(cfg: str, actor: Any) -> None:
    """Raise a ConfigError if the actor's actions are discrete: they have no distance."""
    action = actor.spec.action
    if action.kind != "continuous":
        raise ConfigError(
            f"{cfg} in loss_terms needs continuous actions; '{actor.spec.task}' has {action.kind} actions "
            f"[{action.dim}]: drop the term."
        )


def require_single_steps(cfg: str, n_step: int) -> None:
    """Raise a ConfigError if successors are more than a step away."""
    if n_step != 1:
        raise ConfigError(
            f"{cfg} in loss_terms compares successive states, but replay.n_step={n_step} stores every {n_step}-th: "
            "use replay.n_step=1, or drop the term."
        )
