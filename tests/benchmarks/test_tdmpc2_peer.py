"""The clock and the result file of the comparison with TD-MPC2's authors, without their code."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytestmark = pytest.mark.contract


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    return __import__("tdmpc2_peer")


def test_evaluations_of_the_peer_take_none_of_its_time(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(bench.time, "perf_counter", lambda: now[0])
    seen: list[int] = []
    logger = bench.PeerLogger(lambda curve: seen.append(len(curve)))

    def evaluate() -> dict[str, float]:
        now[0] += 30.0
        return {"episode_reward": 12.34}

    trainer = SimpleNamespace(eval=evaluate)
    logger.watch(trainer)
    now[0] += 5.0
    for step in (0, 500, 1000):  # the first evaluation is of an agent that has learned nothing
        logger.log({**trainer.eval(), "step": step}, "eval")
        logger.log({"step": step}, "train")
        now[0] += 7.0
    assert logger.curve == [(500, 12.3, 12.0), (1000, 12.3, 19.0)] and seen == [1, 2]


def test_returns_are_compared_at_the_last_step_that_all_runs_reached(bench: Any) -> None:
    curves = {"ours": [(10, 1.0, 2.0), (20, 3.0, 4.0), (30, 5.0, 6.0)], "peer": [(10, 0.5, 3.0), (20, 0.7, 6.0)]}
    found = bench.at_equal_steps(curves)
    assert found == {
        "ours": {"steps": 20, "return": 3.0, "seconds": 4.0},
        "peer": {"steps": 20, "return": 0.7, "seconds": 6.0},
    }
    assert bench.at_equal_steps({**curves, "late": []}) == {}


def test_the_file_has_ratios_and_names_what_failed(bench: Any, tmp_path: Path) -> None:
    args = Namespace(task="CartpoleSwingup", note="", output=str(tmp_path / "found.json"))
    speeds = {
        "ours speed": {"updates_per_s": 300.0, "plan_ms": 1.0},
        "peer speed": {"updates_per_s": 100, "plan_ms": 4},
    }
    bench.write(
        args, {**speeds, "ours learn seed 1": {"curve": [[10, 1.0, 2.0]]}, "peer learn seed 1": {"error": "no"}}
    )
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["ours_over_peer"] == {"updates_per_s": 3.0, "plan_ms": 0.25}
    assert found["failed"] == {"peer learn seed 1": "no"} and set(found["curves"]) == {"ours learn seed 1"}
