"""The layers hold, the rules that say so have teeth, and the core needs no simulator."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.contract

ROOT = Path(__file__).parents[1]
PACKAGES = {
    "RoboRenForce": ROOT / "source/RoboRenForce/RoboRenForce",
    "RRF_gym_tasks": ROOT / "source/tasks/RRF_gym/RRF_gym_tasks",
    "RRF_mjlab_tasks": ROOT / "source/tasks/RRF_mjlab/RRF_mjlab_tasks",
    "RRF_d4rl_tasks": ROOT / "source/tasks/RRF_d4rl/RRF_d4rl_tasks",
    "RRF_tabletop_tasks": ROOT / "source/tasks/RRF_tabletop/RRF_tabletop_tasks",
}
SIMULATORS = ["mujoco", "mjlab", "warp", "envpool", "isaaclab", *(name for name in PACKAGES if name != "RoboRenForce")]
EXTRAS = [
    "transformers",
    "minari",
    "h5py",
    "pyarrow",
    "huggingface_hub",
    "diffusers",
    "peft",
    "stable_baselines3",
    "rsl_rl",
    "onnx",
    "onnxruntime",
    "onnxscript",
    "wandb",
    "swanlab",
]


def run_linter(path: list[Path]) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path))}
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as main; main()", "--no-cache"]
    command += ["--config", str(ROOT / "pyproject.toml")]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=path[0], check=False)


@pytest.fixture(scope="module")
def copies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copies of all packages in one folder, to plant violations in."""
    folder = tmp_path_factory.mktemp("packages")
    for name, source in PACKAGES.items():
        shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def test_imports_point_down():
    done = run_linter([source.parent for source in PACKAGES.values()])
    assert done.returncode == 0, done.stdout[-3000:]
    assert "0 broken" in done.stdout


VIOLATIONS = [
    ("RoboRenForce/configclass", "RoboRenForce.utils.errors"),
    ("RoboRenForce/utils", "RoboRenForce.envs.spec"),
    ("RoboRenForce/envs", "RoboRenForce.networks.mlp"),
    ("RoboRenForce/networks", "RoboRenForce.components.actor"),
    ("RoboRenForce/components", "RoboRenForce.buffer.rollout"),
    ("RoboRenForce/buffer", "RoboRenForce.components.actor"),
    ("RoboRenForce/data", "RoboRenForce.buffer.rollout"),
    ("RoboRenForce/components", "RoboRenForce.algorithms.algorithm"),
    ("RoboRenForce/algorithms", "RoboRenForce.runners.trainer"),
    ("RoboRenForce/envs", "RRF_gym_tasks"),
    ("RoboRenForce/runners", "mujoco"),
    ("RoboRenForce/networks", "transformers"),
    ("RRF_gym_tasks", "RRF_mjlab_tasks"),
    ("RRF_mjlab_tasks", "RRF_gym_tasks"),
    ("RRF_d4rl_tasks", "RRF_gym_tasks"),
    ("RoboRenForce/buffer", "h5py"),
    ("RoboRenForce/data", "pyarrow"),
    ("RoboRenForce/data", "RoboRenForce.buffer.rollout"),
    ("RoboRenForce/data", "RoboRenForce.algorithms.algorithm"),
]


@pytest.mark.parametrize(("package", "imported"), VIOLATIONS, ids=lambda value: value)
def test_a_planted_violation_is_found(copies: Path, package: str, imported: str):
    planted = copies / package / "planted.py"
    planted.write_text(f"from typing import TYPE_CHECKING\n\nif TYPE_CHECKING:\n    import {imported}\n")
    try:
        done = run_linter([copies])
    finally:
        planted.unlink()
    assert done.returncode == 1, done.stdout[-3000:]
    assert "planted" in done.stdout


def test_a_module_outside_of_the_layers_is_found(copies: Path):
    planted = copies / "RoboRenForce" / "helpers.py"
    planted.write_text("")
    try:
        done = run_linter([copies])
    finally:
        planted.unlink()
    assert done.returncode == 1
    assert "helpers" in done.stdout


BLOCKED = f"""
import importlib, pkgutil, sys

class Hiding:
    # A finder that does not see the packages; everything else is left to the finder it wraps.
    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {SIMULATORS + EXTRAS!r}:
            return None
        return self.finder.find_spec(name, path, target)

    def __getattr__(self, name):
        return getattr(self.finder, name)

sys.meta_path[:] = [Hiding(finder) for finder in sys.meta_path]
"""


def test_every_module_of_the_core_is_imported_without_any_simulator_or_extra():
    code = BLOCKED + (
        "import RoboRenForce\n"
        "names = [module.name for module in pkgutil.walk_packages(RoboRenForce.__path__, 'RoboRenForce.')]\n"
        "for name in names:\n"
        "    if not name.endswith('__main__'):\n"
        "        importlib.import_module(name)\n"
        "print(len(names))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout) >= sum(1 for _ in PACKAGES["RoboRenForce"].rglob("*.py")) // 2


def core_test_files() -> list[str]:
    """The test files that name neither a task package nor a script; those about other processes start new ones."""
    packages = {path.parent.name for path in PACKAGES["RoboRenForce"].glob("*/__init__.py")}
    files = [file for file in ROOT.glob("tests/*/**/test_*.py") if file.relative_to(ROOT).parts[1] in packages]
    others = ("RRF_", "scripts/", "doc_pages", "subprocess")
    return [str(file) for file in sorted(files) if not any(word in file.read_text(encoding="utf-8") for word in others)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "said"), [(["--collect-only"], " tests"), pytest.param([], " passed", marks=pytest.mark.long)]
)
def test_the_tests_of_the_core_need_no_simulator_and_no_extra(options: list[str], said: str):
    files = core_test_files()
    assert len(files) >= 15
    code = BLOCKED + (
        "import pytest\n"
        "sys.exit(pytest.main(['-q', '-x', '-p', 'no:cacheprovider', '-p', 'no:xdist', '-m', "
        f"'not slow and not learning and not gpu and not long', *{options + files!r}]))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stdout[-4000:]
    assert said in done.stdout
