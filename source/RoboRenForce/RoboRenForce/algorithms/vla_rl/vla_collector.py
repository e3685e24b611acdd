"""Collector of off-policy VLA learners: frozen features, a learner's collector, chunks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from tensordict import TensorDict
from torch import Tensor

from ...buffer.transition import ActOut, Collector
from .prefix_features import FEATURES, Encoded, PrefixFeatures, as_observations

LATENT = "latent"
"""The learner's action, in the record."""


class VLACollector:
    """`Collector` whose records hold the features of the observation and the latent action.

    Args:
        features: Frozen features, and the meaning of latent actions.
        inner: Chooses latent actions from features.
    """

    def __init__(self, features: PrefixFeatures, inner: Collector) -> None:
        self.features, self.inner = features, inner
        self._known: tuple[TensorDict, Encoded] | None = None

    @property
    def policy_version(self) -> Tensor:
        """See `Collector`."""
        return self.inner.policy_version

    @torch.no_grad()
    def act(self, obs: TensorDict) -> ActOut:
        """Choose a chunk `(N, h, A)` for each environment."""
        seen = self.encode(obs)
        out = self.inner.act(as_observations(seen.features))
        chunk = self.features.env_actions(out.action, seen)
        return ActOut(chunk, {**out.record, FEATURES: seen.features, LATENT: out.action})

    def encode(self, obs: TensorDict) -> Encoded:
        """Compute the features of an observation; those of the newest one are kept, and not computed again."""
        if self._known is None or self._known[0] is not obs:
            self._known = obs, self.features(obs)
        return self._known[1]

    def end_step(self, done: Tensor) -> None:
        """See `Collector`."""
        self.inner.end_step(done)

    def restart_episodes(self) -> None:
        """See `Collector`."""
        self._known = None
        self.inner.restart_episodes()

    def state_dict(self) -> dict[str, Any]:
        """See `Collector`."""
        return self.inner.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `Collector`."""
        self._known = None
        self.inner.load_state_dict(state)

    def weights(self) -> dict[str, Any]:
        """See `Collector`: frozen weights do not change."""
        return self.inner.weights()

    def load_weights(self, weights: Mapping[str, Any]) -> None:
        """See `Collector`."""
        self.inner.load_weights(weights)
