"""The loss on action tokens that keeps a language model learning where an action expert must not teach it.

Knowledge insulation (arXiv 2505.23705; pi0.5, arXiv 2504.16054): the vision-language model predicts demonstrated chunks
as FAST tokens, the expert learns them by flow matching from the model's keys and values, and the gradient of the second
stays in the expert (`ActionExpertCfg.insulated`). Neither sees the other's tokens; acting uses the expert alone.

Shape letters: B chunks, H actions of a chunk, A dimensions of an action, N tokens.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..configclass import Cfg, ConfigError, Range, configclass
from ..networks.vlm import Backbone, Prefix
from .action_heads import LossSum
from .action_heads.fast_tokenizer import FASTTokenizer


class ActionTokens(nn.Module):
    """A tokenizer whose vocabulary `fit` learns; what predicts the tokens is the backbone, which is not a child."""

    def __init__(self, cfg: ActionTokensCfg, backbone: Backbone, *, chunk_size: int, action_dim: int) -> None:
        super().__init__()
        self.cfg = cfg
        needed = cfg.vocabulary + 2  # the end, and the beginning
        if backbone.action_words < needed:
            raise ConfigError(
                f"policy.action_tokens needs {needed} words of the backbone's vocabulary, and "
                f"{type(backbone).__name__} has {backbone.action_words} to give: take PaliGemmaCfg, a smaller "
                "vocabulary, or leave it at null."
            )
        self.tokenizer = FASTTokenizer(
            chunk_size,
            action_dim,
            scale=cfg.scale,
            vocabulary=cfg.vocabulary,
            num_levels=cfg.num_levels,
            max_tokens=cfg.max_tokens or chunk_size * action_dim + 1,
        )

    def fit(self, actions: Tensor) -> None:
        """Learn the vocabulary from normalized chunks `(N, H, A)`."""
        self.tokenizer.fit(actions)

    def add_loss(self, loss: LossSum, backbone: Backbone, prefix: Prefix, actions: Tensor, mask: Tensor) -> LossSum:
        """Add the cross-entropy of the tokens to the loss of a head.

        The mean over a chunk's tokens weighs as much as the chunk's valid elements: processes and micro-batches, which
        divide by the number of elements, add up exactly.

        Args:
            loss: Of the head, summed over elements.
            backbone: What predicts the tokens.
            prefix: What it has said of B observations.
            actions: Normalized actions `(B, H, A)`.
            mask: bool `(B, H, A)`: valid elements.
        """
        tokens, valid = self.tokenizer.targets(actions, mask)
        logits = backbone.action_logits(prefix, tokens, self.cfg.vocabulary + 1)
        error = F.cross_entropy(logits.flatten(0, 1), tokens.flatten(), reduction="none").view_as(tokens)
        of_chunk = torch.where(valid, error, 0.0).sum(1) / valid.sum(1).clamp(min=1)
        total = (of_chunk * mask.flatten(1).sum(1)).sum()
        right = (logits.argmax(-1) == tokens) & valid
        metrics = {
            "token_loss": (total / mask.sum().clamp(min=1)).detach(),
            "token_accuracy": right.sum() / valid.sum().clamp(min=1),
        }
        return LossSum(loss.total + self.cfg.coef * total, loss.count, loss.metrics | metrics)


@configclass
class ActionTokensCfg(Cfg):
    """Configuration of `ActionTokens`; built with `build(backbone, chunk_size=, action_dim=)`."""

    class_type: type = ActionTokens

    coef: Annotated[float, Range(gt=0)] = 1.0
    """Weight beside the head's loss, with which it shares no weights if the expert is insulated."""
    scale: Annotated[float, Range(gt=0)] = 10.0
    """See `FASTHeadCfg`, also for the following."""
    vocabulary: Annotated[int, Range(ge=3, le=65_536)] = 1024
    """Number of tokens, without the end."""
    num_levels: Annotated[int, Range(ge=3, le=20_000)] = 256
    """Values of a rounded coefficient."""
    max_tokens: Annotated[int, Range(ge=2, le=65_536)] | None = None
    """Tokens per chunk, the end included; None for as many as there are coefficients."""

    def check(self) -> Iterable[str]:
        """Sentences on vocabularies without room for a merge."""
        if self.num_levels >= self.vocabulary:
            yield f"vocabulary: {self.vocabulary} leaves no token to merge num_levels={self.num_levels}; take more"
