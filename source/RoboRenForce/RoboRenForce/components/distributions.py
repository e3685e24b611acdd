"""Action distributions over plain tensors.

They hold tensors and no state, validate nothing and never read a value on the host, so they work inside CUDA graphs
and `torch.compile(fullgraph=True)`, which `torch.distributions` does not without help. Batch dimensions are
free: `(...)` below is `(B,)` for a batch and `(T, B)` for sequences; A is the number of action dimensions.

References: the squashed Gaussian is that of SAC (Haarnoja et al. 2018, arXiv 1812.05905, appendix C) with the exact
form of the Jacobian term, `log(1 - tanh(u)^2) = 2 (log 2 - u - softplus(-2u))`, instead of an epsilon inside the
logarithm.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import override

HALF_LOG_2PI = 0.5 * math.log(2.0 * math.pi)
_HERMITE_NODES, _HERMITE_WEIGHTS = (values.tolist() for values in np.polynomial.hermite_e.hermegauss(48))
"""Gauss-Hermite rule for the tanh-Gaussian's entropy."""


class Distribution(ABC):
    """Batch of action distributions, independent over the batch."""

    @abstractmethod
    def sample(self) -> Tensor:
        """Draw an action per row, without gradient: `(..., A)`, or `(...)` if discrete.

        The noise comes from the default generator of the device.
        """

    def from_noise(self, noise: Tensor) -> Tensor:
        """Return the action `(..., A)` that the standard normal `noise` `(..., A)` produces.

        Raises:
            TypeError: Samples of this distribution are not a function of normal noise.
        """
        raise TypeError(f"{type(self).__name__} is not drawn from normal noise; use a Gaussian actor, or SampleCfg.")

    @abstractmethod
    def log_prob(self, action: Tensor) -> Tensor:
        """Return the log-density of `action`, summed over action dimensions, `(...)`."""

    @abstractmethod
    def entropy(self) -> Tensor:
        """Return the differential (or discrete) entropy, `(...)`."""

    @property
    @abstractmethod
    def mode(self) -> Tensor:
        """Deterministic action of the policy, shaped like a sample."""

    @property
    @abstractmethod
    def params(self) -> dict[str, Tensor]:
        """Tensors that define the distribution, each of the full batch shape, to be stored in a rollout."""

    @classmethod
    @abstractmethod
    def from_params(cls, params: Mapping[str, Tensor]) -> Distribution:
        """Build the distribution from its `params`."""

    @abstractmethod
    def kl_from(self, old_params: Mapping[str, Tensor]) -> Tensor:
        """Return `KL(old || self)`, `(...)`, of a distribution of the same kind given by its `params`."""


class DiagGaussian(Distribution):
    """Normal distribution with diagonal covariance.

    `mean` is `(..., A)`; `std` is positive and `(..., A)` or `(A,)`. The short form is not expanded, so that terms that
    depend on the std alone are computed once instead of once per row.
    """

    def __init__(self, mean: Tensor, std: Tensor) -> None:
        self.mean = mean
        self.std = std

    @override
    def sample(self) -> Tensor:
        # In this order, so that the result is bit-equal to torch.normal(mean, std) under the same generator state.
        with torch.no_grad():
            return torch.randn_like(self.mean) * self.std + self.mean

    @override
    def from_noise(self, noise: Tensor) -> Tensor:
        return noise * self.std + self.mean

    def rsample(self) -> Tensor:
        """Draw a reparameterized sample, differentiable in mean and std."""
        return torch.randn_like(self.mean) * self.std + self.mean

    @override
    def log_prob(self, action: Tensor) -> Tensor:
        scaled = (action - self.mean) / self.std
        constant = self.std.log().sum(-1) + HALF_LOG_2PI * self.mean.shape[-1]
        return -0.5 * scaled.square().sum(-1) - constant

    @override
    def entropy(self) -> Tensor:
        entropy = self.std.log().sum(-1) + (0.5 + HALF_LOG_2PI) * self.mean.shape[-1]
        return entropy.expand(self.mean.shape[:-1])

    @property
    @override
    def mode(self) -> Tensor:
        return self.mean

    @property
    @override
    def params(self) -> dict[str, Tensor]:
        return {"mean": self.mean, "std": self.std.expand_as(self.mean)}

    @classmethod
    @override
    def from_params(cls, params: Mapping[str, Tensor]) -> DiagGaussian:
        return cls(params["mean"], params["std"])

    @override
    def kl_from(self, old_params: Mapping[str, Tensor]) -> Tensor:
        old_mean, old_std = old_params["mean"], old_params["std"]
        # With z = std_old / std the per-dimension divergence is (z^2 - 1)/2 - log z + (mean difference / std)^2 / 2.
        ratio = old_std / self.std
        shift = (old_mean - self.mean) / self.std
        return (0.5 * (ratio.square() + shift.square() - 1.0) - ratio.log()).sum(-1)


class TanhGaussian(Distribution):
    """`tanh` of a diagonal normal distribution: actions in (-1, 1).

    `mean` and `std` describe the variable before the squashing. Entropy and log-probability are those of the unit-box
    action.
    """

    def __init__(self, mean: Tensor, std: Tensor) -> None:
        self.base = DiagGaussian(mean, std)

    @property
    def mean(self) -> Tensor:
        """Mean before the squashing, `(..., A)`."""
        return self.base.mean

    @property
    def std(self) -> Tensor:
        """Standard deviation before the squashing, `(..., A)` or `(A,)`."""
        return self.base.std

    @override
    def sample(self) -> Tensor:
        return self.base.sample().tanh()

    @override
    def from_noise(self, noise: Tensor) -> Tensor:
        return self.base.from_noise(noise).tanh()

    def rsample_with_log_prob(self) -> tuple[Tensor, Tensor]:
        """Draw a reparameterized action `(..., A)` with its log-probability `(...)`, exact also under saturation."""
        raw = self.base.rsample()
        return raw.tanh(), self.log_prob_raw(raw)

    def log_prob_raw(self, raw: Tensor) -> Tensor:
        """Return the log-probability of `tanh(raw)` for any finite `raw` `(..., A)`, without inverting the tanh."""
        return self.base.log_prob(raw) - log_tanh_jacobian(raw).sum(-1)

    @override
    def log_prob(self, action: Tensor) -> Tensor:
        # An action that rounded to +-1 has lost its pre-image; the nearest representable one stands in for it. Old
        # and new policy see the same substitute, so a ratio of the two stays a ratio of densities at one point.
        limit = 1.0 - torch.finfo(action.dtype).eps
        return self.log_prob_raw(action.clamp(-limit, limit).atanh())

    @override
    def entropy(self) -> Tensor:
        # H(tanh u) = H(u) + E[log(1 - tanh^2 u)], with the expectation by Gauss-Hermite quadrature.
        nodes, weights = _gauss_hermite(self.mean)
        raw = self.mean.unsqueeze(-1) + self.std.unsqueeze(-1) * nodes
        return self.base.entropy() + (log_tanh_jacobian(raw) * weights).sum((-1, -2))

    @property
    @override
    def mode(self) -> Tensor:
        return self.mean.tanh()

    @property
    @override
    def params(self) -> dict[str, Tensor]:
        return self.base.params

    @classmethod
    @override
    def from_params(cls, params: Mapping[str, Tensor]) -> TanhGaussian:
        return cls(params["mean"], params["std"])

    @override
    def kl_from(self, old_params: Mapping[str, Tensor]) -> Tensor:
        # A divergence does not change under a bijection of the variable.
        return self.base.kl_from(old_params)


class Beta(Distribution):
    """Beta distribution per dimension, stretched to (-1, 1); `alpha` and `beta` are `(..., A)` and above 1.

    Unlike a clipped Gaussian it puts no probability outside the bounds (Chou et al. 2017).
    """

    def __init__(self, alpha: Tensor, beta: Tensor) -> None:
        self.alpha = alpha
        self.beta = beta

    @override
    def sample(self) -> Tensor:
        with torch.no_grad():
            # With independent gamma variables of these shapes, first / (first + second) has the Beta distribution.
            gamma = torch._standard_gamma  # pyright: ignore[reportPrivateImportUsage] - what torch.distributions uses
            first, second = gamma(self.alpha), gamma(self.beta)
            return self._inside((first - second) / (first + second))

    @override
    def log_prob(self, action: Tensor) -> Tensor:
        action = self._inside(action)
        # The density of x = (action + 1) / 2, and log(dx / daction) = -log 2.
        log_prob = (self.alpha - 1.0) * (0.5 + 0.5 * action).log() + (self.beta - 1.0) * (0.5 - 0.5 * action).log()
        return (log_prob - self._log_norm(self.alpha, self.beta) - math.log(2.0)).sum(-1)

    @override
    def entropy(self) -> Tensor:
        total = self.alpha + self.beta
        entropy = self._log_norm(self.alpha, self.beta) + (total - 2.0) * total.digamma()
        entropy = entropy - (self.alpha - 1.0) * self.alpha.digamma() - (self.beta - 1.0) * self.beta.digamma()
        return (entropy + math.log(2.0)).sum(-1)

    @property
    @override
    def mode(self) -> Tensor:
        return (self.alpha - self.beta) / (self.alpha + self.beta - 2.0)

    @property
    @override
    def params(self) -> dict[str, Tensor]:
        return {"alpha": self.alpha, "beta": self.beta}

    @classmethod
    @override
    def from_params(cls, params: Mapping[str, Tensor]) -> Beta:
        return cls(params["alpha"], params["beta"])

    @override
    def kl_from(self, old_params: Mapping[str, Tensor]) -> Tensor:
        old_alpha, old_beta = old_params["alpha"], old_params["beta"]
        kl = self._log_norm(self.alpha, self.beta) - self._log_norm(old_alpha, old_beta)
        kl = kl + (old_alpha - self.alpha) * old_alpha.digamma() + (old_beta - self.beta) * old_beta.digamma()
        total_shift = self.alpha - old_alpha + self.beta - old_beta
        return (kl + total_shift * (old_alpha + old_beta).digamma()).sum(-1)

    @staticmethod
    def _log_norm(alpha: Tensor, beta: Tensor) -> Tensor:
        return alpha.lgamma() + beta.lgamma() - (alpha + beta).lgamma()

    @staticmethod
    def _inside(action: Tensor) -> Tensor:
        limit = 1.0 - torch.finfo(action.dtype).eps
        return action.clamp(-limit, limit)


class Categorical(Distribution):
    """Choice among K actions from unnormalized `logits` `(..., K)`; a logit of -inf forbids a choice."""

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits
        self._log_probs = _log_softmax(logits)

    @override
    def sample(self) -> Tensor:
        # The Gumbel-max trick: unlike torch.multinomial it needs no valid-probability check and no second pass.
        with torch.no_grad():
            return (self._log_probs - torch.empty_like(self._log_probs).exponential_().log()).argmax(-1)

    @override
    def log_prob(self, action: Tensor) -> Tensor:
        return self._log_probs.gather(-1, action.long().unsqueeze(-1)).squeeze(-1)

    @override
    def entropy(self) -> Tensor:
        return -(self._log_probs.exp() * self._log_probs).sum(-1)

    @property
    @override
    def mode(self) -> Tensor:
        return self.logits.argmax(-1)

    @property
    @override
    def params(self) -> dict[str, Tensor]:
        return {"logits": self.logits}

    @classmethod
    @override
    def from_params(cls, params: Mapping[str, Tensor]) -> Categorical:
        return cls(params["logits"])

    @override
    def kl_from(self, old_params: Mapping[str, Tensor]) -> Tensor:
        old = _log_softmax(old_params["logits"])
        return (old.exp() * (old - self._log_probs)).sum(-1)


def log_tanh_jacobian(raw: Tensor) -> Tensor:
    """Return `log(d tanh(u) / du)` elementwise, finite with finite gradient for every finite `u`."""
    return 2.0 * (math.log(2.0) - raw - F.softplus(-2.0 * raw))


def _log_softmax(logits: Tensor) -> Tensor:
    # A forbidden choice gets the smallest finite log-probability: its probability is still exactly 0, and 0 * log 0
    # is 0 instead of NaN in the entropy and the divergence.
    return logits.log_softmax(-1).clamp_min(torch.finfo(logits.dtype).min)


def _gauss_hermite(like: Tensor) -> tuple[Tensor, Tensor]:
    """Return nodes and weights `(48,)` of a quadrature for expectations under N(0, 1), on the device of `like`."""
    # A compiler keeps constants by itself, a cache would only stop it.
    make = _make_gauss_hermite if torch.compiler.is_compiling() else _cached_gauss_hermite
    return make(like.device, like.dtype)


def _make_gauss_hermite(device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    # Not as inference tensors, even if first needed in inference mode: later backward passes save them.
    with torch.inference_mode(False):
        nodes = torch.tensor(_HERMITE_NODES, dtype=dtype, device=device)
        weights = torch.tensor(_HERMITE_WEIGHTS, dtype=dtype, device=device)
        return nodes, weights / weights.sum()


_cached_gauss_hermite = lru_cache(maxsize=16)(_make_gauss_hermite)
