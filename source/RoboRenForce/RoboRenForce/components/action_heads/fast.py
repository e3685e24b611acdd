"""Action chunks as FAST tokens (pi0-FAST, arXiv 2501.09747), decoded one by one by a small transformer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import override

from ...configclass import Range, configclass
from ...networks import TokenDecoderCfg
from ...networks.vlm import Prefix
from ...utils.precision import full_precision
from .action_head import ActionHead, ActionHeadCfg, Evaluation, LossSum, same_kind
from .fast_tokenizer import FASTTokenizer
from .token_choice import TokenDraw, categorical_kl, log_prob_and_entropy


class FASTHead(ActionHead):
    """A tokenizer whose vocabulary `fit` learns, and a decoder of its tokens that reads all tokens of the prefix."""

    cfg: FASTHeadCfg
    only_whole_chunks = True
    num_decoded: Tensor
    num_invalid: Tensor
    """int64, 0-dim: chunks that were decoded, and those of them whose tokens stood for too few or too many numbers."""

    def __init__(self, cfg: FASTHeadCfg, *, width: int, state_dim: int, action_dim: int) -> None:
        super().__init__()
        self.cfg, self.action_dim = cfg, action_dim
        max_tokens = cfg.max_tokens or cfg.chunk_size * action_dim + 1
        self.tokenizer = FASTTokenizer(
            cfg.chunk_size,
            action_dim,
            scale=cfg.scale,
            vocabulary=cfg.vocabulary,
            num_levels=cfg.num_levels,
            max_tokens=max_tokens,
        )
        self.decoder = cfg.decoder.build(
            vocabulary=cfg.vocabulary + 1, length=max_tokens, width=width, state_dim=state_dim
        )
        self.register_buffer("num_decoded", torch.zeros((), dtype=torch.int64), persistent=False)
        self.register_buffer("num_invalid", torch.zeros((), dtype=torch.int64), persistent=False)

    @override
    def fit(self, actions: Tensor) -> None:
        self.tokenizer.fit(actions)

    @override
    def loss(
        self, prefix: Prefix, actions: Tensor, mask: Tensor, *, generator: torch.Generator | None = None
    ) -> LossSum:
        """Cross-entropy of tokens, the end included; the count is that of tokens, see `FASTTokenizer.targets`."""
        tokens, valid = self.tokenizer.targets(actions, mask)
        logits = self.decoder(tokens, self.decoder.encode(prefix))
        error = F.cross_entropy(logits.flatten(0, 1), tokens.flatten(), reduction="none").view_as(tokens)
        count = valid.sum().float()
        right = (logits.argmax(-1) == tokens) & valid
        rows = mask.flatten(1).any(1).sum().clamp(min=1)
        metrics = {"accuracy": right.sum() / count.clamp(min=1), "tokens_per_chunk": count / rows}
        return LossSum(torch.where(valid, error, 0.0).sum(), count, metrics)

    @override
    def act(
        self, prefix: Prefix, *, deterministic: bool = True, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        """As in the base class: greedy if `deterministic`. Chunks of a wrong length are counted in `num_invalid`."""
        draw = TokenDraw(self.cfg.temperature, deterministic, generator)
        with full_precision(prefix.tokens.device):  # as in `BinsHead.act`
            tokens = self.decoder.generate(self.decoder.encode(prefix), draw)
        actions, valid = self.tokenizer.decode(tokens)
        self.num_decoded.add_(len(tokens))
        self.num_invalid.add_((~valid).sum())
        if deterministic:
            return actions, {}
        return actions, {"tokens": tokens, "log_prob": self._spread(draw.log_probs(), tokens)}

    @override
    def evaluate(self, prefix: Prefix, record: Mapping[str, Tensor]) -> Evaluation:
        """Spread log-probability and entropy of a chunk's tokens evenly over its elements.

        Only the sum over H and A has a meaning, and is exact: ratios are to be taken by chunk. Tokens behind the end
        stand for nothing and count for nothing.
        """
        tokens = record["tokens"]
        logits = self._acting_logits(prefix, tokens)
        log_prob, entropy = log_prob_and_entropy(logits, tokens, self.cfg.temperature)
        return Evaluation(self._spread(log_prob, tokens), self._spread(entropy, tokens))

    @override
    def record_divergence(
        self, prefix: Prefix, reference: ActionHead, reference_prefix: Prefix, record: Mapping[str, Tensor]
    ) -> Tensor:
        reference, tokens = same_kind(self, reference), record["tokens"]
        with torch.no_grad():
            other = reference._acting_logits(reference_prefix, tokens)
        kl = categorical_kl(self._acting_logits(prefix, tokens), other, self.cfg.temperature)
        return self._spread(kl, tokens)

    def _acting_logits(self, prefix: Prefix, tokens: Tensor) -> Tensor:
        with full_precision(tokens.device):
            return self.decoder(tokens, self.decoder.encode(prefix))

    def _spread(self, values: Tensor, tokens: Tensor) -> Tensor:
        """Spread the sum of values `(B, N)` of tokens, up to the end, evenly over `(B, H, A)`."""
        total = torch.where(self.tokenizer.until_end(tokens), values, 0.0).sum(1).view(-1, 1, 1)
        elements = self.cfg.chunk_size * self.action_dim
        return (total / elements).expand(-1, self.cfg.chunk_size, self.action_dim)

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
        """KL(head || reference), exact, of each token behind the demonstrated ones; the vocabularies are the same."""
        reference = same_kind(self, reference)
        tokens, valid = self.tokenizer.targets(actions, mask)
        with torch.no_grad():
            other = reference.decoder(tokens, reference.decoder.encode(reference_prefix))
        kl = categorical_kl(self.decoder(tokens, self.decoder.encode(prefix)), other)
        return LossSum(torch.where(valid, kl, 0.0).sum(), valid.sum().float())


@configclass
class FASTHeadCfg(ActionHeadCfg):
    """Configuration of a `FASTHead`. Actions should be normalized by quantiles to [-1, 1]."""

    class_type: type = FASTHead

    scale: Annotated[float, Range(gt=0)] = 10.0
    """Factor on coefficients before they are rounded: the finer, the more tokens. The error of an action is at most
    sqrt(chunk_size) / (2 scale), usually about 0.3 / scale."""
    vocabulary: Annotated[int, Range(ge=3, le=65_536)] = 1024
    """Number of tokens, without the end."""
    num_levels: Annotated[int, Range(ge=3, le=20_000)] = 256
    """Values of a rounded coefficient, around 0; each is a token. The largest one of a chunk within [-1, 1] is
    scale * sqrt(chunk_size)."""
    max_tokens: Annotated[int, Range(ge=2, le=65_536)] | None = None
    """Tokens that are decoded per chunk, the end included; longer ones lose their highest frequencies. None for as many
    as there are coefficients; a run is faster with what `tokens_per_chunk` shows."""
    decoder: TokenDecoderCfg = TokenDecoderCfg()
    """The transformer that predicts tokens."""
    temperature: Annotated[float, Range(gt=0)] = 1.0
    """Divides the logits where tokens are drawn, and in their log-probabilities."""

    def check(self) -> Iterable[str]:
        """Sentences on vocabularies without room for a merge."""
        if self.num_levels >= self.vocabulary:
            yield f"vocabulary: {self.vocabulary} leaves no token to merge num_levels={self.num_levels}; take more"
