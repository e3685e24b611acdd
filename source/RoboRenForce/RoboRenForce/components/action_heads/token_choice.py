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


class TokenDraw:
    """Chooses tokens as `draw_tokens` does, call by call, and keeps their log-probabilities unless `deterministic`."""

    def __init__(self, temperature: float, deterministic: bool, generator: torch.Generator | None) -> None:
        self.temperature, self.deterministic, self.generator = temperature, deterministic, generator
        self._log_probs: list[Tensor] = []

    def __call__(self, logits: Tensor) -> Tensor:
        """Map logits `(..., V)` to tokens `(...)`."""
        tokens = draw_tokens(logits, self.temperature, self.deterministic, self.generator)
        if not self.deterministic:
            self._log_probs.append(token_log_prob(logits, tokens, self.temperature))
        return tokens

    def log_probs(self) -> Tensor:
        """Return those of all calls, `(..., calls)`."""
        return torch.stack(self._log_probs, -1)


def token_log_prob(logits: Tensor, tokens: Tensor, temperature: float) -> Tensor:
    """Return the log-probability `(...)` of tokens under softmax(logits / temperature)."""
    log_p = (logits / temperature).log_softmax(-1)
    return log_p.gather(-1, tokens.unsqueeze(-1)).squeeze(-1)


def log_prob_and_entropy(logits: Tensor, tokens: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Return log-probability of tokens and entropy of their distribution, `(...)` each."""
    log_p = (logits / temperature).log_softmax(-1)
    return log_p.gather(-1, tokens.unsqueeze(-1)).squeeze(-1), -(log_p.exp() * log_p).sum(-1)


def categorical_kl(logits: Tensor, other: Tensor, temperature: float = 1.0) -> Tensor:
    """KL(softmax(logits / temperature) || softmax(other / temperature)) over the last dimension, exact."""
    log_p, log_q = (logits / temperature).log_softmax(-1), (other / temperature).log_softmax(-1)
    return (log_p.exp() * (log_p - log_q)).sum(-1)
