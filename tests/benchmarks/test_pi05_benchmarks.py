"""The benchmarks of pi0.5 compare equal work, run as they are on a CPU, and read what the peer says."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

pytestmark = pytest.mark.contract
BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
CPU = torch.device("cpu")
TINY = argparse.Namespace(tiny=True, num_envs=3, decisions=2, repeats=1, device="cpu", memory_cap=24.0)


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return lambda name: __import__(name)


def gradients(benchmark: Any, row: str) -> dict[str, torch.Tensor]:
    """Gradients of the one step that a row takes."""
    what, found = benchmark.OURS[row], {}
    with benchmark.left_out(what, CPU):
        torch.manual_seed(1)
        built, simulator = benchmark.build(what, TINY, CPU)
        step = built.optimizer.step

        def kept() -> Any:
            found.update({name: p.grad.clone() for name, p in built.optimizer.params.items()})
            return step()

        built.epochs.optimizer.step = kept
        torch.manual_seed(2)
        benchmark.collect(built, simulator, simulator.get_observations(), TINY.decisions, CPU)
        built.update()
    return found


def test_what_is_left_out_changes_no_gradient(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    benchmark = bench("pi05_rl_step")
    expected = gradients(benchmark, "ours")
    assert all(gradient.any() for name, gradient in expected.items() if name.startswith("head."))
    monkeypatch.setattr(benchmark, "MICRO_BATCH", 4)  # of six decisions, whose parts add up to their gradient
    for row in ("ours", "recomputed", "padded", "plain attention"):
        found = gradients(benchmark, row)
        assert found.keys() == expected.keys()
        for name, gradient in expected.items():
            atol = 1e-5 * max(float(gradient.abs().max()), 1e-3)
            torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=atol, msg=f"{row}: {name}")


FAKE_PEER = """
import json, sys
wanted = ["--rlinf", "checkout", "--iters", "2", "--sync", "env.train.total_num_envs=3", "env.train.rollout_epoch=1",
          "env.train.max_steps_per_rollout_epoch=10", "env.train.max_episode_steps=10", "actor.global_batch_size=6"]
assert sys.argv[1:11] == wanted, sys.argv
epochs = int(sys.argv[11].partition("=")[2])
print("not a line of results")
print(json.dumps(dict(stage="warm", rollout_s=9.0)))
for seconds in (1.0, 3.0):
    print(json.dumps(dict(stage="rollout", seconds=seconds, samples_per_s=6 / seconds, predict_samples_per_s=7.0)))
    print(json.dumps(dict(stage="update", seconds=epochs * 2.0, samples_per_s=3.0, step_s=5.0, peak_gib=None, ratio=1.0,
                          sync_s=0.5)))
"""


def test_the_peer_is_run_in_our_setting_and_its_lines_become_rows(bench: Any, tmp_path: Path) -> None:
    peers, benchmark = bench("rlinf_peer"), bench("pi05_rl_step")
    script = tmp_path / "peer.py"
    script.write_text(FAKE_PEER)
    args = argparse.Namespace(
        peer=str(script), rlinf="checkout", peer_packages="", peer_repeats=2, num_envs=3, decisions=2
    )
    row = peers.run_peer("RLinf 4 epochs", args)
    assert row["rollout_s"] == 2.0 and row["update_s"] == 8.0 and row["step_s"] == 5.0 and row["epochs"] == 4
    assert row["sync_s"] == 0.5 and "peak_gib" not in row
    ours = {"rollout_s": 0.5, "update_s": 0.5, "step_s": 1.0, "epochs": 4}
    benchmark.compare({"ours 4 epochs": ours, "RLinf 4 epochs": row})
    assert (row["step_times_ours"], row["rollout_times_ours"], row["update_times_ours"]) == (5.0, 4.0, 16.0)
    assert "step_times_ours" not in ours

    ray = {"generate_rollouts": 2.0, "actor_training": 3.0, "step": 6.0}
    line = {"stage": "step_ray", "rollout_samples_per_s": 4.0, "update_samples_per_s": 2.0, "times": ray}
    assert peers.peer_row(json.dumps(line))["step_s"] == 6.0

    script.write_text("import sys; sys.exit('no such package')")
    assert peers.run_peer("RLinf", args) == {"failed": 1, "missing": "'rollout'", "epochs": 1}


def test_the_step_runs_tiny_and_writes_after_each_row(
    bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    benchmark, output = bench("pi05_rl_step"), tmp_path / "result.json"
    monkeypatch.setattr(benchmark, "run_child", lambda _script, name, *_: benchmark.steps(name, TINY))
    places = ["--output", str(output), "--peer", "peer.py", "--rlinf=checkout"]
    monkeypatch.setattr(sys, "argv", ["/there/pi05_rl_step.py", "--tiny", "--rows=ours,none,memory", *places])
    benchmark.main()
    written = json.loads(output.read_text())
    assert written["command"] == "python benchmarks/pi05_rl_step.py --tiny --rows=ours,none,memory"
    assert list(written["results"]) == ["ours", "ours 4 epochs", "none", "memory"]
    for row in written["results"].values():
        assert row["ratio"] == pytest.approx(1.0, abs=1e-3 if row["epochs"] == 1 else 0.1)
        assert row["stored_mib_per_sample"] > 0 and row["step_s"] > 0
    ours, none = written["results"]["ours"], written["results"]["none"]
    assert ours["prefix_tokens"] % 8 == 0 and ours["prefix_tokens"] < 3 * 16 + 200
    assert "prefix_tokens" not in none and none["step_times_ours"] > 0


@pytest.mark.parametrize("use", ["expert", "LoRA", "full", "acting 1", "cached"])
def test_fine_tuning_runs_tiny_in_ours_and_in_the_peer(bench: Any, use: str) -> None:
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("peft")
    benchmark = bench("pi05_sft")
    args = argparse.Namespace(tiny=True, steps=1, repeats=1, device="cpu")
    rows = [row for row in benchmark.ROWS if row.endswith(use) and (use == "cached" or "pi0.5" not in row)]
    if not hasattr(transformers, "PI0ForConditionalGeneration"):
        rows = [row for row in rows if row.startswith("ours")]
    results = {row: benchmark.measure(row, args) for row in rows}
    assert len(results) == len(rows) >= 1
    assert all(row["ms"] > 0 and row["batch_size"] in (1, 2) for row in results.values())
    assert all(row["attention"] == "sdpa" and row["prefix_tokens"] >= 2 * 16 for row in results.values())
    benchmark.compare(results)
    if len(rows) == 2:
        assert results[f"ours pi0 {use}"]["times_peer"] > 0


def test_fine_tuning_writes_after_each_row_until_its_time_is_over(
    bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    benchmark, output, clock = bench("pi05_sft"), tmp_path / "result.json", [0.0]
    written: list[list[str]] = []

    def child(_script: str, name: str, options: dict[str, Any], flags: list[str]) -> dict[str, Any]:
        assert options["device"] == "cpu" and flags == ["--tiny"]
        written.append(list(json.loads(output.read_text())["results"]) if output.is_file() else [])
        clock[0] += 40
        if name.endswith("full"):
            return {"batch_size": 16, "fits": 0, "error": "out of memory"}
        return {"batch_size": 1, "samples_per_s": 30.0 if name.startswith("ours") else 10.0, "peak_memory_gib": 8.0}

    rows = ["transformers pi0 full", "transformers pi0 acting 1", "ours pi0 acting 1", "ours pi0.5 acting 1"]
    monkeypatch.setattr(benchmark, "run_child", child)
    monkeypatch.setattr(benchmark.time, "perf_counter", lambda: clock[0])
    options = ["--tiny", "--budget_s=100", f"--rows={','.join(rows)}", "--output", str(output)]
    monkeypatch.setattr(sys, "argv", ["/there/pi05_sft.py", *options])
    benchmark.main()
    found = json.loads(output.read_text())
    assert written == [rows[:0], rows[:1], rows[:2]] and list(found["results"]) == rows[:3]
    assert found["results"]["ours pi0 acting 1"]["times_peer"] == 3.0 and found["versions"]["torch"]
    page = bench("make_tables").render(tmp_path)
    assert "ours pi0 acting 1" in page and "Fine-tuning and acting of pi0.5" in page
