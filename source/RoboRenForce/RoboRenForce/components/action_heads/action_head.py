"""The seam of all action heads. Actions here are normalized; the policy knows their units.

Shape letters: B observations, H actions of a chunk, A dimensions of an action.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from ...configclass import Cfg, Range, UserError, configclass
from ...networks.vlm import Prefix, Taps


@dataclass
class LossSum:
    """A loss before its mean is taken, so that ranks and micro-batches can divide by the count of all of them."""

    total: Tensor
    """Sum over all valid elements, 0-dim, float32."""
    count: Tensor
    """Number of valid elements, 0-dim, float32."""
    metrics: dict[str, Tensor] = field(default_factory=dict)
    """Further 0-dim values to log, detached."""

    @property
    def mean(self) -> Tensor:
        """The mean over this batch, 0 if nothing is valid."""
        return self.total / self.count.clamp(min=1)


@dataclass
class Evaluation:
    """Log-probability and entropy of recorded actions under the current weights."""

    log_prob: Tensor
    """float32 `(B, H, A)`: for each action dimension (or token of it); what is not executed is masked by the caller."""
    entropy: Tensor
    """float32 `(B, H, A)`."""


Head = TypeVar("Head", bound="ActionHead")


class ActionHead(nn.Module, ABC):
    """Built by `ActionHeadCfg.build(width=, state_dim=, action_dim=)`, with the width D of the backbone."""

    cfg: ActionHeadCfg
    action_dim: int
    """A, without padding."""
    has_density: bool = True
    """Whether acting with exploration has a log-probability, which policy gradients need."""
    only_whole_chunks: ClassVar[bool] = False
    """True if log-probabilities have a meaning only as a sum over H and A, of which nothing may be masked."""
    untaught: ClassVar[tuple[str, ...]] = ()
    """Beginnings of the names of its tensors that demonstrations don't teach: weights of a fine-tuned policy may lack
    them, and they then start fresh."""
    exploration: ClassVar[tuple[str, ...]] = ()
    """Beginnings of the names of tensors that are about exploration alone: cloning demonstrations never uses them, so
    that reinforcement learning begins with those of its own configuration."""
    density_advice: ClassVar[str] = "choose a flow head with density='sde', or one of regression or tokens"
    """Fix, in the error message of a head without density."""

    def fit(self, actions: Tensor) -> None:
        """Learn what no gradient teaches, such as FAST's vocabulary, from normalized chunks `(N, H, A)`."""

    @abstractmethod
    def loss(
        self, prefix: Prefix, actions: Tensor, mask: Tensor, *, generator: torch.Generator | None = None
    ) -> LossSum:
        """Compare with demonstrated actions.

        Args:
            prefix: Features of B observations.
            actions: Normalized actions `(B, H, A)`, anything where the mask is False.
            mask: bool `(B, H, A)`, False after the end of an episode and in padded dimensions.
            generator: Where noise is drawn, for a validation that has to repeat its draws; None for torch's own.
        """

    @abstractmethod
    def act(
        self, prefix: Prefix, *, deterministic: bool = True, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Choose chunks of actions.

        Args:
            prefix: Features of B observations.
            deterministic: No exploration: the mode where there is one; generative heads still draw their start noise.
                Where there is no density, False acts the same.
            generator: Where noise is drawn; None for torch's own.

        Returns:
            Normalized actions `(B, H, A)`, and the record from which `evaluate` finds their log-probabilities again,
            `(B, ...)` each, with `log_prob` `(B, H, A)` as it is known while acting; empty if `deterministic` or if
            there is no density.
        """

    @abstractmethod
    def evaluate(self, prefix: Prefix, record: Mapping[str, Tensor]) -> Evaluation:
        """Return log-probabilities of recorded actions under the current weights, in float32.

        Raises:
            UserError: the head has no density.
        """

    @abstractmethod
    def record_divergence(
        self, prefix: Prefix, reference: ActionHead, reference_prefix: Prefix, record: Mapping[str, Tensor]
    ) -> Tensor:
        """KL(head || reference), exact, of the distributions that recorded actions were drawn from.

        Where there are several draws one after another (tokens, noisy steps) it is the sum of theirs, each behind the
        recorded ones: its mean over records is the KL divergence of all draws together.

        Args:
            prefix: Features of B observations.
            reference: Frozen head of the same class; no gradient reaches it.
            reference_prefix: What it reads.
            record: As `act` returned it.

        Returns:
            float32 `(B, H, A)`, as log-probabilities are spread.

        Raises:
            UserError: the head has no density, or the reference is of another class.
        """

    def require_density(self) -> None:
        """Raise a UserError that says what to choose if the head has no density."""
        if not self.has_density:
            raise UserError(
                f"{type(self).__name__} has no log-probabilities of its actions as it is configured, and policy "
                f"gradients (PPO, GRPO) need them: {self.density_advice}."
            )

    @abstractmethod
    def divergence(
        self,
        prefix: Prefix,
        reference: ActionHead,
        reference_prefix: Prefix,
        actions: Tensor,
        mask: Tensor,
        *,
        generator: torch.Generator | None = None,
    ) -> LossSum:
        """Distance of this head's action distribution from that of a frozen reference, on the same observations.

        KL divergence (whose direction the head states) where there are densities, otherwise the distance that the head
        documents. Arguments as in `loss`; no gradient reaches the reference.
        """


@configclass
class ActionHeadCfg(Cfg):
    """Base of the configurations of action heads."""

    class_type: type = ActionHead

    chunk_size: Annotated[int, Range(ge=1, le=1024)] = 8
    """H, actions predicted at once."""

    def taps(self, action_dim: int) -> Taps:
        """Say what the head reads of the backbone."""
        return Taps()

    def without_adapters(self) -> ActionHeadCfg:
        """The same head once low-rank adapters are part of its weights."""
        return self.copy()


def same_kind(head: Head, reference: ActionHead) -> Head:
    """Return the reference of a divergence, which has to be of the head's class.

    Raises:
        UserError: it is of another one.
    """
    if not isinstance(reference, type(head)):
        raise UserError(
            f"The reference policy has a {type(reference).__name__}, expected a {type(head).__name__} as in the policy "
            f"that is trained; start both from the same checkpoint."
        )
    return reference
