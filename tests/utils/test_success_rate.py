"""The Wilson interval against published values and its definition, and rates by text."""

from __future__ import annotations

import math

import pytest
from RoboRenForce.utils.success_rate import SuccessRate, rates_by_text, wilson_interval

pytestmark = pytest.mark.oracle


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),  # Newcombe (1998), table I, method 3
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_published_values(successes: int, n: int, low: float, high: float) -> None:
    assert wilson_interval(successes, n) == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize(("successes", "n"), [(1, 2), (3, 50), (49, 50), (700, 1000)])
def test_the_bounds_solve_the_score_equation(successes: int, n: int) -> None:
    for p in wilson_interval(successes, n):
        assert abs(successes / n - p) / math.sqrt(p * (1 - p) / n) == pytest.approx(1.959963985)


def test_none_all_and_nothing() -> None:
    assert wilson_interval(0, 0) == (0.0, 1.0)
    assert wilson_interval(0, 10)[0] == 0.0 and wilson_interval(10, 10)[1] == 1.0
    low, high = wilson_interval(3, 10)
    assert wilson_interval(7, 10) == pytest.approx((1 - high, 1 - low))
    for wrong in ((-1, 3), (4, 3)):
        with pytest.raises(ValueError, match="expected 0 <= successes <= n"):
            wilson_interval(*wrong)


def test_rates_by_text_count_each_text_alone() -> None:
    found = rates_by_text(["b", "a", "b", "b"], [True, False, False, True])
    assert list(found) == ["a", "b"]
    assert found["a"] == SuccessRate.of([False]) and found["b"].n == 3 and found["b"].rate == 2 / 3
    assert str(found["b"]) == "67% [21, 94]"
