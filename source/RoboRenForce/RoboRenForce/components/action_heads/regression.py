"""Regression of action chunks (ACT, arXiv 2304.13705; OpenVLA-OFT, arXiv 2502.19645): a normal distribution's mean.

One pass, the best value per effort where demonstrations agree. Where they don't it predicts their mean (L2) or median
(L1), which may be neither of the ways to do it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Annotated, Literal

import torch
from torch import Tensor, nn
from typing_extensions import override

from ...configclass import Range, configclass
from ...networks import NetworkCfg, ResidualMLPCfg
from ...networks.vlm import Prefix, Taps
from ..bounded import bounded
from .action_head import ActionHead, ActionHeadCfg, Evaluation, LossSum, same_kind
from .features import Features, read_features
from .masking import masked_loss, valid_actions
from .normal import normal_entropy, normal_kl, normal_log_prob


class RegressionHead(ActionHead):
    """A network from the features to the mean of a normal distribution whose std does not depend on the observation."""

    cfg: RegressionHeadCfg
    exploration = ("log_std",)

    def __init__(self, cfg: RegressionHeadCfg, *, width: int, state_dim: int, action_dim: int) -> None:
        super().__init__()
        self.cfg, self.action_dim = cfg, action_dim
        outputs = action_dim if cfg.features == "queries" else cfg.chunk_size * action_dim
        self.network = cfg.network.build(width + state_dim, outputs)
        # Kept in the checkpoint also while it is fixed, so that reinforcement learning may begin to learn it.
        self.log_std = nn.Parameter(torch.full((action_dim,), math.log(cfg.std)), requires_grad=cfg.learn_std)

    def mean(self, prefix: Prefix) -> Tensor:
        """Predict chunks `(B, H, A)`, float32."""
        features = read_features(prefix, self.cfg.features, self.cfg.chunk_size, self.log_std.dtype)
        return self.network(features).reshape(-1, self.cfg.chunk_size, self.action_dim).float()

    def bounded_log_std(self) -> Tensor:
        """Log-std float32 `(A,)`; a gradient leads back into its bounds."""
        if not self.cfg.learn_std:
            return self.log_std.float()
        return bounded(self.log_std.float(), math.log(self.cfg.min_std), math.log(self.cfg.max_std))

    @override
    def loss(
        self, prefix: Prefix, actions: Tensor, mask: Tensor, *, generator: torch.Generator | None = None
    ) -> LossSum:
        actions, mean = valid_actions(actions, mask), self.mean(prefix)
        if self.cfg.loss == "nll":
            return masked_loss(-normal_log_prob(actions, mean, self.bounded_log_std()), mask)
        error = (mean - actions).abs()
        return masked_loss(error if self.cfg.loss == "l1" else error.square(), mask)

    @override
    def act(
        self, prefix: Prefix, *, deterministic: bool = True, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        mean = self.mean(prefix)
        if deterministic:
            return mean, {}
        log_std = self.bounded_log_std()
        actions = mean + log_std.exp() * torch.empty_like(mean).normal_(generator=generator)
        return actions, {"actions": actions, "log_prob": normal_log_prob(actions, mean, log_std)}

    @override
    def evaluate(self, prefix: Prefix, record: Mapping[str, Tensor]) -> Evaluation:
        mean, log_std = self.mean(prefix), self.bounded_log_std()
        log_prob = normal_log_prob(record["actions"], mean, log_std)
        return Evaluation(log_prob, normal_entropy(log_std).expand_as(mean))

    @override
    def record_divergence(
        self, prefix: Prefix, reference: ActionHead, reference_prefix: Prefix, record: Mapping[str, Tensor]
    ) -> Tensor:
        """As in the base class; it does not depend on the recorded actions."""
        return self._kl(prefix, same_kind(self, reference), reference_prefix)

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
        """KL(head || reference) of the normal distributions."""
        return masked_loss(self._kl(prefix, same_kind(self, reference), reference_prefix), mask)

    def _kl(self, prefix: Prefix, reference: RegressionHead, reference_prefix: Prefix) -> Tensor:
        with torch.no_grad():
            other = reference.mean(reference_prefix), reference.bounded_log_std().detach()  # may be the parameter
        return normal_kl(self.mean(prefix), self.bounded_log_std(), *other)


@configclass
class RegressionHeadCfg(ActionHeadCfg):
    """Configuration of a `RegressionHead`."""

    class_type: type = RegressionHead

    features: Features = "queries"
    """Features: one action query token per action, or the mean of all tokens for the whole chunk."""
    network: NetworkCfg = ResidualMLPCfg()
    """From features and state to actions."""
    loss: Literal["l1", "l2", "nll"] = "l1"
    """Absolute error, squared error, or negative log-likelihood (which also teaches a learned std)."""
    std: Annotated[float, Range(gt=0)] = 0.1
    """Standard deviation of normalized actions: of exploration, of log-probabilities and of the KL divergence; where
    it is learned, at the start."""
    learn_std: bool = False
    """Learn one std per dimension, by `nll` or by a policy gradient."""
    min_std: Annotated[float, Range(gt=0)] = 0.01
    """Smallest learned std."""
    max_std: Annotated[float, Range(gt=0)] = 2.0
    """Largest learned std."""

    def check(self) -> Iterable[str]:
        """Sentences on stds outside their bounds."""
        if self.learn_std and not self.min_std <= self.std <= self.max_std:
            yield f"std: {self.std} is not within min_std={self.min_std} and max_std={self.max_std}"

    @override
    def taps(self, action_dim: int) -> Taps:
        return Taps(num_queries=self.chunk_size if self.features == "queries" else 0, reads_tokens=False)
