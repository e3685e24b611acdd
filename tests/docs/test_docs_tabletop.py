"""The page about the tabletop tasks: its snippets run, and so does the recording."""

from __future__ import annotations

from pathlib import Path

import pytest
from doc_pages import ROOT, Workplace, commands_of, snippets_of

pytest.importorskip("RRF_tabletop_tasks")
pytest.importorskip("pyarrow")
pytestmark = pytest.mark.contract


def test_the_tabletop_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = ROOT / "docs/vla/tabletop.md"
    place = Workplace(tmp_path, page, monkeypatch)
    place.import_text("tabletop_page", snippets_of(page))
    record = next(command for command in commands_of(page) if "scripts/data/collect_demos.py" in command.words)
    assert place.run(*record.words, "--num_episodes", "2") in (0, None)
    assert (tmp_path / "data/reach/meta/info.json").is_file()
