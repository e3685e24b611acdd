"""The snippets of docs/adding/network.md run in their order and print what the page shows."""

import re
from pathlib import Path

import pytest

pytestmark = pytest.mark.contract

PAGE = (Path(__file__).parents[2] / "docs/adding/network.md").read_text(encoding="utf-8")


def _blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)


def test_the_snippets_run_and_print_what_the_page_shows(tmp_path, monkeypatch, capsys):
    # As a file and not by exec: configclass reads annotations from the module that a class is written in.
    (tmp_path / "network_page.py").write_text("\n".join(_blocks("python")), encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    __import__("network_page")
    assert capsys.readouterr().out == "".join(_blocks("text"))


def test_the_files_the_page_names_exist():
    root = Path(__file__).parents[2]
    named = re.findall(r"`(tests/[\w/]+\.py)`", PAGE)
    assert len(named) == 2
    assert all((root / name).is_file() for name in named)
