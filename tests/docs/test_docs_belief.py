"""The page about beliefs: its snippet pre-trains a belief and trains SAC on it."""

from __future__ import annotations

from pathlib import Path

import pytest
from doc_pages import ROOT, Workplace, snippets_of

pytest.importorskip("RRF_gym_tasks")

pytestmark = pytest.mark.contract


def test_the_snippet_hands_a_belief_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    page = ROOT / "docs/algorithms/belief_flow.md"
    Workplace(tmp_path, page, monkeypatch).import_text("belief_page", snippets_of(page))
    assert (tmp_path / "logs/RFRL/belief/model_3.pt").is_file()
    assert (tmp_path / "logs/RFRL/sac_on_belief/model_1.pt").is_file()
