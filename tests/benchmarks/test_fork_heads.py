"""The benchmark of heads on Fork of the tabletop: those that represent both ways succeed, a mean of both fails."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
Measure = Callable[..., dict[str, Any]]


@pytest.fixture
def measure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Measure:
    """Run the benchmark; returns what it wrote."""
    pytest.importorskip("RRF_tabletop_tasks")
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))

    def run(*options: str, **changed: Any) -> dict[str, Any]:
        bench = __import__("fork_heads")
        for name, value in changed.items():
            monkeypatch.setattr(bench, name, value)
        monkeypatch.setattr(sys, "argv", ["benchmarks/fork_heads.py", *options, "--output", str(tmp_path / "f.json")])
        bench.main()
        return json.loads((tmp_path / "f.json").read_text())

    return run


@pytest.mark.contract
def test_it_measures_heads_and_the_page_shows_them(measure: Measure, tmp_path: Path) -> None:
    tiny = ["--demonstrations", "4", "--updates", "1", "--batch_size", "4"]
    written = measure("--heads", "fast,regression_l2", *tiny, EPISODES=50, PER_START=2)
    assert written["results"]["fast"]["updates"] == 1 and len(written["right_shares"]["regression_l2"]) == 4
    assert "| fast |" in __import__("make_tables").render(tmp_path)


@pytest.mark.learning
@pytest.mark.long
def test_heads_that_represent_both_ways_succeed_and_a_mean_of_both_fails(measure: Measure) -> None:
    written = measure()
    success = {name: row["success"] for name, row in written["results"].items()}
    right = written["right_shares"]
    assert min(success[name] for name in ("flow", "diffusion", "bins", "fast")) >= 0.8, success
    assert success["regression_l2"] < 0.3, success
    assert all(0.25 < share < 0.75 for name in ("flow", "diffusion") for share in right[name]), right
    # The median is one of the ways where it decides at all, and always the same one.
    assert all(share is None or min(share, 1 - share) < 0.05 for share in right["regression_l1"]), right
