"""Result files of MBPO against SAC and of the Go1's world model, without training."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.contract


@pytest.fixture
def benchmarks(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    return __import__


def test_mbpo_and_sac_are_compared_at_steps_that_all_runs_reached(benchmarks: Any, tmp_path: Path) -> None:
    bench = benchmarks("mbpo_vs_sac")
    found = {
        "MBPO seed 1": {"curve": [[100, 10.0, 5.0], [200, 30.0, 9.0]]},
        "MBPO seed 2": {"curve": [[100, 20.0, 6.0]], "stopped": True},
        "SAC seed 1": {"curve": [[100, 1.0, 1.0], [200, 2.0, 2.0]]},
        "SAC seed 2": {"error": "no"},
    }
    bench.write(Namespace(env="HalfCheetah", note="", output=str(tmp_path / "found.json")), found)
    data = json.loads((tmp_path / "found.json").read_text())
    expected = {"SAC at 100": {"return": 1.0, "seconds": 1.0}, "MBPO at 100": {"return": 15.0, "seconds": 5.5}}
    assert data["medians"] == expected
    assert data["failed"] == {"SAC seed 2": "no"} and len(data["curves"]) == 3


def test_a_policy_that_imagined_is_compared_with_ppo_of_its_seed(benchmarks: Any, tmp_path: Path) -> None:
    bench = benchmarks("mjlab_world_model")
    report = {"relative": {"model": [0.1, 0.2], "velocity": [0.2, 1.0]}}
    found = {
        "PPO max_iterations=300 seed 1": {"evaluation": {"return": 100.0}, "curves": {"steps": [9], "reward": [90.0]}},
        "MBPOPPO seed 1": {"evaluation": {"return": 75.0}, "open_loop": report},
        "MBPOPPO seed 2": {"curves": {"steps": [5], "reward": [None, 3.0]}, "stopped": True},
    }
    bench.write(Namespace(note="", output=str(tmp_path / "found.json")), found)
    data = json.loads((tmp_path / "found.json").read_text())
    assert data["results"] == {
        "PPO max_iterations=300 seed 1": {"steps": 9, "reward": 90.0, "evaluation": 100.0, "share_of_ppo": 1.0},
        "MBPOPPO seed 1": {"evaluation": 75.0, "share_of_ppo": 0.75},
        "MBPOPPO seed 2": {"steps": 5, "reward": 3.0},
    }
    assert data["relative_errors"] == {
        "MBPOPPO seed 1, 1 steps": {"model": 0.1, "velocity": 0.2, "ratio": 0.5},
        "MBPOPPO seed 1, 2 steps": {"model": 0.2, "velocity": 1.0, "ratio": 0.2},
    }
