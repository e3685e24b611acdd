"""Actions as tokens: every dimension of every action in one of `num_bins` bins (OpenVLA, arXiv 2406.09246).

Parallel decoding (OpenVLA-OFT, arXiv 2502.19645) gives all dimensions in one pass, but as if they were independent: two
ways to do a task may be mixed within a chunk. Autoregressive decoding keeps a chunk to one of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import override

from ...configclass import Range, configclass
from ...networks import NetworkCfg, ResidualMLPCfg, TokenDecoderCfg
from ...networks.vlm import Prefix, Taps
from ...utils.precision import full_precision
from .action_head import ActionHead, ActionHeadCfg, Evaluation, LossSum, same_kind
from .features import Features, read_features
from .masking import masked_loss, share, valid_actions
from .token_choice import TokenDraw, categorical_kl, log_prob_and_entropy


class BinsHead(ActionHead):
    """A categorical distribution over bins for every dimension of every action."""

    cfg: BinsHeadCfg

    def __init__(self, cfg: BinsHeadCfg, *, width: int, state_dim: int, action_dim: int) -> None:
        super().__init__()
        self.cfg, self.action_dim = cfg, action_dim
        self.shape = (cfg.chunk_size, action_dim)
        if cfg.decoding == "parallel":
            outputs = action_dim if cfg.features == "queries" else cfg.chunk_size * action_dim
            self.network = cfg.network.build(width + state_dim, outputs * cfg.num_bins)
        else:
            self.decoder = cfg.decoder.build(
                vocabulary=cfg.num_bins, length=cfg.chunk_size * action_dim, width=width, state_dim=state_dim
            )

    def logits(self, prefix: Prefix, tokens: Tensor) -> Tensor:
        """Return logits `(B, H, A, num_bins)` of tokens `(B, H, A)`, which only autoregressive decoding reads."""
        if self.cfg.decoding == "parallel":
            return self._parallel_logits(prefix)
        return self.decoder(tokens.flatten(1), self.decoder.encode(prefix)).unflatten(1, self.shape)

    def _parallel_logits(self, prefix: Prefix) -> Tensor:
        features = read_features(prefix, self.cfg.features, self.cfg.chunk_size, next(self.parameters()).dtype)
        return self.network(features).reshape(-1, *self.shape, self.cfg.num_bins).float()

    @override
    def loss(
        self, prefix: Prefix, actions: Tensor, mask: Tensor, *, generator: torch.Generator | None = None
    ) -> LossSum:
        """Cross-entropy; `clipped` is the share of actions outside the bins, `accuracy` of right tokens."""
        actions = valid_actions(actions, mask)
        tokens = to_bins(actions, self.cfg.num_bins, self.cfg.limit)
        logits = self.logits(prefix, tokens)
        error = F.cross_entropy(logits.flatten(0, 2), tokens.flatten(), reduction="none").view_as(actions)
        accuracy, clipped = share(logits.argmax(-1) == tokens, mask), share(actions.abs() > self.cfg.limit, mask)
        return masked_loss(error, mask, {"accuracy": accuracy, "clipped": clipped})

    @override
    def act(
        self, prefix: Prefix, *, deterministic: bool = True, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        """As in the base class; autoregressive decoding is greedy if `deterministic`."""
        draw = TokenDraw(self.cfg.temperature, deterministic, generator)
        if self.cfg.decoding == "parallel":
            tokens = draw(self._parallel_logits(prefix))
        else:
            # Token by token and as a whole sequence, bfloat16 differs by some percent of a chunk's probability, which a
            # policy gradient would take for a change of the policy.
            with full_precision(prefix.tokens.device):
                tokens = self.decoder.generate(self.decoder.encode(prefix), draw).unflatten(1, self.shape)
        actions = from_bins(tokens, self.cfg.num_bins, self.cfg.limit)
        if deterministic:
            return actions, {}
        return actions, {"tokens": tokens, "log_prob": draw.log_probs().view(tokens.shape)}

    @override
    def evaluate(self, prefix: Prefix, record: Mapping[str, Tensor]) -> Evaluation:
        tokens = record["tokens"]
        return Evaluation(*log_prob_and_entropy(self._acting_logits(prefix, tokens), tokens, self.cfg.temperature))

    @override
    def record_divergence(
        self, prefix: Prefix, reference: ActionHead, reference_prefix: Prefix, record: Mapping[str, Tensor]
    ) -> Tensor:
        reference, tokens = same_kind(self, reference), record["tokens"]
        with torch.no_grad():
            other = reference._acting_logits(reference_prefix, tokens)
        return categorical_kl(self._acting_logits(prefix, tokens), other, self.cfg.temperature)

    def _acting_logits(self, prefix: Prefix, tokens: Tensor) -> Tensor:
        if self.cfg.decoding == "parallel":
            return self._parallel_logits(prefix)
        with full_precision(tokens.device):
            return self.logits(prefix, tokens)

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
        """KL(head || reference), exact, of each token; in autoregressive decoding behind the demonstrated tokens."""
        reference = same_kind(self, reference)
        tokens = to_bins(valid_actions(actions, mask), self.cfg.num_bins, self.cfg.limit)
        with torch.no_grad():
            other = reference.logits(reference_prefix, tokens)
        return masked_loss(categorical_kl(self.logits(prefix, tokens), other), mask)


@configclass
class BinsHeadCfg(ActionHeadCfg):
    """Configuration of a `BinsHead`."""

    class_type: type = BinsHead

    num_bins: Annotated[int, Range(ge=2, le=65_536)] = 256
    """Bins of equal width."""
    limit: Annotated[float, Range(gt=0)] = 1.0
    """They cover normalized actions within plus and minus this; others fall into the outermost bins."""
    decoding: Literal["parallel", "autoregressive"] = "parallel"
    """All tokens in one pass, independent of one another; or one by one, each knowing those before it."""
    features: Features = "queries"
    """Input of parallel decoding: one action query token per action, or the mean of all tokens."""
    network: NetworkCfg = ResidualMLPCfg()
    """From features and state to logits, for parallel decoding."""
    decoder: TokenDecoderCfg = TokenDecoderCfg()
    """Reads all tokens of the prefix, for autoregressive decoding."""
    temperature: Annotated[float, Range(gt=0)] = 1.0
    """Divides the logits where tokens are drawn, and in their log-probabilities."""

    @override
    def taps(self, action_dim: int) -> Taps:
        queries = self.decoding == "parallel" and self.features == "queries"
        return Taps(num_queries=self.chunk_size if queries else 0, reads_tokens=self.decoding != "parallel")


def to_bins(actions: Tensor, num_bins: int, limit: float) -> Tensor:
    """Return the bin of each number, int64; of those outside `[-limit, limit]` the nearest."""
    return ((actions / limit + 1) * (num_bins / 2)).floor().clamp(0, num_bins - 1).long()


def from_bins(tokens: Tensor, num_bins: int, limit: float) -> Tensor:
    """Return the centers of bins."""
    return ((tokens.float() + 0.5) * (2 / num_bins) - 1) * limit
