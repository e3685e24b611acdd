"""The page of the YAML of VLA RL: its commands run one after another, with less to do."""

from __future__ import annotations

from pathlib import Path

import pytest
from doc_pages import ROOT, Workplace, blocks, commands_of, snippets_of
from RoboRenForce.utils.registry import load_task

pytest.importorskip("RRF_tabletop_tasks")
pytest.importorskip("pyarrow")
pytest.importorskip("av")
pytestmark = pytest.mark.contract

PAGE = ROOT / "docs/vla/rl_yaml.md"
SFT, GRPO = "logs/RFRL/sft/2026-01-01_12-00-00", "logs/RFRL/grpo/2026-01-01_13-00-00"
TASK = "RoboRenForce-Tabletop-Reach-BC"
SMALL = ["report=false", "logger=[]", "env.image_size=32"]
LESS = {
    "train.py": ["--num_envs", "8", "--max_iterations", "40", "save_interval=40", "eval_interval=0", *SMALL],
    "train_vla_benchmark.py": ["--num_envs", "8", "--max_iterations", "1", "eval_interval=0", *SMALL],
    "play.py": ["--num_envs", "2", "env.image_size=32"],
}


def named(folder: Path, experiment: str, path: str) -> None:
    """Give a run the name that it has on the page."""
    (run,) = (folder / "logs/RFRL" / experiment).iterdir()
    (folder / path).parent.mkdir(exist_ok=True)
    run.rename(folder / path)


@pytest.mark.long
def test_the_commands_of_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = Workplace(tmp_path, PAGE, monkeypatch)
    colours = "env.colours=[red,green,blue]"
    collect = ["--num_episodes", "8", "--images", "--output", "data", colours, "env.image_size=32"]
    assert place.run("python", "scripts/data/collect_demos.py", "--task", TASK, *collect) == 0
    imitate = ["--dataset_path", "data", "--num_workers", "0", "epochs=null", "updates_per_iteration=5", colours]
    imitate += ["--max_iterations", "1", "--experiment_name", "bc", "validation_interval=0", *SMALL]
    imitate += ["policy.backbone.image_size=[32,32]"]
    assert place.run("python", "scripts/vla/pretrain/train_single_gpu.py", "--task", TASK, *imitate) == 0
    named(tmp_path, "bc", SFT)
    ran = []
    for command in commands_of(PAGE):
        script = Path(command.words[1]).name
        less = [*LESS[script]]
        if "--resume_dir" in command.words:
            less[less.index("40")] = "41"
            less.remove("env.image_size=32")
        elif script == "train.py":
            less += ["--experiment_name", "first"]
        if "--rl_model_path" in command.words:
            less[1] = "16"
        assert place.run(*command.words, *less) == 0, command
        ran.append(script)
        if ran == ["train.py"]:
            named(tmp_path, "first", GRPO)
    assert ran == ["train.py", "train.py", "play.py", "play.py", "train_vla_benchmark.py"]
    assert (tmp_path / GRPO / "latest").read_text().strip() == "global_step_41"
    assert (tmp_path / GRPO / "videos/tiles_global_step_40.mp4").is_file()


def test_the_snippets_and_the_files_of_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Workplace(tmp_path, PAGE, monkeypatch).import_text("rl_yaml_page", snippets_of(PAGE))
    first = blocks(PAGE, "yaml")[0]
    (tmp_path / "a.yaml").write_text(first)
    task = load_task("RoboRenForce-Tabletop-Reach-GRPO")
    task.apply_yaml(tmp_path / "a.yaml")
    task.validate()
    assert task.runner_cfg.policy.head.std == 0.15 and task.runner_cfg.save_interval == 20
