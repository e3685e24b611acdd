"""Corrections of the chunk that a frozen policy wants (residual policy learning, arXiv 1812.03201)."""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor
from typing_extensions import override

from ...components.action_heads import FlowHead
from ...components.action_heads.denoising import DenoisingHead
from ...components.vla_policy import VLAPolicy
from ...configclass import ConfigError, Range, configclass
from ...networks.vlm import Prefix
from .latent_actions import LatentActions, LatentActionsCfg


class ResidualChunk(LatentActions):
    """chunk = chunk of the frozen head + scale * latent; the head's chunk is part of the learner's features.

    It starts as the policy that it corrects, and works for every head. A flow starts from the mean of its noise, 0.
    """

    cfg: ResidualChunkCfg

    def __init__(self, cfg: ResidualChunkCfg, policy: VLAPolicy, executed: int) -> None:
        super().__init__(cfg, policy, executed)
        if isinstance(policy.head, DenoisingHead) and not isinstance(policy.head, FlowHead):
            raise ConfigError(
                f"A {type(policy.head).__name__} draws noise as it samples, so the chunk to correct would change from "
                "one look to the next: take a policy with a FlowHeadCfg, or with a RegressionHeadCfg."
            )
        self.dim = self.context_dim = executed * self.action_dim

    @override
    def context(self, prefix: Prefix) -> Tensor:
        head = self.policy.head
        if isinstance(head, FlowHead):
            size = (len(prefix.tokens), head.cfg.chunk_size, self.action_dim)
            chunk = head.sample(prefix, torch.zeros(size, device=prefix.tokens.device))
        else:
            chunk = head.act(prefix, deterministic=True)[0]
        return chunk[:, : self.executed].flatten(1).float()

    @override
    def chunk(self, latent: Tensor, prefix: Prefix, context: Tensor) -> Tensor:
        return (context + self.cfg.scale * latent).unflatten(1, (self.executed, self.action_dim))

    @override
    def latent(self, chunk: Tensor, context: Tensor) -> Tensor:
        return ((chunk.flatten(1) - context) / self.cfg.scale).clamp(-1.0, 1.0)


@configclass
class ResidualChunkCfg(LatentActionsCfg):
    """Configuration of a `ResidualChunk`."""

    class_type: type = ResidualChunk
    scale: Annotated[float, Range(gt=0, le=10)] = 0.5
    """Largest correction of a normalized action, whose range in the data is about [-1, 1]."""
