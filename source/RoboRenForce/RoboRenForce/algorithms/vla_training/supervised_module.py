"""The module that is parallelized when a VLA policy learns from demonstrations: its `forward` is the loss."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ...components.action_heads import ActionHead
from ...components.vla_policy import VLAPolicy
from ...networks.vlm import Prefix
from .data_spec import ACTION

PREFIX = "prefix."
"""Features of a frozen backbone that were computed before are in a batch under names that begin like this."""


@dataclass
class Micro:
    """A batch on its way through DDP or FSDP, which neither copy nor cast what they do not look into."""

    batch: Mapping[str, Any]
    reference_prefix: Prefix | None = None
    """Features that the reference's backbone gives; None: they are the policy's own."""


class SupervisedModule(nn.Module):
    """A policy whose `forward` is its loss. Parameters have the policy's own names.

    Args:
        policy: What learns.
        reference_head: Frozen head of the policy that it should stay close to.
        kl_coef: How strongly.
    """

    policy: VLAPolicy
    reference_head: ActionHead | None

    def __init__(self, policy: VLAPolicy, reference_head: ActionHead | None = None, kl_coef: float = 0.0) -> None:
        super().__init__()
        self.backbone, self.head, self.preprocessing = policy.backbone, policy.head, policy.preprocessing
        self.action_tokens = policy.action_tokens
        self.kl_coef = kl_coef
        # Not children: names would get a prefix, and a reference is neither spread nor saved with the policy.
        object.__setattr__(self, "policy", policy)
        object.__setattr__(self, "reference_head", reference_head)

    def forward(self, micro: Micro) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Sum of the loss over valid elements, their number, and further metrics; a tuple, whose tensors FSDP finds."""
        prefix = self.encode(micro)
        actions, mask = self.policy.targets(prefix, *actions_of(micro.batch))
        loss = self.policy.target_loss(prefix, actions, mask)
        total, metrics = loss.total, dict(loss.metrics)
        if learned := [t.float().sum() for t in prefix.to_tensors().values() if t.requires_grad]:
            total = total + 0.0 * torch.stack(learned).sum()  # DDP waits for gradients that the head does not need
        if self.reference_head is not None:
            there = prefix.detach() if micro.reference_prefix is None else micro.reference_prefix
            distance = self.head.divergence(prefix, self.reference_head, there, actions, mask)
            total = total + self.kl_coef * distance.mean * loss.count
            metrics["kl"] = distance.mean.detach()
        return total, loss.count, metrics

    def encode(self, micro: Micro) -> Prefix:
        """Features of a batch: those that it brings, or those of the backbone."""
        stored = {name.removeprefix(PREFIX): t for name, t in micro.batch.items() if name.startswith(PREFIX)}
        return Prefix.from_tensors(stored) if stored else self.policy.encode(micro.batch)

    def predict(self, micro: Micro) -> Tensor:
        """The policy's actions `(B, H, A)` for a batch, in the units of the data."""
        prefix = self.encode(micro)
        normalized, _ = self.head.act(prefix)
        actions = self.preprocessing.env_actions(normalized, self.policy.raw_state(prefix))
        return actions * self.preprocessing.sign  # back from the environment's convention to that of the data


def actions_of(batch: Mapping[str, Any]) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Demonstrated actions `(B, H, A)`, what is padding `(B, H)`, and which dimensions exist `(B, A)`."""
    return batch[ACTION], batch.get(f"{ACTION}_is_pad"), batch.get(f"{ACTION}_dim_mask")
