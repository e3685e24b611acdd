"""The task of DAgger: twenty demonstrations are too few to clone, and enough to begin with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from RoboRenForce.cli import main as rrf
from RoboRenForce.cli.demonstration_run import collect_demos_parser, prepare_demonstrations
from RoboRenForce.data import read_metadata
from RoboRenForce.utils.logging import read_metrics

pytest.importorskip("RRF_tabletop_tasks")
pytest.importorskip("pyarrow")
CLONE, DAGGER = "RoboRenForce-Tabletop-Reach-BC", "RoboRenForce-Tabletop-Reach-DAgger"


def record(episodes: int) -> None:
    """Record `demos` as the documentation says."""
    args = ["--task", DAGGER, "--num_episodes", str(episodes), "--noise", "0.3", "--output", "demos", "--images"]
    run = prepare_demonstrations(collect_demos_parser(None).parse(args))
    run.record()
    run.env.close()


def train(task: str, *options: str) -> Path:
    """Train, and return the run directory."""
    usual = ["dataset.data_root=demos", "loader.num_workers=0", "logger=[]", "report=false"]
    rrf(["train", "--task", task, *usual, *options])
    (found,) = (Path("logs/RFRL") / task).iterdir()
    return found


def success(run: Path) -> float:
    rrf(["play", "--target", str(run), "--episodes", "100"])
    return json.loads((run / "eval.json").read_text())["deterministic"]["success_rate"]


@pytest.mark.contract
def test_the_command_collects_with_the_expert_and_learns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    record(2)
    run = train(DAGGER, "--max_iterations", "2", "updates_per_iteration=2", "episodes_per_round=3", "num_envs=3")
    assert len(read_metadata(run / "dagger_data").episodes.length) == 6
    metrics = read_metrics(run / "metrics.jsonl")
    assert metrics["DAgger/beta"][1] == [1.0, 0.5] and metrics["DAgger/success_rate"][1][0] == 1.0


@pytest.mark.contract
def test_its_runner_without_its_configuration_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    record(2)
    with pytest.raises(SystemExit, match="1"):
        train(CLONE, "class_type=RoboRenForce.runners:DAggerRunner")
    told = "DAggerRunner reads the fields of DAggerRunnerCfg, which VLAPretrainRunnerCfg lacks"
    assert told in capsys.readouterr().err


@pytest.mark.learning
@pytest.mark.long
def test_what_is_corrected_succeeds_more_often_than_a_clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    record(20)
    cloned = train(CLONE, "epochs=null", "max_iterations=10", "updates_per_iteration=200")  # as many updates
    found = success(cloned), success(train(DAGGER))
    assert found[0] <= 0.4 and found[1] >= 0.7, found
