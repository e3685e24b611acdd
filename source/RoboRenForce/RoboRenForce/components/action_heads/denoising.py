"""Base of flow matching and diffusion: a network learns from noisy chunks, and sampling starts from noise."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import override

from ...configclass import Range, configclass
from ...networks import DenoiserCfg, MLPDenoiserCfg
from ...networks.vlm import Prefix, Taps
from .action_head import ActionHead, ActionHeadCfg, Evaluation, LossSum, same_kind
from .masking import masked_loss, valid_actions
from .noisy_steps import NoisySteps


@dataclass
class Corrupted:
    """Noisy chunks and what the network should say to them, `(B, H, P)` each."""

    x: Tensor
    time: Tensor
    """Time input of the network, `(B,)`, or `(B, H)` if actions have times of their own."""
    target: Tensor
    mask: Tensor
    """bool: elements that are learned."""


class DenoisingHead(ActionHead):
    """A head that is learned by mean squared errors at random noise levels; subclasses add noise and remove it."""

    cfg: DenoisingHeadCfg

    def __init__(self, cfg: DenoisingHeadCfg, *, width: int, state_dim: int, action_dim: int) -> None:
        super().__init__()
        self.cfg, self.action_dim = cfg, action_dim
        self.chunk_dim: int = cfg.network.chunk_dim(action_dim)
        """Dimensions of noisy chunks, P >= A: those behind the robot's are part of the path from noise to actions, as
        the weights have learned it, and of nothing else."""
        self.network = cfg.network.build(
            chunk_size=cfg.chunk_size, action_dim=self.chunk_dim, width=width, state_dim=state_dim
        )

    @abstractmethod
    def corrupt(self, actions: Tensor, mask: Tensor, generator: torch.Generator | None) -> Corrupted:
        """Draw noise and a noise level for each chunk."""

    @override
    def loss(
        self, prefix: Prefix, actions: Tensor, mask: Tensor, *, generator: torch.Generator | None = None
    ) -> LossSum:
        """Squared errors of the network, averaged over `draws_per_feature` draws."""
        noisy = self._draw(actions, mask, generator)
        return self._mean_of_draws(self._predict(prefix, noisy) - noisy.target, noisy.mask)

    @override
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
        """Squared distance of the two networks' outputs at the same noisy chunks; symmetric, 0 if they sample alike."""
        reference = same_kind(self, reference)
        noisy = self._draw(actions, mask, generator)
        with torch.no_grad():
            target = reference._predict(reference_prefix, noisy)
        return self._mean_of_draws(self._predict(prefix, noisy) - target, noisy.mask)

    @override
    def act(
        self, prefix: Prefix, *, deterministic: bool = True, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        noise = self.draw_noise(prefix, generator)
        with self.network.many_passes():
            if deterministic or not self.has_density:
                return self.sample(prefix, noise, generator=generator), {}
            chunk, record = self._noisy(prefix).draw(noise, generator)
        return self._robots(chunk), {**record, "log_prob": self._robots(record["log_prob"])}

    @override
    def evaluate(self, prefix: Prefix, record: Mapping[str, Tensor]) -> Evaluation:
        """As in the base class: the density of the path that was drawn, see `noisy_steps`."""
        self.require_density()
        found = self._noisy(prefix).evaluate(record)
        return Evaluation(self._robots(found.log_prob), self._robots(found.entropy))

    @override
    def record_divergence(
        self, prefix: Prefix, reference: ActionHead, reference_prefix: Prefix, record: Mapping[str, Tensor]
    ) -> Tensor:
        self.require_density()
        reference = same_kind(self, reference)
        with torch.no_grad():
            other = reference._noisy(reference_prefix)
        return self._robots(self._noisy(prefix).divergence(other, record))

    @abstractmethod
    def _noisy(self, prefix: Prefix) -> NoisySteps:
        """Return the sampling steps that have a density, for these observations."""

    @abstractmethod
    def sample(self, prefix: Prefix, noise: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """Turn noise into normalized actions `(B, H, A)`.

        Args:
            prefix: Features of B observations.
            noise: `(B, H, P)`; or `(B, H, A)`, with zeros behind it.
            generator: For samplers that draw more of it.
        """

    def draw_noise(self, prefix: Prefix, generator: torch.Generator | None = None) -> Tensor:
        """Draw what sampling starts from, float32 `(B, H, P)`."""
        size = (len(prefix.tokens), self.cfg.chunk_size, self.chunk_dim)
        return torch.empty(size, device=prefix.tokens.device).normal_(generator=generator)

    def _draw(self, actions: Tensor, mask: Tensor, generator: torch.Generator | None) -> Corrupted:
        draws = self.cfg.draws_per_feature
        actions = self._with_padding(valid_actions(actions, mask)).repeat_interleave(draws, 0)
        return self.corrupt(actions, self._with_padding(mask).repeat_interleave(draws, 0), generator)

    def _with_padding(self, x: Tensor) -> Tensor:
        """`(B, H, A)` to `(B, H, P)`: zeros, or False, which is learned nowhere."""
        return F.pad(x, (0, self.chunk_dim - x.shape[-1])) if self.chunk_dim > x.shape[-1] else x

    def _robots(self, x: Tensor) -> Tensor:
        """The robot's dimensions of `(B, H, P)`."""
        return x[..., : self.action_dim]

    def _predict(self, prefix: Prefix, noisy: Corrupted) -> Tensor:
        """Network output at all draws; what depends on the observation alone is computed once."""
        draws = self.cfg.draws_per_feature
        if draws == 1:
            return self.network.predict(noisy.x, noisy.time, prefix)
        context = {name: tensor.repeat_interleave(draws, 0) for name, tensor in self.network.encode(prefix).items()}
        return self.network(noisy.x, noisy.time, context)

    def _mean_of_draws(self, error: Tensor, mask: Tensor) -> LossSum:
        loss, draws = masked_loss(error.square(), mask), self.cfg.draws_per_feature
        return LossSum(loss.total / draws, loss.count / draws)


@configclass
class DenoisingHeadCfg(ActionHeadCfg):
    """Base of the configurations of flow matching and diffusion."""

    class_type: type = DenoisingHead

    network: DenoiserCfg = MLPDenoiserCfg()
    """`MLPDenoiserCfg` reads the mean of all tokens, `DiTCfg` attends to all of them."""
    draws_per_feature: Annotated[int, Range(ge=1, le=256)] = 1
    """Draws of noise and noise level for each observation and step of training: where the backbone is what costs, a
    larger batch for the head at little cost."""

    @override
    def taps(self, action_dim: int) -> Taps:
        return self.network.taps()

    @override
    def without_adapters(self) -> DenoisingHeadCfg:
        return self.replace(network=self.network.without_adapters())
