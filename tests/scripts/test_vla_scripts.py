"""The scripts of VLA training: the public flags, a chain of pre-training and fine-tuning, resume by both lengths."""

from __future__ import annotations

import runpy
import sys
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch
from RoboRenForce.algorithms.vla_training import SFTAlgorithmCfg
from RoboRenForce.cli import main as rrf
from RoboRenForce.cli.vla_tasks import PRETRAIN, SFT, apply_vla_flags, find_task, policy_named, vla_parser
from RoboRenForce.components.action_heads import RegressionHeadCfg
from RoboRenForce.components.vla_export import load_vla
from RoboRenForce.components.vla_policy import MLPBaselinePolicyCfg, Qwen2VLPolicyCfg, Qwen3VLPolicyCfg
from RoboRenForce.data import LeRobotWriter
from RoboRenForce.runners.checkpoint_task import task_of_checkpoint
from RoboRenForce.runners.training_run import apply_flags
from RoboRenForce.utils.checkpoint import load_checkpoint
from RoboRenForce.utils.errors import UserError
from RoboRenForce.utils.registry import Task, load_task

pytestmark = pytest.mark.contract
SCRIPTS = Path(__file__).parents[2] / "scripts" / "vla"


def parsed(task: str, *argv: str) -> tuple[Task, Namespace]:
    args, found = vla_parser("", task=task).parse(argv), load_task(task)
    apply_flags(found, args, apply_vla_flags)
    return found, args


def test_flags_are_short_for_fields_and_overrides_win() -> None:
    flags = "--dataset_path d --epochs 2.5 --lr 1e-3 --kl_coef=0.1 --checkpoint c --batch_size 8 --freeze-backbone"
    task, _ = parsed(SFT, *flags.split(), "loader.batch_size=4")
    cfg = task.runner_cfg
    assert (cfg.dataset.data_root, cfg.epochs, cfg.loader.batch_size) == ("d", 2.5, 4)
    assert isinstance(cfg.algorithm, SFTAlgorithmCfg) and cfg.algorithm.freeze_backbone
    assert (cfg.algorithm.init_from, cfg.algorithm.kl_coef) == ("c", 0.1)
    assert cfg.algorithm.optimizer.learning_rate == 1e-3
    assert parsed(PRETRAIN, "--max_iterations", "7")[0].runner_cfg.epochs is None
    assert find_task("RoboRenForce-VLA-Other") is None
    with pytest.raises(UserError, match="has no environment: name a task that has one with --task"):
        task.env_cfg.build()


@pytest.mark.parametrize("script", ["pretrain/train_single_gpu.py", "post_train/train_sft.py"])
def test_the_configuration_is_printed_without_data_and_a_run_asks_for_them(
    script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as left:
        run(monkeypatch, script, "--print_config")
    printed = capsys.readouterr().out
    assert left.value.code == 0 and "data_root: ???" in printed
    Path("printed.yaml").write_text(printed)
    with pytest.raises(SystemExit) as left:
        run(monkeypatch, script, "--config", "printed.yaml")
    told = capsys.readouterr().err
    assert left.value.code == 1 and "dataset.data_root: is missing, expected str; give --dataset_path\n" in told
    with pytest.raises(SystemExit) as left:
        run(monkeypatch, script, "--print_config", "updates_per_iteration=0")
    assert left.value.code == 1 and "updates_per_iteration" in capsys.readouterr().err


def test_runs_that_python_built_are_found_by_the_name_of_their_runner() -> None:
    """Their checkpoints have no other task, and are played and exported as those of the scripts are."""
    found = {name: load_task(name).id for name in ("VLAPretrainRunner", "VLASFTRunner")}
    assert found == {"VLAPretrainRunner": PRETRAIN, "VLASFTRunner": SFT}


def test_a_model_is_chosen_by_its_name(tmp_path: Path) -> None:
    like = MLPBaselinePolicyCfg(head=RegressionHeadCfg(chunk_size=3))
    two = policy_named("Qwen/Qwen2-VL-2B-Instruct", like)
    assert isinstance(two, Qwen2VLPolicyCfg) and two.head == like.head
    assert two.backbone.model_name == "Qwen/Qwen2-VL-2B-Instruct"
    (tmp_path / "config.json").write_text('{"model_type": "qwen3_vl"}')
    assert isinstance(policy_named(str(tmp_path)), Qwen3VLPolicyCfg)
    with pytest.raises(
        UserError, match=r"--model_name is 'gpt', expected mlp_baseline, qwen3_vl_small, pi0_tiny.* or the id"
    ):
        policy_named("gpt")


def run(monkeypatch: pytest.MonkeyPatch, script: str, *argv: str) -> None:
    monkeypatch.setattr(sys, "argv", [script, *argv])
    runpy.run_path(str(SCRIPTS / script), run_name="__main__")


def record_and_name_options() -> list[str]:
    """Record demonstrations into `data`, and return the options of learning from them."""
    features = {
        "observation.state": {"dtype": "float32", "shape": [1]},
        "action": {"dtype": "float32", "shape": [1]},
        "observation.images.front": {"dtype": "image", "shape": [16, 16, 3], "names": ["height", "width", "channels"]},
    }
    with LeRobotWriter.create("data", fps=5, features=features) as writer:
        for number in range(4):
            for step in range(6):
                values = {key: [step / 6 - number / 4] for key in ("observation.state", "action")}
                writer.add_frame(
                    {**values, "observation.images.front": np.full((16, 16, 3), step, np.uint8)}, task="move"
                )
            writer.save_episode()
    return ["--dataset_path", "data", "--device", "cpu", "--batch_size", "4", "--num_workers", "0", "logger=[]",
            "report=false"]  # fmt: skip


SMALL = ("policy.backbone.image_size=[16,16]", "policy.head.chunk_size=2")


def test_pre_training_fine_tuning_and_resume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    options = record_and_name_options()
    run(monkeypatch, "pretrain/train_single_gpu.py", *options, *SMALL, "--epochs", "1", "updates_per_iteration=2",
        "--experiment_name", "first")  # fmt: skip
    (first,) = (tmp_path / "logs/RFRL/first").iterdir()
    run(monkeypatch, "post_train/train_sft.py", *options, "--checkpoint", str(first), "--kl_coef", "0.1",
        "--max_iterations", "1", "updates_per_iteration=2", "--experiment_name", "second")  # fmt: skip
    (second,) = (tmp_path / "logs/RFRL/second").iterdir()
    run(monkeypatch, "post_train/train_sft.py", "--resume", str(second), "--max_iterations", "2")
    saved = load_checkpoint(second / "model_2.pt")
    assert saved["task"] == SFT and saved["shared"]["loader"]["offset"] == 16 % 18
    assert "reference" in saved["algorithm"]
    policy = task_of_checkpoint(saved).runner_cfg.policy
    assert policy.head.chunk_size == 2, "the checkpoint that learning begins with brings its policy's configuration"


def test_a_run_without_an_environment_is_exported_and_says_how(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    options = record_and_name_options()
    run(monkeypatch, "pretrain/train_single_gpu.py", *options, *SMALL, "--max_iterations", "1",
        "updates_per_iteration=2", "--experiment_name", "alone", "report=true")  # fmt: skip
    (root,) = (tmp_path / "logs/RFRL/alone").iterdir()
    said = capsys.readouterr().out
    target = root.relative_to(tmp_path)
    assert f"export --target {target}\n" in said and f"play --target {target} --task TASK --video\n" in said
    assert said.count("--export") == 0
    assert "--task TASK --video" in (root / "report.html").read_text()
    rrf(["export", "--target", str(target)])
    expected = load_checkpoint(root / "model_1.pt")["algorithm"]["policy"]["tensors"]
    exported = load_vla(root / "exported").state_dict()
    said = capsys.readouterr().out
    assert said.startswith(f"exporting     {target}/model_1.pt of") and f"exported to   {target}/exported" in said
    assert {name.rpartition("policy.")[2] for name in expected} <= exported.keys()
    assert all(torch.equal(tensor, exported[name.rpartition("policy.")[2]]) for name, tensor in expected.items())
    with pytest.raises(SystemExit):
        rrf(["play", "--target", str(target)])
    said = capsys.readouterr().err
    assert "has no environment: name a task to play it in with --task" in said and "eval_interval" not in said
