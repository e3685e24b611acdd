"""The benchmark of the tabletop writes a file that the page of benchmarks shows."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.contract


def test_every_case_is_measured_and_the_load_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("RRF_tabletop_tasks")
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    bench, make_tables = __import__("tabletop_steps"), __import__("make_tables")
    options = ["--num_envs", "2", "--seconds", "0.01", "--repeats", "2", "--output", str(tmp_path / "steps.json")]
    monkeypatch.setattr(sys, "argv", ["benchmarks/tabletop_steps.py", *options])
    bench.main()
    written = json.loads((tmp_path / "steps.json").read_text())
    assert len(written["results"]) == 9 and all(row["steps_per_second"] > 0 for row in written["results"].values())
    page = make_tables.render(tmp_path)
    assert "| Place, front and wrist 64x64 |" in page and "Conditions: best of the repeats; load" in page
