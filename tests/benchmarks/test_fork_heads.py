"""Two equally good ways around a post: heads that represent both succeed, and the mean of both hits the post."""

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
def test_it_measures_every_head_and_the_page_shows_it(measure: Measure, tmp_path: Path) -> None:
    written = measure("--demonstrations", "4", "--updates", "1", "--batch_size", "4", EPISODES=50, PER_START=2)
    make_tables = __import__("make_tables")
    assert "| flow |" in make_tables.render(tmp_path)
    assert all(len(shares) == 4 for shares in written["right_shares"].values())
    assert len(written["results"]) == len(written["right_shares"]) == 7


@pytest.mark.learning
@pytest.mark.long
def test_only_a_mean_of_both_ways_fails(measure: Measure) -> None:
    written = measure()
    success = {name: row["success"] for name, row in written["results"].items()}
    modes = [success[name] for name in ("flow", "diffusion", "bins", "fast")]
    assert min(modes) >= 0.8, success
    assert success["regression_l2"] < 0.3 and success["regression_l1"] < min(modes) - 0.1, success
    for name in ("flow", "diffusion"):
        assert all(0.25 < share < 0.75 for share in written["right_shares"][name]), written["right_shares"]
