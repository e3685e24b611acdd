"""Curves of the learning gates: what is kept of a run, and a page that says whether its gate was passed."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.contract


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.syspath_prepend(str(ROOT / "tests/learning"))
    return importlib.import_module("learning_curves")


def test_every_family_is_a_gate_with_a_sentence(bench: Any) -> None:
    pytest.importorskip("RRF_gym_tasks")
    for module, name in bench.FAMILIES.values():
        gate = getattr(importlib.import_module(module), name)
        assert gate.arms and bench.sentence(gate).endswith(".")


@pytest.mark.parametrize(("least", "said"), [(-250.0, "Passed."), (-100.0, "Not passed.")])
def test_curves_are_kept_and_the_page_says_whether_the_gate_was_passed(
    bench: Any, least: float, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training, make_tables = importlib.import_module("training"), importlib.import_module("make_tables")

    def check(runs: Any) -> None:
        """The median is good enough.

        More about it.
        """
        assert training.median(runs["A"]) >= least

    def run(seed: int) -> Any:
        return training.Run(seed, [{"steps": 500, "return": -900.0}, {"steps": 1000, "return": -200.0 + seed}])

    gate = training.Gate({"A": run}, check, threshold=-250.0)
    monkeypatch.setitem(bench.FAMILIES, "mbpo", ("faked", "gate"))
    monkeypatch.setitem(sys.modules, "faked", type("faked", (), {"gate": gate}))
    path = tmp_path / "learning_mbpo.json"
    monkeypatch.setattr(
        sys, "argv", ["benchmarks/learning_curves.py", "--family", "mbpo", "--output", str(path), "--note", "Slow."]
    )
    bench.main()
    written = json.loads(path.read_text())
    assert [sample["seed"] for sample in written["runs"]["A"]] == [1, 2, 3]
    assert written["runs"]["A"][1]["curve"] == [{"steps": 500, "return": -900}, {"steps": 1000, "return": -198}]
    assert written["runs"]["A"][1]["steps_to_threshold"] == 1000
    page = make_tables.render(tmp_path)
    assert "|  | steps | return | steps to threshold | samples |" in page
    assert f"The median is good enough. {said} Slow." in page


def test_a_run_that_never_reaches_a_threshold_took_infinitely_many_steps(bench: Any) -> None:
    run = importlib.import_module("training").Run(
        1, [{"steps": 500, "return": -900.0}, {"steps": 1000, "return": -99.0}]
    )
    assert run.steps_to(-900.0) == 500 and run.steps_to(-99.0) == 1000 and run.steps_to(-98.0) == float("inf")
