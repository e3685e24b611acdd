"""Playing an off-policy VLA learner's policy."""

from __future__ import annotations

import torch
from tensordict import TensorDict
from torch import Tensor
from typing_extensions import override

from ..algorithm import Policy
from .prefix_features import PrefixFeatures, as_observations


class LatentPolicy(Policy):
    """Features of the frozen policy, a learned policy of latent actions, chunks; shares all weights with the learner.

    Args:
        features: Frozen features, and the meaning of latent actions.
        inner: Chooses latent actions.
    """

    def __init__(self, features: PrefixFeatures, inner: Policy) -> None:
        super().__init__()
        self.features, self.inner = features, inner

    @torch.no_grad()
    def forward(self, obs: TensorDict) -> Tensor:
        """Return chunks `(N, h, A)`."""
        self.inner.deterministic = self.deterministic
        seen = self.features(obs)
        return self.features.env_actions(self.inner(as_observations(seen.features)), seen)

    @override
    def reset(self, dones: Tensor | None = None) -> None:
        self.inner.reset(dones)
