"""The loss of one micro-batch: clipped surrogate, value, entropy and distance to the reference.

    stored features, or observation --encode--> prefix
    prefix, record --head--> log-probability, entropy, divergence, summed up to a level
    prefix --value head--> value

All sums are divided by weights of the whole mini-batch, so that its micro-batches add up to it exactly.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from ...components.action_heads import ActionHead
from ...components.vla_policy import VLAPolicy
from ...components.vla_value import ValueHead
from ...networks.vlm import Prefix
from ...utils.precision import autocast
from ..functional import advantage_at_level, approximate_kl, at_level, executed_mask, surrogate_terms, value_terms
from ..vla_training.supervised_module import Micro, actions_of
from .chunk_collector import OBS, PREFIX, RECORD, part_of
from .options import PolicyGradientOptions


@dataclass
class ChunkBatch:
    """S decisions, and what is learned from them."""

    samples: dict[str, Tensor]
    """Of the `SampleStore`."""
    executed: Tensor
    """int64 `(S,)`: actions whose log-probability counts."""
    advantage: Tensor
    """`(S,)` of decisions, or `(S, E)` of actions."""
    weight: Tensor
    """`(S,)`: weight of the elements of each decision."""
    value: Tensor
    """V when the data was collected, `(S, 1)` or `(S, E)`; `(S, 0)` without a value head."""
    target: Tensor
    """Returns, of the same shape."""
    reference_prefix: Prefix | None = None
    """What the reference's backbone sees; None: the same as the policy's."""
    totals: dict[str, Tensor] = field(default_factory=dict)
    """Sum of the weights of the whole mini-batch, by level, and for `value`."""

    def rows(self, index: Tensor) -> ChunkBatch:
        """Select decisions; `samples` and `totals` are left to the caller."""
        return ChunkBatch(
            samples={},
            executed=self.executed[index],
            advantage=self.advantage[index],
            weight=self.weight[index],
            value=self.value[index],
            target=self.target[index],
        )

    def without_weight(self) -> ChunkBatch:
        """Return the same decisions, of which nothing is learned."""
        return replace(self, executed=torch.zeros_like(self.executed), weight=torch.zeros_like(self.weight))


class PolicyGradientModule(nn.Module):
    """Backbone, head and value head under the names that patterns of optimizers use, and the loss as `forward`.

    Args:
        policy: The policy that is trained.
        value: Its value head, if any.
        options: What the loss is made of.
        reference_head: Frozen head of the policy that it should stay close to.
    """

    policy: VLAPolicy
    reference_head: ActionHead | None

    def __init__(
        self,
        policy: VLAPolicy,
        value: ValueHead | None,
        options: PolicyGradientOptions,
        reference_head: ActionHead | None = None,
    ) -> None:
        super().__init__()
        self.backbone, self.head, self.preprocessing = policy.backbone, policy.head, policy.preprocessing
        self.value = value
        self.options = options
        # Not children: names would get a prefix, and a reference is neither spread nor saved with the policy.
        object.__setattr__(self, "policy", policy)
        object.__setattr__(self, "reference_head", reference_head)

    def forward(
        self, batch: ChunkBatch, demonstrations: Mapping[str, Any] | None = None, *, trains_policy: bool = True
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the part of the mini-batch's loss that this micro-batch is, and its part of the metrics.

        Args:
            batch: Decisions.
            demonstrations: A batch of recorded data, whose supervised loss is added.
            trains_policy: False for the value alone, without a gradient to the policy.
        """
        prefix = self.encode(Micro(batch.samples))
        if not trains_policy:
            prefix = prefix.detach()
        loss, metrics = prefix.tokens.new_zeros((), dtype=torch.float32), {}
        if trains_policy:
            loss, metrics = self._policy_loss(prefix, batch)
        if self.value is not None:
            value_loss, found = self._value_loss(self.value, prefix, batch, trains_policy)
            loss, metrics = loss + self.options.value_loss_coef * value_loss, metrics | found
        if demonstrations is not None:
            cloning = self._cloning_loss(demonstrations)
            loss = loss + self.options.sft_coef * cloning
            metrics["actor/sft_loss"] = cloning.detach()
        return loss, metrics

    def encode(self, micro: Micro) -> Prefix:
        """Return stored features, or those of observations."""
        if stored := part_of(micro.batch, PREFIX):
            return Prefix.from_tensors(stored)
        return self.policy.encode(part_of(micro.batch, OBS))

    def precision(self) -> AbstractContextManager:
        """Return the autocast that `forward` runs in, for other uses of the same networks."""
        return autocast(self.options.parallel.mixed_precision, next(self.parameters()).device)

    def _policy_loss(self, prefix: Prefix, batch: ChunkBatch) -> tuple[Tensor, dict[str, Tensor]]:
        cfg = self.options
        record = part_of(batch.samples, RECORD)
        old = record["log_prob"]
        rows, length, dims = old.shape
        found = self.head.evaluate(prefix, record)
        executed = executed_mask(batch.executed, length)

        log_prob, mask = at_level(found.log_prob, executed, cfg.log_prob_level)
        old_log_prob, _ = at_level(old, executed, cfg.log_prob_level)
        advantage = advantage_at_level(batch.advantage, (rows, length, dims), cfg.log_prob_level)
        terms, ratio, cut = surrogate_terms(
            log_prob,
            old_log_prob,
            advantage,
            clip_low=cfg.clip_low,
            clip_high=cfg.clip_high,
            dual_clip=cfg.dual_clip,
            max_log_ratio=cfg.max_log_ratio,
        )
        weight = batch.weight.unsqueeze(1) * mask / batch.totals[cfg.log_prob_level]

        def mean(values: Tensor) -> Tensor:
            return torch.where(mask, values * weight, 0.0).sum()

        surrogate = mean(terms)
        entropy = self._mean(found.entropy, executed, batch)
        loss = surrogate - cfg.entropy_coef * entropy
        metrics = {
            "actor/policy_loss": surrogate,
            "actor/entropy": entropy,
            "actor/approx_kl": mean(approximate_kl(log_prob - old_log_prob)),
            "actor/ratio": mean(ratio),
            "actor/pg_clipfrac": mean(cut),
        }
        if self.reference_head is not None:
            there = prefix.detach() if batch.reference_prefix is None else batch.reference_prefix
            distance = self.head.record_divergence(prefix, self.reference_head, there, record)
            metrics["actor/kl_reference"] = divergence = self._mean(distance, executed, batch)
            loss = loss + cfg.kl_coef * divergence
        return loss, {name: metric.detach() for name, metric in metrics.items()}

    def _mean(self, values: Tensor, executed: Tensor, batch: ChunkBatch) -> Tensor:
        """This micro-batch's part of the mean of `(S, H, A)` over the mini-batch, at the entropy's level."""
        level = self.options.entropy_level
        values, mask = at_level(values, executed, level)
        return (values * batch.weight.unsqueeze(1) * mask).sum() / batch.totals[level]

    def _value_loss(
        self, head: ValueHead, prefix: Prefix, batch: ChunkBatch, trains_policy: bool
    ) -> tuple[Tensor, dict[str, Tensor]]:
        cfg, width = self.options, batch.value.shape[1]
        value = head(prefix, self.head, detached=not trains_policy).view(len(batch.executed), -1)[:, :width]
        mask = executed_mask(batch.executed, width) if width > 1 else (batch.executed > 0).unsqueeze(1)
        terms, cut = value_terms(value, batch.value, batch.target, clip=cfg.value_clip, huber=cfg.huber_delta)

        def mean(values: Tensor) -> Tensor:
            return torch.where(mask, values, 0.0).sum() / batch.totals["value"]

        loss = mean(terms)
        return loss, {"actor/value_loss": loss.detach(), "actor/value_clipfrac": mean(cut)}

    def _cloning_loss(self, demonstrations: Mapping[str, Any]) -> Tensor:
        prefix = self.policy.encode(demonstrations)
        return self.policy.loss(prefix, *actions_of(demonstrations)).mean
