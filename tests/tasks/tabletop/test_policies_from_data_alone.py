"""A VLA policy that was trained without a task: played in one, refused by others, and an expert that records."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from RoboRenForce.cli import main as rrf
from RoboRenForce.cli.demonstration_run import collect_demos_parser, prepare_demonstrations
from RoboRenForce.components.vla_export import export_vla
from RoboRenForce.data import LeRobotDatasetCfg
from RoboRenForce.runners.arguments import play_parser
from RoboRenForce.runners.play_run import prepare_play
from RoboRenForce.utils.errors import SpecMismatch, UserError

pytest.importorskip("RRF_tabletop_tasks")
pytest.importorskip("pyarrow")
pytestmark = pytest.mark.contract
REACH, FORK = "RoboRenForce-Tabletop-Reach-BC", "RoboRenForce-Tabletop-Fork-BC"
LENGTH = "env.max_episode_length=8"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two updates on recorded demonstrations."""
    folder = tmp_path_factory.mktemp("alone")
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.chdir(folder)
        record(REACH, "demos", "--num_episodes", "3")
        small = ["updates_per_iteration=2", "loader.num_workers=0", "validation_interval=0", "logger=[]"]
        rrf(["train", "--task", "RoboRenForce-VLA-Pretrain", "--max_iterations", "1", "report=false", *small,
             "dataset.data_root=demos", "loader.batch_size=4"])  # fmt: skip
    (found,) = (folder / "logs/RFRL").rglob("params")
    return found.parent


def record(task: str, output: str, *options: str) -> LeRobotDatasetCfg:
    run = prepare_demonstrations(
        collect_demos_parser(None).parse(["--task", task, "--output", output, "--images", *options])
    )
    run.record()
    run.env.close()
    return LeRobotDatasetCfg(data_root=output)


def play(*words: str) -> dict[str, object]:
    run = prepare_play(play_parser(None).parse([*words, "--episodes", "4"]))
    run.evaluate(run.build_runner(run.build_env()))
    run.env.close()
    return {name: value for name, value in json.loads(run.run_dir.evaluation.read_text()).items() if name != "others"}


def test_it_is_played_in_the_task_that_is_named_and_samples_follow_the_seed(run: Path) -> None:
    found = [play("--target", str(run), "--task", task, LENGTH, "--seed", "3") for task in (REACH, FORK, REACH)]
    assert [result["task"] for result in found] == [REACH, FORK, REACH]
    assert found[0] == found[2] != found[1]  # flow matching draws noise in either mode
    torch.rand(1)
    other = play("--target", str(run), "--task", REACH, LENGTH, "--seed", "4")
    assert other["deterministic"] != found[0]["deterministic"]
    assert "sampled" not in other  # it would be the same
    with pytest.raises(UserError, match="name a task to play it in with --task"):
        play("--target", str(run))


def test_another_robot_is_refused_with_a_table(run: Path) -> None:
    with pytest.raises(
        SpecMismatch, match=r"(?s)can't act in .*because they differ:\n +policy +environment\n +cameras"
    ):
        play("--target", str(run), "--task", REACH, "env.multi_modal.images={wrist: wrist}", "env.cameras=[wrist]")


def test_it_records_demonstrations_in_chunks_as_it_is_played(run: Path, tmp_path: Path) -> None:
    options = ["--num_episodes", "2", "--num_envs", "2", "--include_failures", LENGTH]
    data = record(REACH, str(tmp_path / "from_run"), "--checkpoint", str(run), *options).build()
    assert data.metadata.episodes.length.tolist() == [8, 8] and len(data.metadata.tasks) >= 1

    args = ["--task", REACH, "--checkpoint", str(run), "--output", str(tmp_path / "o")]
    expert = prepare_demonstrations(collect_demos_parser(None).parse(args)).expert
    assert expert.execution.num_executed == 4  # what the task's environment executes of a chunk
    export_vla(expert.policy, tmp_path / "exported")
    record(REACH, str(tmp_path / "from_export"), "--checkpoint", str(tmp_path / "exported"), *options)
