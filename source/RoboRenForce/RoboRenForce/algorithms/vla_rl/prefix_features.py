"""Features of a frozen VLA policy as the observations of an ordinary learner."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from tensordict import TensorDict
from torch import Tensor

from ...components.vla_policy import VLAPolicy
from ...configclass import ConfigError
from ...envs.spec import ActionSpec, EnvSpec
from ...networks.vlm import Prefix
from .latent_actions import LatentActions

FEATURES = "features"
"""The observation group of the learner."""


@dataclass
class Encoded:
    """Observations as the backbone sees them."""

    prefix: Prefix
    features: Tensor
    """Mean of the valid tokens, normalized proprioception, context of the latent actions: float32 `(N, F)`."""
    context: Tensor
    """`(N, C)`, the last columns of the features."""


class PrefixFeatures:
    """Encode observations once; the learner keeps the features, not the images.

    Raises:
        ConfigError: the backbone is trained, so that kept features would become those of another policy.
    """

    def __init__(self, policy: VLAPolicy, actions: LatentActions) -> None:
        if not policy.backbone.is_frozen:
            raise ConfigError(
                "Off-policy learning keeps the features of observations in its replay, and this backbone is trained, "
                "so they would go stale: freeze it (policy.backbone.requires_grad_(False)), or learn with VLAPPOCfg."
            )
        self.policy, self.actions = policy, actions

    @property
    def dim(self) -> int:
        """F."""
        return self.policy.backbone.width + self.policy.spec.state.dim + self.actions.context_dim

    @torch.no_grad()
    def __call__(self, obs: Mapping[str, Any]) -> Encoded:
        """Encode observations of the environment, or recorded ones, of N rows."""
        prefix = self.policy.encode(dict(obs.items()))
        context = self.actions.context(prefix)
        return Encoded(prefix, torch.cat([prefix.pooled.float(), prefix.state.float(), context], 1), context)

    @torch.no_grad()
    def env_actions(self, latent: Tensor, seen: Encoded) -> Tensor:
        """Turn latent actions `(N, dim)` into chunks `(N, h, A)` in the environment's units."""
        chunk = self.actions.chunk(latent, seen.prefix, seen.context)
        return self.policy.preprocessing.env_actions(chunk, self.policy.raw_state(seen.prefix))

    def learner_spec(self, env: EnvSpec) -> EnvSpec:
        """Describe the environment as the learner sees it: features in, latent actions within [-1, 1] out."""
        dim = self.actions.dim
        action = ActionSpec("continuous", dim, low=(-1.0,) * dim, high=(1.0,) * dim)
        return replace(env, obs_groups={FEATURES: (self.dim,)}, obs_dtypes={}, action=action)


def as_observations(features: Tensor) -> TensorDict:
    """The learner's observations."""
    return TensorDict({FEATURES: features}, batch_size=[len(features)], device=features.device)
