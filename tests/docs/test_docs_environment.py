"""The snippets of docs/adding/environment.md run in their order and print what the page shows; its commands run too."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mujoco")

pytestmark = pytest.mark.contract

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/adding/environment.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)


def test_the_snippets_run_and_print_what_the_page_shows(tmp_path):
    # As a file and not by exec: configclass reads annotations from the module that a class is written in.
    page = tmp_path / "environment_page.py"
    page.write_text("\n".join(blocks("python")), encoding="utf-8")
    result = subprocess.run([sys.executable, str(page)], capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    shown = "".join(blocks("text")).splitlines()
    printed = [line for line in result.stdout.splitlines() if not line.startswith("Learning iteration")]
    assert printed == shown


@pytest.mark.parametrize("command", "".join(blocks("bash")).splitlines())
def test_the_commands_run(command, tmp_path):
    program, *arguments = shlex.split(command)
    assert program == "python"
    arguments[0] = str(ROOT / arguments[0])
    result = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "Training is done" in result.stdout


def test_every_extra_and_capability_of_the_contract_is_on_the_page():
    from RoboRenForce.envs import ALWAYS_IN_EXTRAS, check_vec_env

    module = sys.modules[check_vec_env.__module__]
    for name in (*ALWAYS_IN_EXTRAS, *module._KNOWN_EXTRAS, *module._CAPABILITIES):
        assert f"`{name}" in PAGE, name
