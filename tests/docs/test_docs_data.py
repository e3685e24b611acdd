"""The pages about recorded data: snippets run, and so do the commands about what they recorded."""

from __future__ import annotations

from pathlib import Path

import pytest
from doc_pages import ROOT, Workplace, commands_of, snippets_of

pytest.importorskip("pyarrow")

pytestmark = pytest.mark.contract


def test_the_data_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = ROOT / "docs/vla/data.md"
    place = Workplace(tmp_path, page, monkeypatch)
    place.import_text("data_page", snippets_of(page))
    ran = 0
    for command in commands_of(page):
        if "data/blocks" in command.words:
            assert place.run(*command.words) == 0, command
            ran += 1
    assert ran == 2 and "Nothing is wrong with it" in (tmp_path / "blocks.html").read_text()


def test_the_page_about_formats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = ROOT / "docs/adding/dataset.md"
    Workplace(tmp_path, page, monkeypatch).import_text("dataset_page", snippets_of(page))
