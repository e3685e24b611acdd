"""Choosing tokens from logits `(..., V)`, and how likely chosen ones are."""

from __future__ import annotations

import torch
from torch import Tensor


def draw_tokens(
    logits: Tensor, temperature: float, deterministic: bool, generator: torch.Generator | None = None
) -> Tensor:
    """Return the most likely tokens `(...)`, or draw them from softmax(logits / temperature)."""
    if deterministic:
        return logits.argmax(-1)
    # The largest of p / e with e ~ Exp(1) is distributed as p.
    waiting = torch.empty_like(logits).exponential_(generator=generator)
    return (logits / temperature - waiting.log()).argmax(-1)


def log_prob_and_entropy(logits: Tensor, tokens: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Return log-probability of tokens and entropy of their distribution, `(...)` each."""
    log_p = (logits / temperature).log_softmax(-1)
    return log_p.gather(-1, tokens.unsqueeze(-1)).squeeze(-1), -(log_p.exp() * log_p).sum(-1)


def categorical_kl(logits: Tensor, other: Tensor) -> Tensor:
    """KL(softmax(logits) || softmax(other)) over the last dimension, exact."""
    log_p, log_q = logits.log_softmax(-1), other.log_softmax(-1)
    return (log_p.exp() * (log_p - log_q)).sum(-1)
