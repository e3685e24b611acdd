"""Success rates by instruction, as lines to print."""

from __future__ import annotations

from collections.abc import Mapping

from ..utils.success_rate import SuccessRate

_MOST_LINES = 12
_WIDTH = 17  # of "100% [100, 100]" and the gap


def success_table(by_mode: Mapping[str, Mapping[str, SuccessRate] | None]) -> list[str]:
    """Return a line per instruction, those with the lowest rates first; none if fewer than two were given.

    Args:
        by_mode: Mode of the policy -> instruction -> success rate; None in environments without instructions.
    """
    given = {mode: rates for mode, rates in by_mode.items() if rates}
    first = next(iter(given.values()), {})
    if len(first) < 2:
        return []
    texts = sorted(first, key=lambda text: (first[text].rate, -first[text].n, text))
    head = "".join(f"{mode:>{_WIDTH}s}" for mode in given)
    lines = [f"{'success % [95 % interval]':44s}{'n':>5s}{head}"]
    for text in texts[:_MOST_LINES]:
        cells = "".join(f"{rates[text]!s:>{_WIDTH}s}" if text in rates else " " * _WIDTH for rates in given.values())
        lines.append(f"  {_short(text):42s}{first[text].n:5d}{cells}")
    if len(texts) > _MOST_LINES:
        lines.append(f"  and {len(texts) - _MOST_LINES} more in eval.json")
    return lines


def _short(text: str, width: int = 42) -> str:
    return text if len(text) <= width else text[: width - 3] + "..."
