"""The page about the tabletop tasks: its snippets run, and its commands with less to do."""

from __future__ import annotations

from pathlib import Path

import pytest
from doc_pages import ROOT, Workplace, commands_of, snippets_of

pytest.importorskip("RRF_tabletop_tasks")
pytest.importorskip("pyarrow")
pytest.importorskip("av")
pytestmark = pytest.mark.contract


def test_the_tabletop_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = ROOT / "docs/vla/tabletop.md"
    place = Workplace(tmp_path, page, monkeypatch)
    place.import_text("tabletop_page", snippets_of(page))
    size = {
        "collect_demos": ["--num_episodes", "3", "--images"],
        "train": [
            "--max_iterations",
            "1",
            "epochs=null",
            "updates_per_iteration=2",
            "loader.batch_size=4",
            "report=false",
        ],
        "play": ["--episodes", "2", "--num_envs", "2", "--steps", "3", "--device", "cpu"],
    }
    size["train"] += ["loader.num_workers=0", "validation_interval=0"]
    ran = []
    for command in commands_of(page):
        kind = "collect_demos" if "scripts/data/collect_demos.py" in command.words else command.verb
        if kind in size:
            assert place.run(*command.words, *size[kind]) == 0, command
            ran.append(kind)
    assert ran == ["collect_demos", "train", "play", "play"]
    assert list((tmp_path / "logs").rglob("*.mp4"))
