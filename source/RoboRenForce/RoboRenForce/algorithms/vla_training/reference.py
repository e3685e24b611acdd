"""The policy before fine-tuning, to stay close to: a copy of what is trained, over the same frozen weights.

The loss becomes L + kl_coef * D(policy, reference), with the distance D of the action head's distributions
(`ActionHead.divergence`: a KL divergence where there are densities). With quadratic losses the minimum lies at
(target + kl_coef * reference) / (1 + kl_coef).

There is no second copy of a frozen backbone. Where nothing of the backbone is trained the reference reads the policy's
own features. Otherwise its backbone is this one with the trained weights (all of them, or LoRA's) exchanged for the
time of a forward pass.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from ...components.action_heads import ActionHead
from ...components.ema import WeightCopy
from ...components.vla_policy import VLAPolicy
from ...networks.vlm import Prefix
from ...utils.module_state import load_module_state, module_state
from ...utils.parallelize import named_parameters, unwrapped
from ...utils.seeding import preserved_rng
from .supervised_module import Micro


class Reference:
    """Built from the policy as it is, before it is parallelized; `keep_backbone` follows after that."""

    def __init__(self, policy: VLAPolicy) -> None:
        self.head: ActionHead = copy.deepcopy(policy.head).requires_grad_(False).eval()
        self.backbone: WeightCopy | None = None

    def keep_backbone(self, module: nn.Module) -> None:
        """Copy the trained weights of the backbone of the (parallel) module, sharded as they are."""
        params = {
            name: parameter
            for name, parameter in named_parameters(module).items()
            if name.startswith("backbone.") and parameter.requires_grad
        }
        self.backbone = WeightCopy(module, params) if params else None

    @torch.no_grad()
    def encode(self, module: nn.Module, batch: Mapping[str, Any]) -> Prefix | None:
        """The reference's features of a batch; None where they are the policy's own. Under FSDP every rank calls.

        It comes before the policy's own forward pass, whose weights must not change until its backward pass.
        """
        if self.backbone is None:
            return None
        inner: Any = unwrapped(module)
        with self.backbone.swapped_in(), preserved_rng():  # images shifted, states dropped as the policy's will be
            prefix: Prefix = inner.encode(Micro(batch))
        return prefix

    def state_dict(self) -> dict[str, Any]:
        """Its weights: they can't be made again from those of the policy."""
        backbone = {} if self.backbone is None else self.backbone.state_dict()
        return {"head": module_state(self.head), "backbone": backbone}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore `state_dict` in place."""
        load_module_state(self.head, state["head"])
        if self.backbone is not None:
            self.backbone.load_state_dict(state["backbone"])
