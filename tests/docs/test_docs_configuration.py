"""Every snippet and command of docs/configuration.md runs and prints what the page shows."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.contract

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/configuration.md").read_text(encoding="utf-8")
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": os.pathsep.join(str(ROOT / path) for path in ("source/RoboRenForce", "source/tasks/RRF_gym")),
}


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)


def test_the_python_snippets_run_in_their_order_and_print_what_the_page_shows(tmp_path: Path):
    pytest.importorskip("RRF_gym_tasks")
    # The registered task is also loaded: the page promises that it is found by its id.
    code = "\n".join(blocks("python")) + (
        "\nfrom RoboRenForce.utils.registry import load_task\n"
        "assert load_task('MyLab-Cheetah-PPO').runner_cfg == MyLocoPPOCfg()\n"
    )
    (tmp_path / "snippets.py").write_text(code, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "snippets.py"], cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    shown = [block for block in blocks("text") if block.startswith("GripperCfg has")]
    assert done.stdout == "PPOCfg has no field 'gama'; did you mean 'gamma'?\n" + shown[0]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the scripts, in which commands may write files."""
    pytest.importorskip("RRF_gym_tasks")
    folder = tmp_path_factory.mktemp("docs")
    (folder / "scripts").symlink_to(ROOT / "scripts")
    return folder


def run(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = command.replace("python ", f"{sys.executable} ", 1)
    return subprocess.run(
        ["bash", "-c", command], cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, check=False
    )


def test_the_commands_run(workplace: Path):
    commands = [line for block in blocks("bash") for line in block.replace("\\\n", "").splitlines()]
    assert len(commands) == 4
    outputs = [run(command, workplace) for command in commands]
    assert [done.returncode for done in outputs] == [0, 0, 0, 0], [done.stderr[-500:] for done in outputs]
    assert "gamma: 0.97" in outputs[1].stdout
    assert "hidden_features: [128, 128]" in outputs[1].stdout
    assert "lam: 0.93\n" in outputs[3].stdout
    # What was printed is a configuration file: read back, it changes nothing but the override.
    as_printed = re.sub(r"lam: .+", re.search(r"lam: .+", outputs[0].stdout)[0], outputs[3].stdout)
    assert as_printed == outputs[0].stdout


def test_the_mistakes_are_answered_as_shown(workplace: Path):
    shown = next(block for block in blocks("text") if block.startswith("Error:"))
    done = run(
        "python scripts/renforce/train_gym.py --task RoboRenForce-Gym-HalfCheetah-PPO algorithm.gama=0.98 "
        "algorithm.clip_param=small policy.actor_cfg.backbone_cfg.hidden_features=64",
        workplace,
    )
    assert done.returncode == 1
    example = r"(?<=write for example )[\d.e-]+"  # the task's own value, which may be tuned
    assert re.sub(example, "", done.stderr) == re.sub(example, "", shown)


def overrides_of_the_table() -> list[str]:
    return [
        text for row in re.findall(r"^\| (`[\w.]+=.*?) \|", PAGE, re.MULTILINE) for text in re.findall(r"`(.+?)`", row)
    ]


@pytest.mark.parametrize("override", overrides_of_the_table())
def test_every_way_to_write_a_value_works(override: str):
    pytest.importorskip("RRF_gym_tasks")
    from RoboRenForce.utils.registry import load_task

    task = load_task("RoboRenForce-Gym-HalfCheetah-PPO")
    before = task.to_yaml()
    task.apply_overrides([override])
    task.validate()
    assert task.to_yaml() != before
