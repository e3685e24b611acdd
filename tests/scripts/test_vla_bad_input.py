"""What a user gets wrong in VLA training is answered by one sentence, before anything is learned."""

from __future__ import annotations

import re
import runpy
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from lerobot_files import FEATURES, edit_json, frame_of, record, smooth
from RoboRenForce.data import LeRobotDatasetCfg, LeRobotWriter, MixtureDatasetCfg, MixturePartCfg
from RoboRenForce.utils.errors import UserError

pytest.importorskip("transformers")
pytest.importorskip("av")
pytestmark = pytest.mark.contract
SCRIPTS = Path(__file__).parents[2] / "scripts" / "vla"
REACH = "RoboRenForce-Tabletop-Reach-BC"


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the data set `demos`: two cameras, three states, two actions."""
    monkeypatch.chdir(tmp_path)
    record(tmp_path / "demos", (5, 6))
    return tmp_path


def write(root: str, features: dict[str, Any], **changes: Any) -> None:
    """A data set of one episode of four frames."""
    with LeRobotWriter.create(root, fps=10, features=features) as writer:
        for step in range(4):
            writer.add_frame(frame_of(0, step, features) | changes, task="open the drawer")
        writer.save_episode()


def train(monkeypatch: pytest.MonkeyPatch, *words: str, script: str = "pretrain/train_single_gpu.py") -> None:
    small = ["--num_workers", "0", "--batch_size", "4", "--max_iterations", "1", "updates_per_iteration=1"]
    small += ["--device", "cpu", "validation_interval=0", "logger=[]", "report=false"]
    data = [] if "--dataset_path" in words else ["--dataset_path", "demos"]
    monkeypatch.setattr(sys, "argv", [script, *data, *small, *words])
    runpy.run_path(str(SCRIPTS / script), run_name="__main__")


def refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str, **options: str) -> str:
    """The sentence; nothing is left behind."""
    with pytest.raises(SystemExit) as ended:
        train(monkeypatch, *words, **options)
    told = capsys.readouterr().err
    assert ended.value.code == 1 and not list(Path().rglob("model_1.pt"))
    return told[told.index("\nError: ") if "\nError: " in told else 0 :].strip()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--model_name", "Qwen/Qwen3-VL-2B-Instruct"], r"neither a folder nor in the cache .*setup_models.sh qwen3vl"),
        (["--model_name", "empty_qwen3"], r"'empty_qwen3' has no config.json: name the folder that holds a model"),
        (["--model_name", "damaged"], r"'damaged/config.json' can't be read"),
        (["--model_name", "other"], r"'other/config.json' names no model_type"),
        (["policy.cameras=[side]"], r"'demos' has no camera 'observation.images.side': did you mean"),
        (["--dataset_path", "nowhere"], r"'nowhere': there is no such folder"),
        (["--dataset_path", "old"], r"codebase_version is 'v1.6', expected v3.0, v2.1, v2.0"),
        (["--dataset_path", "unmeasured"], r"no statistics of 'observation.state': run scripts/data/dataset_stats.py"),
        (["--dataset_path", "cut"], r"episode 0, frame \d+: camera 'observation.images.front': it can't be opened"),
    ],
)
def test_one_sentence(
    words: list[str],
    sentence: str,
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in ("empty_qwen3", "damaged", "other"):
        (place / name).mkdir()
    (place / "other/config.json").write_text("{}")
    (place / "damaged/config.json").write_text("{not json")
    for name in ("old", "unmeasured", "cut"):
        shutil.copytree("demos", name)
    edit_json(place / "old/meta/info.json", codebase_version="v1.6")
    (place / "unmeasured/meta/stats.json").unlink()
    for video in (place / "cut").rglob("*.mp4"):
        video.write_bytes(video.read_bytes()[:200])
    told = refused(monkeypatch, capsys, *words)
    assert re.search(sentence, told) and len(told.splitlines()) == 1


def test_a_damaged_base_model_of_a_task_is_named(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (place / "damaged").mkdir()
    (place / "damaged/config.json").write_text("{not json")
    words = ["policy=RoboRenForce.components.vla_policy:Qwen3VLPolicyCfg", "policy.backbone.model_name=damaged"]
    assert re.search(r"'damaged/config.json' can't be read", refused(monkeypatch, capsys, *words))


def test_an_environment_of_another_robot_is_refused_with_a_table(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("RRF_tabletop_tasks")
    told = refused(monkeypatch, capsys, "--task", REACH, "eval_interval=1")
    assert "because they differ:" in told and re.search(r"action dimensions +2 +3, continuous", told)
    assert re.search(r"cameras +front, wrist +front", told)


def test_that_data_and_environment_are_not_compared_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("RRF_tabletop_tasks")
    train(monkeypatch, "--task", REACH, "eval_interval=0")
    assert f"the data is not compared with that of {REACH}" in "".join(capsys.readouterr())


def test_data_of_another_robot_is_refused_with_a_table(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    train(monkeypatch, "--experiment_name", "first")
    (run,) = (place / "logs/RFRL/first").iterdir()
    saved = run / "model_1.pt"
    features = FEATURES | {"action": {"dtype": "float32", "shape": [3]}}
    del features["observation.images.wrist"]
    write("other", features, action=[0.0, 1.0, 0.5])
    with pytest.raises(SystemExit):
        train(monkeypatch, "--dataset_path", "other", "--checkpoint", str(saved), script="post_train/train_sft.py")
    told = capsys.readouterr().err
    assert "can't learn from this data, because they differ:" in told
    assert re.search(r"cameras +front, wrist +front", told) and re.search(r"action dimensions +2 +3", told)


def test_a_camera_that_no_part_of_a_mixture_has_is_refused_by_its_name_there() -> None:
    part = MixturePartCfg(
        dataset=LeRobotDatasetCfg(data_root="demos"), rename={"observation.images.front": "observation.images.top"}
    )
    mixture = MixtureDatasetCfg(parts=[part])
    with pytest.raises(UserError, match="No part of the mixture has the camera 'front'"):
        mixture.for_policy(4, ["front"], "all")
    assert mixture.for_policy(4, ["top"], "all").parts[0].dataset.cameras == ["observation.images.front"]


def test_cameras_of_unequal_size_and_a_dimension_that_never_moves_are_learned_from(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small = FEATURES["observation.images.wrist"] | {"shape": [24, 20, 3]}
    pictures = {"observation.images.wrist": smooth(0, 0, 24, 20)}
    write("unequal", FEATURES | {"observation.images.wrist": small}, **pictures)
    train(monkeypatch, "--dataset_path", "unequal")
    told = capsys.readouterr()
    assert "The action hardly moves in dimension 1 of the data" in told.err + told.out
