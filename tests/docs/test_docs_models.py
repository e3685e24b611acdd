"""The snippets of the pages on models of VLA policies run as written."""

from __future__ import annotations

from pathlib import Path

import pytest
from doc_pages import ROOT, Workplace, snippets_of

pytestmark = pytest.mark.contract


@pytest.mark.parametrize("name", ["vla/models", "vla/models/pi05", "adding/backbone"])
def test_snippets_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("transformers")
    pytest.importorskip("peft")
    page = ROOT / f"docs/{name}.md"
    Workplace(tmp_path, page, monkeypatch).import_text(f"{page.stem}_page", snippets_of(page))
