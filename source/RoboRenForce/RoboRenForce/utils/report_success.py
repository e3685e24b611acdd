"""The part of `report.html` about success rates."""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import Any

_RATE = ("rate", "low", "high", "n")


def is_success(result: Mapping[str, Any]) -> bool:
    """Return True if the success rates of one mode look as an evaluation writes them, or are absent."""
    total, by_text = result.get("success"), result.get("success_by_instruction")
    rates = [] if total is None else [total]
    if by_text is not None:
        if not isinstance(by_text, dict):
            return False
        rates += by_text.values()
    return all(isinstance(rate, dict) and all(_is_share(rate.get(key), key) for key in _RATE) for rate in rates)


def success_section(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Return a table of the success rates in total and by instruction; empty if no mode has any.

    Args:
        results: Mode -> its entry of `eval.json`, for which `is_success`.
    """
    known = {mode: result for mode, result in results.items() if result.get("success")}
    if not known:
        return ""
    tables = {
        mode: {"all": result["success"]} | (result.get("success_by_instruction") or {})
        for mode, result in known.items()
    }
    texts = dict.fromkeys(text for rates in tables.values() for text in rates)
    head = "".join(f"<th class=n>{html.escape(mode)}<th class=n>episodes" for mode in tables)
    rows = "".join(
        f"<tr><td>{html.escape(text)}" + "".join(_cells(rates.get(text)) for rates in tables.values()) for text in texts
    )
    return (
        f"<h2>Success</h2><section><table><tr><th>instruction{head}</tr>{rows}</table>"
        "<p class=sub>in brackets the Wilson 95 % interval</p></section>"
    )


def _cells(rate: Mapping[str, Any] | None) -> str:
    if rate is None:
        return "<td class=n><td class=n>"
    interval = f"[{100 * rate['low']:.0f}, {100 * rate['high']:.0f}]"
    return f"<td class=n>{rate['rate']:.0%} {interval}<td class=n>{rate['n']}"


def _is_share(value: Any, key: str) -> bool:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    return value >= 1 if key == "n" else 0 <= value <= 1
