"""The packages install by themselves, and the core works alone."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

pytestmark = pytest.mark.package

ROOT = Path(__file__).parents[2]


def run(*command: str | Path, cwd: Path | None = None) -> str:
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, cwd=cwd, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def clean_venv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with the core alone: neither our source tree nor our tasks are visible in it."""
    folder = tmp_path_factory.mktemp("clean")
    source, python = folder / "source", folder / "venv/bin/python"
    unwanted = shutil.ignore_patterns("__pycache__", "*.egg-info", "build")
    shutil.copytree(ROOT / "source/RoboRenForce", source, ignore=unwanted)
    uv = shutil.which("uv")
    run(*([uv, "venv", "--python", sys.executable] if uv else [sys.executable, "-m", "venv"]), folder / "venv")
    # Downloading PyTorch again would show nothing new: the packages of the running interpreter are lent to the new one,
    # without the .pth files that lead to our source tree.
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    lent = Path(pytest.__file__).parents[1]
    (site / "lent.pth").write_text(f"import sys; sys.path.insert(1, {str(lent)!r})\n")
    pip = [uv, "pip", "install", "--python", python] if uv else [python, "-m", "pip", "install"]
    run(*pip, "--no-deps", "--no-build-isolation", "--no-index", source)
    return python


@pytest.mark.slow
def test_the_core_installs_alone_and_imports_from_the_installed_place(clean_venv: Path, tmp_path: Path):
    code = (
        "import RoboRenForce, importlib.metadata as metadata\n"
        "from RoboRenForce import configclass, runners, algorithms, components, networks\n"
        "print(RoboRenForce.__file__, RoboRenForce.__version__, metadata.version('RoboRenForce'))\n"
    )
    file, version, recorded = run(clean_venv, "-I", "-c", code, cwd=tmp_path).split()
    assert "site-packages" in file
    assert str(ROOT) not in file
    assert version == recorded


@pytest.mark.slow
def test_the_installed_core_ships_its_type_marker_and_every_module(clean_venv: Path, tmp_path: Path):
    folder = Path(
        run(clean_venv, "-I", "-c", "import RoboRenForce; print(RoboRenForce.__path__[0])", cwd=tmp_path).strip()
    )
    original = ROOT / "source/RoboRenForce/RoboRenForce"
    shipped = {path.relative_to(folder) for path in folder.rglob("*.py")}
    written = {path.relative_to(original) for path in original.rglob("*.py")}
    assert shipped == written
    assert (folder / "py.typed").is_file()


@pytest.mark.slow
def test_the_console_command_answers(clean_venv: Path, tmp_path: Path):
    assert "train" in run(clean_venv.parent / "rrf", "--help", cwd=tmp_path)


@pytest.mark.parametrize("file", sorted(ROOT.glob("source/**/pyproject.toml")), ids=lambda file: file.parent.name)
def test_every_package_declares_what_the_issue_asks_for(file: Path):
    project = tomllib.loads(file.read_text())["project"]
    assert project["requires-python"] == ">=3.11"
    assert project["license"] == "BSD-3-Clause"
    assert project["name"] == file.parent.name
    if project["name"] != "RoboRenForce":
        assert any(requirement.startswith("RoboRenForce") for requirement in project["dependencies"])
        assert "roborenforce.tasks" in project["entry-points"]


def test_constraints_hold_names_and_versions_only():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    assert lines == sorted(set(lines))
    for line in lines:
        name, _, version = line.partition("==")
        assert name.replace("-", "").replace(".", "").isalnum(), line
        assert version[0].isdigit(), line
        assert "+" not in version, line
