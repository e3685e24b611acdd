"""The seam between a learner of vectors within [-1, 1] and the action chunks of a frozen VLA policy.

An off-policy learner chooses a latent action; what it stands for is said here: a correction of the chunk that the
policy wants, or the noise from which the policy's flow begins.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn

from ...components.vla_policy import VLAPolicy
from ...configclass import Cfg, configclass
from ...networks.vlm import Prefix


class LatentActions(nn.Module, ABC):
    """Built by `LatentActionsCfg.build(policy=, executed=)`. Chunks here are normalized, as heads give them.

    Args:
        cfg: Its configuration.
        policy: The frozen policy.
        executed: Actions of a chunk that the environment executes, h.
    """

    dim: int
    """Size of a latent action."""
    context_dim: int = 0
    """Size of the context."""

    def __init__(self, cfg: LatentActionsCfg, policy: VLAPolicy, executed: int) -> None:
        super().__init__()
        self.cfg, self.executed, self.action_dim = cfg, executed, policy.spec.action.dim
        self._policy = [policy]  # in a list: no part of this module, whose owner has it already

    @property
    def policy(self) -> VLAPolicy:
        """The frozen policy."""
        return self._policy[0]

    def context(self, prefix: Prefix) -> Tensor:
        """Compute what the meaning of a latent action depends on, `(B, context_dim)`; part of the learner's features.

        It is a function of the observation: what is drawn at random would be another at the next look.
        """
        return prefix.state.new_zeros(len(prefix.tokens), 0)

    @abstractmethod
    def chunk(self, latent: Tensor, prefix: Prefix, context: Tensor) -> Tensor:
        """Turn latent actions `(B, dim)` into the chunks `(B, h, A)` that are executed."""

    @abstractmethod
    def latent(self, chunk: Tensor, context: Tensor) -> Tensor:
        """Find the latent actions `(B, dim)` of demonstrated chunks `(B, h, A)`, the nearest where there are none.

        Raises:
            ConfigError: it can't be found.
        """


@configclass
class LatentActionsCfg(Cfg):
    """Base of the configurations of latent actions."""

    class_type: type = LatentActions
