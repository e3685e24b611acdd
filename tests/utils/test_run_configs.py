"""Run configurations are found by name and name their task; what is wrong in them is one sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from RoboRenForce.configclass import ConfigError
from RoboRenForce.utils import run_configs as module
from RoboRenForce.utils.run_configs import find_run_config, run_configs, task_in

pytestmark = pytest.mark.contract


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A task package that would fail if it were imported."""
    folder = tmp_path / "my_sim_tasks" / "configs"
    folder.mkdir(parents=True)
    (folder.parent / "__init__.py").write_text("raise RuntimeError('imported')")
    (folder / "mine_grpo.yaml").write_text("task: RoboRenForce-Mine-GRPO\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(module.task_packages, "announced", lambda: {"mine": "my_sim_tasks.register:all"})
    return folder


def test_a_name_is_found_without_importing_its_package(package: Path) -> None:
    assert run_configs() == {"mine_grpo": package / "mine_grpo.yaml"}
    for name in ("mine_grpo", "mine_grpo.yaml"):
        assert task_in(find_run_config(name)) == "RoboRenForce-Mine-GRPO"


def test_a_folder_comes_first(package: Path, tmp_path: Path) -> None:
    (tmp_path / "mine_grpo.yaml").write_text("max_iterations: 1\n")
    found = find_run_config("mine_grpo", tmp_path)
    assert found == tmp_path / "mine_grpo.yaml" and task_in(found) is None


@pytest.mark.parametrize(
    ("name", "folder", "message"),
    [
        ("mine_grp", None, "no run configuration 'mine_grp' in the installed task packages: did you mean 'mine_grpo'"),
        ("mine_grp", Path("here"), "in 'here' and the installed task packages"),
    ],
)
def test_an_unknown_name_gets_the_nearest(package: Path, name: str, folder: Path | None, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        find_run_config(name, folder)


@pytest.mark.parametrize("text", ["task: [a, b]\n", "task: 3\n"])
def test_a_task_is_an_id(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match="expected the id of a task"):
        task_in(path)


def test_no_package_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    nothing: dict[str, Any] = {}
    monkeypatch.setattr(module.task_packages, "announced", lambda: nothing)
    with pytest.raises(ConfigError, match="install a task package that brings some"):
        find_run_config("a")
