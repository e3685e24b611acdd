"""Collector of off-policy VLA learners: frozen features, a learner's collector, chunks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from tensordict import TensorDict
from torch import Tensor

from ...buffer.transition import ActOut, Collector
from ...utils.cuda_graph import GraphMode, graphed, release
from .prefix_features import FEATURES, Encoded, PrefixFeatures, as_observations

LATENT = "latent"
"""The learner's action, in the record."""


class VLACollector:
    """`Collector` whose records hold the features of the observation and the latent action.

    On a GPU, encoding and turning latent actions into chunks are a CUDA graph each.

    Args:
        features: Frozen features, and the meaning of latent actions.
        inner: Chooses latent actions from features.
        device: Of everything.
        cuda_graph: CUDA-graph mode.
    """

    def __init__(
        self, features: PrefixFeatures, inner: Collector, *, device: torch.device, cuda_graph: GraphMode
    ) -> None:
        self.features, self.inner = features, inner
        self._device = device
        self._mode: GraphMode = cuda_graph
        self.policy_version = inner.policy_version  # counted in place
        self._known: tuple[TensorDict, Encoded] | None = None
        self._encode, self._decode = self._steps()

    def _steps(self) -> tuple[Callable[..., Encoded], Callable[..., Tensor]]:
        encode = graphed(self.features, self._device, self._mode, "features")
        return encode, graphed(self.features.env_actions, self._device, self._mode, "chunks")

    def forget_graphs(self) -> None:
        """Capture again: the texts that the policy knows live elsewhere now."""
        self.close()
        self._encode, self._decode = self._steps()

    @torch.no_grad()
    def act(self, obs: TensorDict) -> ActOut:
        """Choose a chunk `(N, h, A)` for each environment."""
        seen = self.encode(obs)
        out = self.inner.act(as_observations(seen.features))
        chunk = self._decode(out.action, seen)
        return ActOut(chunk, {**out.record, FEATURES: seen.features, LATENT: out.action})

    def encode(self, obs: TensorDict) -> Encoded:
        """Compute the features of an observation; those of the newest one are kept, and not computed again."""
        if self._known is None or self._known[0] is not obs:
            seen = self._encode({name: obs[name] for name in self.features.policy.obs_groups})
            # A graph overwrites its results, and the features have to last until they are stored.
            self._known = obs, replace(seen, features=seen.features.clone())
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

    def close(self) -> None:
        """Free the captured graphs."""
        release(self._encode, self._decode)

    def weights(self) -> dict[str, Any]:
        """See `Collector`: frozen weights do not change."""
        return self.inner.weights()

    def load_weights(self, weights: Mapping[str, Any]) -> None:
        """See `Collector`."""
        self.inner.load_weights(weights)
