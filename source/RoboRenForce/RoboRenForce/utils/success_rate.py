"""Success rates with confidence intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist


def wilson_interval(successes: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return the score interval of a proportion (Wilson, 1927), within [0, 1]; (0, 1) if nothing was observed.

    Unlike mean +- 1.96 standard errors it is right near 0 and 1 and for few episodes.

    Raises:
        ValueError: `successes` is not within 0 and `n`.
    """
    if not 0 <= successes <= n:
        raise ValueError(f"There are {successes} successes among {n}: expected 0 <= successes <= n.")
    if n == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    rate, spread = successes / n, z * z / n
    center = (rate + spread / 2) / (1 + spread)
    half = z * math.sqrt(rate * (1 - rate) / n + spread / (4 * n)) / (1 + spread)
    # At the ends the bound is exact, and rounding would miss it.
    return (0.0 if successes == 0 else center - half), (1.0 if successes == n else center + half)


@dataclass(frozen=True)
class SuccessRate:
    """Share of successful episodes among `n`, with its Wilson 95 % interval."""

    rate: float
    low: float
    high: float
    n: int

    @classmethod
    def of(cls, outcomes: Sequence[bool]) -> SuccessRate:
        """Count the outcomes of at least one episode."""
        low, high = wilson_interval(sum(outcomes), len(outcomes))
        return cls(sum(outcomes) / len(outcomes), low, high, len(outcomes))

    def __str__(self) -> str:
        return f"{self.rate:.0%} [{100 * self.low:.0f}, {100 * self.high:.0f}]"


def rates_by_text(texts: Sequence[str], outcomes: Sequence[bool]) -> dict[str, SuccessRate]:
    """Return the success rate of each text, in alphabetical order."""
    found: dict[str, list[bool]] = {text: [] for text in sorted(set(texts))}
    for text, outcome in zip(texts, outcomes, strict=True):
        found[text].append(outcome)
    return {text: SuccessRate.of(values) for text, values in found.items()}
