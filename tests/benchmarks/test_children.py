"""Processes of benchmarks: results while they last, errors, and an end when the time is over."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.contract

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SCRIPT = f"""
import argparse, sys, time

sys.path.insert(0, {str(BENCHMARKS)!r})
from children import write_child

parser = argparse.ArgumentParser()
parser.add_argument("--child")
parser.add_argument("kind")
args = parser.parse_args()
if args.kind == "nothing":
    sys.exit(0)
write_child(args.child, {{"steps": 1}})
if args.kind == "fails":
    sys.exit("no such simulator")
if args.kind == "hangs":
    time.sleep(600)
write_child(args.child, {{"steps": 2}})
"""


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return __import__("children")


@pytest.fixture
def script(tmp_path: Path) -> str:
    path = tmp_path / "script.py"
    path.write_text(SCRIPT)
    return str(path)


def test_results_and_errors_of_all_are_kept(bench: Any, script: str) -> None:
    children = {name: bench.Child([name]) for name in ("works", "fails", "nothing")}
    *_, found = bench.run_children(script, children, jobs=2, poll=0.05)
    assert found["works"] == {"steps": 2}
    assert found["fails"]["steps"] == 1 and "no such simulator" in found["fails"]["error"]
    assert found["nothing"]["error"] == "ended with code 0"


def test_after_its_time_a_child_is_ended_and_what_it_reached_counts(bench: Any, script: str) -> None:
    children = {"first": bench.Child(["hangs"]), "never started": bench.Child(["works"])}
    seen = list(bench.run_children(script, children, jobs=1, seconds=3.0, poll=0.05))
    assert seen[0] == {"first": {"steps": 1}}  # while it runs
    assert seen[-1] == {"first": {"steps": 1, "stopped": True}}


def test_gpus_are_counted_among_the_visible_ones(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert bench.on_gpu(1) == {"CUDA_VISIBLE_DEVICES": "1"}
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    assert bench.on_gpu(1) == {"CUDA_VISIBLE_DEVICES": "6"}
