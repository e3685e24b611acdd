"""Conditioning for action policy smoothness (CAPS): successive and nearby states get nearby actions.

Mysore et al. 2021 (arXiv 2012.06644). With the deterministic action mu of the current policy,

    L_T = mean D(mu(s_t), mu(s_{t+1}))                               over steps within an episode
    L_S = mean D(mu(s), mu(s + sigma eps)),    eps ~ N(0, I)
    L   = L_policy + lambda_T L_T + lambda_S L_S

D is the Euclidean distance in the paper, its square by default here: that is smooth at 0. Gradients flow through both
sides of a pair. The noise is in units of the normalized observation.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn

from ...configclass import Range, configclass
from ..functional import length, masked_mean
from .loss_term import AnyBatch, LossTerm, LossTermCfg
from .samples import Samples, require_continuous, require_single_steps, squared_distance


class CAPS(LossTerm):
    """Penalty on the distance of actions in successive states, and in states that differ by noise."""

    name, needs_successors, masks_ends, compiles = "caps", True, True, True

    def __init__(self, cfg: CAPSCfg) -> None:
        self.cfg = cfg

    def check_fit(self, *, sequences: bool, actor: nn.Module, n_step: int = 1) -> None:
        """Refuse discrete actions, and a replay whose successors are several steps away."""
        require_continuous("CAPSCfg", actor)
        if self.cfg.temporal_weight:
            require_single_steps("CAPSCfg", n_step)

    def loss(
        self, actor: Any, critic: nn.Module, batch: AnyBatch, num_original: int, expert: AnyBatch | None = None
    ) -> Tensor:
        """Return lambda_T L_T + lambda_S L_S over at most `max_samples` states."""
        cfg = self.cfg
        if not cfg.temporal_weight and not cfg.spatial_weight:  # no noise is drawn: the run is the one without the term
            return batch.action.new_zeros(())
        samples = Samples.of(batch, cfg.max_samples)
        versions = [actor.encoder(samples.obs)]
        if cfg.spatial_weight:
            versions.append(noisy(versions[0], cfg.sigma, actor.encoder.flat_features))
        # A recurrent policy meets the successor at the next step of the sequence, with the state that it then has.
        if cfg.temporal_weight and not samples.is_sequence:
            versions.append(actor.encoder(samples.next_obs))
        action, *others = samples.actions(actor, versions)
        loss = action.new_zeros(())
        if cfg.spatial_weight:
            loss = loss + cfg.spatial_weight * masked_mean(self.distance(action, others[0]), samples.acted)
        if cfg.temporal_weight and samples.is_sequence:
            both = samples.continued[:-1] if samples.acted is None else samples.continued[:-1] & samples.acted[1:]
            loss = loss + cfg.temporal_weight * masked_mean(self.distance(action[:-1], action[1:]), both)
        elif cfg.temporal_weight:
            loss = loss + cfg.temporal_weight * masked_mean(self.distance(action, others[-1]), samples.continued)
        return loss

    def distance(self, first: Tensor, second: Tensor) -> Tensor:
        """Return D of two actions, over the last dimension."""
        squares = squared_distance(first, second)
        return squares if self.cfg.norm == "l2sq" else length(squares)


def noisy(features: Tensor, sigma: float, count: int) -> Tensor:
    """Return `features` `(..., F)` with Gaussian noise on the first `count`, those of no image."""
    noise = sigma * torch.randn_like(features[..., :count])
    return torch.cat([features[..., :count] + noise, features[..., count:]], dim=-1)


@configclass
class CAPSCfg(LossTermCfg):
    """Configuration of CAPS. Without a weight it changes nothing."""

    class_type: type = CAPS
    temporal_weight: Annotated[float, Range(ge=0)] = 0.01
    """lambda_T: weight of the distance to the action in the true successor."""
    spatial_weight: Annotated[float, Range(ge=0)] = 0.01
    """lambda_S: weight of the distance to the action in a noisy state."""
    sigma: Annotated[float, Range(gt=0)] = 0.05
    """Standard deviation of the noise, in units of the normalized observation."""
    norm: Literal["l2sq", "l2"] = "l2sq"
    """Distance of two actions: squared Euclidean, or Euclidean as in the paper."""
    max_samples: Annotated[int, Range(ge=1)] = 1024
    """States of a mini-batch that the term reads, its first ones (so `shuffle=none` reads the first steps only)."""
