"""The snippets of docs/adding/head.md run in their order and print what the page shows."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/adding/head.md").read_text(encoding="utf-8")
pytestmark = pytest.mark.contract


def _blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)


def test_the_snippets_run_and_print_what_the_page_shows(tmp_path, monkeypatch, capsys):
    # As a file and not by exec: configclass reads annotations from the module that a class is written in.
    (tmp_path / "head_page.py").write_text("\n".join(_blocks("python")), encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    __import__("head_page")
    assert capsys.readouterr().out == "".join(_blocks("text"))


def test_the_files_that_the_page_names_exist():
    named = set(re.findall(r"`((?:tests|components|networks)/[\w/]+\.py)`", PAGE))
    core = ROOT / "source/RoboRenForce/RoboRenForce"
    assert len(named) == 5
    assert all(((ROOT if name.startswith("tests") else core) / name).is_file() for name in named)
