"""Prioritized replay (Schaul et al. 2016, arXiv 1511.05952, proportional variant).

Slot i is drawn with probability P(i) = p_i^alpha / sum_k p_k^alpha, p = |TD error| + epsilon. Its critic loss is
multiplied by (M P(i))^-beta, divided by the largest such weight of the batch (M: stored transitions), before the
mean over the batch: `ReplayBatch.weighted_mean`. New transitions get the largest priority seen so far. As in the paper,
the B draws are one from each of B equal parts of the total.

The sums are kept in a tree whose nodes have 32 children, so a million slots are four levels: few operations, each on
a whole batch, and no shape that depends on data. A node is recomputed from its children whenever one of them changes,
so sums never drift.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any

import torch
from torch import Tensor
from typing_extensions import override

from ..configclass import Range, configclass
from ..envs.spec import EnvSpec
from .replay import ReplayBuffer, ReplayBufferCfg
from .replay_batch import ReplayBatch

FAN_OUT = 32
_BELOW_ONE = 1.0 - 2.0**-53


class SumTree:
    """Non-negative float64 values, their sum, and draws in proportion to them."""

    def __init__(self, size: int, device: torch.device) -> None:
        self.size = size
        # On a GPU, running sums of many short rows are much faster as a product; on a CPU they are not.
        self._summing = None
        if device.type == "cuda":
            self._summing = torch.ones(FAN_OUT, FAN_OUT, dtype=torch.float64, device=device).triu()
        self._levels: list[Tensor] = []
        """Levels from the leaves to the root; level k is `(nodes, 32)`, one row for the children of each node above."""
        nodes = size
        while not self._levels or nodes > 1:
            nodes = -(-nodes // FAN_OUT)
            self._levels.append(torch.zeros(nodes, FAN_OUT, dtype=torch.float64, device=device))
        self._values = self._levels[0].view(-1)

    @property
    def values(self) -> Tensor:
        """Value of every slot, `(size,)`."""
        return self._values[: self.size]

    @property
    def total(self) -> Tensor:
        """Sum of all values, 0-dim."""
        return self._levels[-1].sum()

    def set(self, slot: Tensor, value: Tensor) -> None:
        """Set the values `(B,)` at `slot` `(B,)`; a slot that occurs repeatedly gets its largest value."""
        # Not an assignment, which on a GPU leaves open whose value stays.
        self._values.scatter_reduce_(0, slot, value.to(torch.float64), "amax", include_self=False)
        self._sum_up(slot)

    def _sum_up(self, slot: Tensor) -> None:
        for children, parents in zip(self._levels, self._levels[1:], strict=False):
            slot = slot // FAN_OUT
            parents.view(-1).index_copy_(0, slot, children.index_select(0, slot).sum(1))

    def find(self, share: Tensor) -> Tensor:
        """Return the slots `(B,)` at which the running sum passes `share` `(B,)`, in [0, 1), of the total."""
        node = torch.zeros_like(share, dtype=torch.int64)
        for level in reversed(self._levels):
            values = level.index_select(0, node)
            sums = values.cumsum(1) if self._summing is None else values @ self._summing
            target = (share * sums[:, -1]).unsqueeze(1)
            child = torch.searchsorted(sums, target, right=True).clamp_(max=FAN_OUT - 1)
            value = values.gather(1, child)
            # A GPU adds up in any order, and rounding may then point to an empty child; the first one never is.
            child *= value > 0
            # What is left of the share is passed on relative to the child: rounding can't lead out of the tree.
            share = ((target - sums.gather(1, child) + value) / value).nan_to_num_(0.0).clamp_(0.0, _BELOW_ONE)
            share, node = share.squeeze(1), node * FAN_OUT + child.squeeze(1)
        return node

    def load(self, values: Tensor) -> None:
        """Replace all values by `values` `(size,)`."""
        self.values.copy_(values)
        for children, parents in zip(self._levels, self._levels[1:], strict=False):
            parents.view(-1)[: len(children)].copy_(children.sum(1))


class PrioritizedReplayBuffer(ReplayBuffer):
    """Replay that draws transitions in proportion to a power of their last TD error."""

    cfg: PrioritizedReplayBufferCfg

    def __init__(
        self, cfg: PrioritizedReplayBufferCfg, *, spec: EnvSpec, gamma: float, batch_size: int, device: torch.device
    ) -> None:
        super().__init__(cfg, spec=spec, gamma=gamma, batch_size=batch_size, device=device)
        self.tree = SumTree(self.num_slots, self.device)
        self.max_priority = torch.ones(1, dtype=torch.float64, device=self.device)
        """Largest `|TD error| + epsilon` so far, and the priority of new transitions."""
        self._samples = torch.zeros(1, dtype=torch.float64, device=self.device)
        """Number of calls of `sample`, on which beta depends."""
        self._strata = torch.arange(batch_size, dtype=torch.float64, device=self.device)

    @property
    def beta(self) -> Tensor:
        """Current exponent of the importance weights, `(1,)`."""
        cfg = self.cfg
        progress = (self._samples / max(cfg.beta_updates, 1)).clamp(max=1.0)
        return cfg.initial_beta + (cfg.final_beta - cfg.initial_beta) * progress

    @override
    def _write(self, values: dict[str, Tensor]) -> None:
        slot = self._cursor * self.num_envs + self._envs
        priority = (self.max_priority**self.cfg.alpha).expand(self.num_envs)
        if "mask" in values:
            priority = priority * values["mask"].to(priority.device)  # rows that waited are never drawn
        self.tree.set(slot, priority)
        super()._write(values)

    @override
    @torch.no_grad()
    def sample(self) -> ReplayBatch:
        """Draw `batch_size` transitions with their importance weights, on the learner's device."""
        self._require_contents()
        slot = self._draw()
        batch = self._transitions(slot)
        batch.weight = self._send(self._importance(slot))
        self._samples.add_(1)
        return batch

    @override
    def _draw(self) -> Tensor:
        share = (torch.rand(self.batch_size, dtype=torch.float64, device=self.device) + self._strata) / self.batch_size
        return self.tree.find(share.clamp_(max=_BELOW_ONE))

    def _importance(self, slot: Tensor) -> Tensor:
        """Return the weights `(B,)`; M and the total cancel against the largest weight."""
        value = self.tree.values.index_select(0, slot)
        return (value.amin() / value).pow_(self.beta).to(torch.get_default_dtype())

    @override
    @torch.no_grad()
    def update_priorities(self, index: Tensor, td_error: Tensor) -> None:
        """Set the priorities of the samples `index` `(B,)` from their TD errors `(B,)` of either sign.

        Errors that are not finite count as the largest error so far.
        """
        if td_error.shape != index.shape:
            raise ValueError(
                f"Priorities got TD errors {tuple(td_error.shape)} for samples {tuple(index.shape)}: "
                "reduce them to one per sample."
            )
        priority = td_error.to(self.device, torch.float64).abs() + self.cfg.epsilon
        # One NaN in a sum would spoil every later draw.
        priority = torch.where(priority.isfinite(), priority, self.max_priority)
        self.max_priority.copy_(torch.maximum(self.max_priority, priority.amax()))
        self.tree.set(index.to(self.device), priority**self.cfg.alpha)

    @override
    def _extra_bytes_per_slot(self) -> int:
        return 9  # a float64 and its share of the sums above

    @override
    def state_dict(self) -> dict[str, Any]:
        """Return the counters, and contents with priorities if `cfg.store`."""
        state = super().state_dict()
        state["samples"] = self._samples.clone()
        if self.cfg.store:
            state["max_priority"] = self.max_priority.clone()
            state["priorities"] = self.tree.values[: len(self)].to("cpu", copy=True)
        return state

    @override
    def _restore(self, state: Mapping[str, Any]) -> None:
        """Restore the contents; without them, empty the replay and reset all priorities."""
        super()._restore(state)
        self._samples.copy_(state["samples"])
        values = torch.zeros_like(self.tree.values)
        if "contents" in state:
            values[: len(state["priorities"])].copy_(state["priorities"])
            self.max_priority.copy_(state["max_priority"])
        else:
            self.max_priority.fill_(1.0)
        self.tree.load(values)


@configclass
class PrioritizedReplayBufferCfg(ReplayBufferCfg):
    """Configuration of the prioritized replay."""

    class_type: type = PrioritizedReplayBuffer
    alpha: Annotated[float, Range(ge=0)] = 0.6
    """Exponent of the priorities; 0 draws uniformly."""
    initial_beta: Annotated[float, Range(ge=0, le=1)] = 0.4
    """Initial exponent of the importance weights."""
    final_beta: Annotated[float, Range(ge=0, le=1)] = 1.0
    """Final exponent of the importance weights; 1 corrects completely."""
    beta_updates: Annotated[int, Range(ge=0)] = 100_000
    """Number of samples over which beta changes linearly."""
    epsilon: Annotated[float, Range(gt=0)] = 1e-6
    """Constant added to every |TD error|, so that each transition can be drawn again."""

    @override
    def check(self) -> Iterable[str]:
        if self.initial_beta > self.final_beta:
            yield f"initial_beta: {self.initial_beta} is above final_beta={self.final_beta}; it only grows, lower it."
