"""The task with two ways is learned by rewards from a clone of its expert, as the scripts do it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from RoboRenForce.cli import main as rrf
from RoboRenForce.cli.demonstration_run import collect_demos_parser, prepare_demonstrations
from RoboRenForce.runners.arguments import train_parser
from RoboRenForce.runners.training_run import prepare_training
from RoboRenForce.utils.registry import load_task

pytest.importorskip("RRF_tabletop_tasks")
pytest.importorskip("pyarrow")
pytestmark = pytest.mark.contract

FORK = "RoboRenForce-Tabletop-Fork"
SIZE = {
    "GRPO": ["env.num_envs=4", "env.groups.group_size=2", "env.max_episode_length=8"],
    "VLAPPO": ["env.num_envs=4", "num_steps_per_env=2"],
}


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two updates on three demonstrations."""
    folder = tmp_path_factory.mktemp("clone")
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.chdir(folder)
        args = ["--task", f"{FORK}-BC", "--num_episodes", "3", "--images", "--output", "demos"]
        run = prepare_demonstrations(collect_demos_parser(None).parse(args))
        run.record()
        run.env.close()
        small = ["updates_per_iteration=2", "loader.num_workers=0", "validation_interval=0", "logger=[]", "epochs=null"]
        rrf(["train", "--task", f"{FORK}-BC", "--max_iterations", "1", "report=false", *small,
             "dataset.data_root=demos", "loader.batch_size=4"])  # fmt: skip
    (found,) = (folder / "logs/RFRL").rglob("params")
    return found.parent


@pytest.mark.parametrize("name", ["GRPO", "VLAPPO"])
def test_two_iterations_from_a_clone(clone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    argv = ["--task", f"{FORK}-{name}", "--max_iterations", "2", f"algorithm.init_from={clone}", *SIZE[name]]
    run = prepare_training(train_parser(None).parse([*argv, "report=false", "logger=[]"]))
    runner: Any = run.build_runner(run.build_env())
    before = [weight.clone() for weight in runner.algorithm.model.parameters()]
    runner.learn()
    run.finish(runner)
    metrics = [json.loads(line) for line in run.run_dir.metrics.read_text().splitlines()]
    assert len(metrics) == 2
    after = list(runner.algorithm.model.parameters())
    assert all(torch.isfinite(weight).all() for weight in after)
    assert any(not torch.equal(*pair) for pair in zip(before, after, strict=True))


def test_the_tables_of_a_group_start_alike_and_those_of_others_do_not() -> None:
    env = load_task(f"{FORK}-GRPO").env_cfg.replace(num_envs=16).build()
    obs, extras = env.reset(seed=3)
    for first in (0, 8):
        assert all(torch.equal(obs["front"][first], obs["front"][row]) for row in range(first, first + 8))
        assert len(set(extras["instruction"][first : first + 8])) == 1
    assert not torch.equal(obs["front"][0], obs["front"][8])
