"""Lipschitz regularization of the policy (Lips): actions that change little with the observation.

No paper is called Lips-PPO; the modes are what the field means by it:

    jac       lambda mean ||d mu / d s||_F                      LipsNet++ (Song et al. 2025, ICML)
    lcp       lambda mean ||d log pi(a|s) / d s||^2             Chen et al. 2024 (arXiv 2410.11825)
    mgn       lambda mean K(s)^2 of a `LipsNet`                 LipsNet (Song et al. 2023, ICML)
    spectral  nothing: a `SpectralMLP` has its bound by itself  Gouk et al. 2018 (arXiv 1804.04368)

States are encoded observations, so slopes are in units of the normalized observation. The exact Jacobian takes a
backward pass for every action dimension. With `probes` it is estimated from u^T d mu / d s for random signs u, whose
squared length is ||d mu / d s||_F^2 on average: a pass each, and exact for a single action. For a recurrent policy u is
drawn at every step, so that the estimate measures how all actions depend on all earlier observations of the rollout.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn

from ...components.deterministic_actor import DeterministicActor
from ...configclass import ConfigError, Range, configclass
from ...networks.fft_filter import FFTFilter
from ...networks.lipschitz import LipsNet, SpectralMLP
from ..functional import jacobian_norm, masked_mean, vjp
from .loss_term import AnyBatch, LossTerm, LossTermCfg
from .samples import Samples, require_continuous

_NETWORKS: dict[str, type] = {"mgn": LipsNet, "spectral": SpectralMLP}


class Lips(LossTerm):
    """Penalty on how much the policy changes with the observation."""

    name, compiles = "lips", True

    def __init__(self, cfg: LipsCfg) -> None:
        self.cfg = cfg

    def check_fit(self, *, sequences: bool, actor: Any, n_step: int = 1) -> None:
        """Check that the actor has what the mode regularizes."""
        mode, backbone = self.cfg.mode, actor.backbone
        require_continuous("LipsCfg", actor)
        if mode in _NETWORKS and not isinstance(backbone, _NETWORKS[mode]):
            kind = _NETWORKS[mode].__name__
            raise ConfigError(
                f"LipsCfg with mode={mode} regularizes a {kind}, but policy.actor_cfg.backbone_cfg builds a "
                f"{type(backbone).__name__}: use networks.{kind}Cfg there, or mode=jac."
            )
        if mode == "mgn" and backbone.out_features != actor.spec.action.dim:
            raise ConfigError(
                f"A LipsNet scales the action's mean, but {type(actor).__name__} reads a std from the same output: use "
                "state_dependent_std=False, or a StateIndStdActorCfg."
            )
        if mode == "lcp" and isinstance(actor, DeterministicActor):
            raise ConfigError("LipsCfg with mode=lcp needs log pi, which a DeterministicActor lacks: use mode=jac.")
        if mode == "jac" and sequences and self.cfg.probes is None:
            raise ConfigError(
                "LipsCfg with probes=None takes the Jacobian of one step, but actions of a recurrent policy depend on "
                "all earlier observations: set probes to 1 or more."
            )
        if self.cfg.filter_weight and not any(isinstance(part, FFTFilter) for part in actor.modules()):
            raise ConfigError(
                f"LipsCfg.filter_weight={self.cfg.filter_weight} has no FFTFilter to act on: use networks.FFTFilterCfg "
                "as policy.actor_cfg.backbone_cfg, or set it to 0."
            )

    def loss(
        self, actor: Any, critic: nn.Module, batch: AnyBatch, num_original: int, expert: AnyBatch | None = None
    ) -> Tensor:
        """Return the weighted term over at most `max_samples` states, and the weighted penalty of filters."""
        cfg, loss = self.cfg, batch.action.new_zeros(())
        if cfg.weight and cfg.mode != "spectral":  # no probes are drawn otherwise
            samples = Samples.of(batch, cfg.max_samples)
            # A leaf: slopes are those of the backbone, in normalized units.
            features = actor.encoder(samples.obs).detach()
            loss = loss + cfg.weight * masked_mean(self.slope(actor, features, samples), samples.acted)
        if cfg.filter_weight:
            for part in actor.modules():
                if isinstance(part, FFTFilter):
                    loss = loss + cfg.filter_weight * part.penalty()
        return loss

    def slope(self, actor: Any, features: Tensor, samples: Samples) -> Tensor:
        """Return the penalized quantity `(...)` of each state."""
        if self.cfg.mode == "mgn":
            return actor.backbone.lipschitz(features).squeeze(-1).square()
        if self.cfg.mode == "lcp":

            def log_prob(x: Tensor) -> Tensor:
                distribution = actor.distribution(samples.evaluate(actor, "actor", [x])[0])
                return distribution.log_prob(samples.action)

            value, pull = vjp(log_prob, features)
            return pull(torch.ones_like(value))[0].square().sum(-1)
        return jacobian_norm(lambda x: samples.actions(actor, [x])[0], features, self.cfg.probes, self.cfg.norm)


@configclass
class LipsCfg(LossTermCfg):
    """Configuration of Lips. With weights of 0 it changes nothing."""

    class_type: type = Lips
    mode: Literal["jac", "lcp", "mgn", "spectral"] = "jac"
    """What is penalized; mgn and spectral need their networks as `policy.actor_cfg.backbone_cfg`."""
    weight: Annotated[float, Range(ge=0)] = 5e-3
    """lambda; published are 5e-3 (jac), 2e-3 (lcp) and 0.1 (mgn)."""
    norm: Literal["frobenius", "rows"] = "frobenius"
    """Norm of jac: Frobenius, or the mean norm of the Jacobian's rows, which is smaller for several actions."""
    probes: Annotated[int, Range(ge=1)] | None = 1
    """Random probes of jac; None: exact, by as many backward passes as there are actions."""
    filter_weight: Annotated[float, Range(ge=0)] = 0.0
    """Weight of sum |kernel|^2 of an `FFTFilter` in the actor; LipsNet++ has 0.1."""
    max_samples: Annotated[int, Range(ge=1)] = 1024
    """States of a mini-batch that the term reads, its first ones (so `shuffle=none` reads the first steps only)."""

    def check(self) -> Iterable[str]:
        """Check that the norm can be estimated."""
        if self.norm == "rows" and self.probes is not None:
            yield "norm: rows are known only from the whole Jacobian; set probes to None, or use norm=frobenius"
