"""The commands and the mapping block of a run on Isaac Lab, verbatim, against a fake of its environment.

Demonstrations, imitation, two iterations of RL from the YAML of the page, resuming, playing with a video.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from doc_pages import Workplace
from isaaclab_adapter import IsaacLabCfg
from isaaclab_tasks import PAGE, PREFIX, add_package, example
from RoboRenForce.configclass import yaml_text
from RoboRenForce.envs import check_vec_env
from RoboRenForce.utils.checkpoint import load_checkpoint
from RoboRenForce.utils.errors import UserError
from RoboRenForce.utils.registry import load_task
from RoboRenForce.utils.run_dir import write_yaml

pytest.importorskip("pyarrow")
pytest.importorskip("av")
pytestmark = pytest.mark.contract
TRAIN, PLAY = "scripts/vla/rl/train.py", "scripts/vla/rl/play.py"
QUICK = ["report=false", "logger=[]"]


def test_the_adapter_keeps_the_contract() -> None:
    check_vec_env(IsaacLabCfg(num_envs=4).build())


def the_only(pattern: str, folder: Path) -> Path:
    (found,) = folder.glob(pattern)
    return found


def test_train_resume_and_play(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    place = Workplace(tmp_path, PAGE, monkeypatch)
    add_package(tmp_path, monkeypatch)

    def run(*words: str, code: int = 0) -> str:
        left_with = place.run("python", *words)
        shown = capsys.readouterr()
        assert left_with == code, shown
        return shown.out + shown.err

    task = ["--task", f"{PREFIX}-BC"]
    run("scripts/data/collect_demos.py", *task, "--num_episodes", "16", "--images", "--output", "data")

    def imitate(name: str, seed: str) -> str:
        run(
            *("scripts/vla/pretrain/train_single_gpu.py", *task, "--dataset_path", "data", "--experiment_name", name),
            *("--seed", seed, "--max_iterations", "1", "epochs=null", "updates_per_iteration=60", *QUICK),
        )
        return str(the_only(f"logs/RFRL/{name}/*", tmp_path).relative_to(tmp_path))

    model = imitate("bc", "1")
    base = ["--config_name", "isaaclab_reach_grpo", "--model_path", model]
    run(TRAIN, *base, "--experiment_name", "rl", *QUICK)
    trained = the_only("logs/RFRL/rl/*", tmp_path)
    assert sorted(path.name for path in trained.glob("global_step_*")) == ["global_step_1", "global_step_2"]
    assert (trained / "latest").read_text().strip() == "global_step_2"
    saved = load_checkpoint(trained / "global_step_2")
    assert saved["config"]["agent"]["policy"]["backbone"]["image_size"] == [16, 16], "that of --model_path"
    assert saved["spec"]["action"]["dim"] == 3 and saved["spec"]["obs_groups"]["front_camera"] == [16, 16, 3]
    metrics = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    assert [line["iteration"] for line in metrics] == [1, 2]

    resume = ["--resume_dir", str(trained.relative_to(tmp_path)), "--max_epochs", "3"]
    assert "configuration of the checkpoint" in run(TRAIN, *base, *resume)
    assert (trained / "latest").read_text().strip() == "global_step_3"

    other = ["--model_path", imitate("other", "2"), "--resume_dir", str(trained), "--max_epochs", "4"]
    told = run(TRAIN, "--config_name", "isaaclab_reach_grpo", *other, code=1)
    assert "are not those that this policy was trained with: load the same base model" in told
    assert "agent.yaml" not in told  # it is not the configuration that differs
    assert (trained / "latest").read_text().strip() == "global_step_3"

    rl_model = ["--rl_model_path", str((trained / "global_step_3").relative_to(tmp_path))]
    run(PLAY, *base, *rl_model, "--num_episodes", "4", "--video")
    assert the_only("videos/tiles_global_step_3.mp4", trained).stat().st_size
    assert json.loads((trained / "eval.json").read_text())["checkpoint"] == "global_step_3"
    shown = run(PLAY, *base, "--only_eval", "--num_episodes", "3")
    assert "success" in shown and not list(tmp_path.glob("logs/RFRL/bc/*/videos"))
    assert "success" in run(TRAIN, *base, "--resume_dir", str(trained), "--only_eval", "--num_episodes", "2")


def test_groups_start_alike_and_the_waist_rests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add_package(tmp_path, monkeypatch)
    task = load_task(f"{PREFIX}-GRPO")
    task.apply_yaml(example())
    env = task.env_cfg.build()
    torch.manual_seed(3)
    for _ in range(8):
        obs, _, _, extras = env.step(2 * torch.rand(8, 4, 3) - 1)
        waiting = ~extras["active"]
    assert not env.unwrapped.env.scene.joint_position[:, :2].any()
    starts = env.reset(seed=1)[0]["front_camera"].view(2, 4, -1)
    assert (starts == starts[:, :1]).all() and (starts[0] != starts[1]).any()
    assert waiting.shape == (8,) and obs["proprio"].shape == (8, 4)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"num_env": 4}, r"env.num_env: IsaacLabCfg has no such field; did you mean 'num_envs'"),
        ({"num_envs": 6}, r"group_size=4 must divide the 6 training environments"),
        ({"same_start": False}, r"start rows at a chosen state, but IsaacLab-Reach doesn't name 'reset_rows'"),
        ({"mapping.main_image": "a"}, r"mapping.main_image: ObsMappingCfg has no such field.*'main_images'"),
        ({"mapping.main_images": "camera"}, r"names the group 'camera', and IsaacLab-Reach has \['critic', 'front_cam"),
        ({"mapping.states": [{"key": "robot_joint_state", "slice": [2, 9]}]}, r"\[2, 9\] of .*, which has 6"),
        ({"mapping.action_mapping": {"prefix_pad": 6}}, r"have 6 dimensions: leave at least one to the policy"),
    ],
    ids=str,
)
def test_mistakes_in_the_file_are_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: dict[str, Any], message: str
) -> None:
    add_package(tmp_path, monkeypatch)
    data = yaml_text.load(example())
    for path, value in changed.items():
        key = path.removeprefix("mapping.")
        (data["env"]["multi_modal"]["mapping"] if key != path else data["env"])[key] = value
    write_yaml(tmp_path / "wrong.yaml", data)
    task = load_task(f"{PREFIX}-GRPO")
    with pytest.raises(UserError, match=message):
        task.apply_yaml(tmp_path / "wrong.yaml")
        task.env_cfg.build()
