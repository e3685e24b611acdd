"""The snippets of docs/algorithms/tdmpc2.md run as written, and its numbers are those of the configurations."""

from __future__ import annotations

from pathlib import Path

import pytest
from doc_pages import ROOT, Workplace, snippets_of
from RoboRenForce import algorithms

pytestmark = pytest.mark.contract

PAGE = ROOT / "docs/algorithms/tdmpc2.md"


def test_the_snippets_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = Workplace(tmp_path, PAGE, monkeypatch).import_text("tdmpc2_page", snippets_of(PAGE))
    names["cfg"].validate()


def test_options_are_listed_with_their_defaults() -> None:
    rows = PAGE.read_text(encoding="utf-8").partition("\n## Options\n")[2].split("\n\n")
    table = next(block for block in rows if block.startswith("| Field"))
    listed = 0
    for line in table.splitlines()[2:]:
        fields, *columns = (cell.strip() for cell in line.strip("|").split("|")[:3])
        for cell, cfg in zip(columns, (algorithms.TDMPC2Cfg(), algorithms.TDMPCCfg()), strict=True):
            names, shown = fields.replace("`", "").split(", "), cell.replace("`", "").split(", ")
            for name, text in zip(names, shown * (len(names) if len(shown) == 1 else 1), strict=True):
                value = cfg
                for part in name.split("."):
                    value = getattr(value, part)
                plain = {"none": None, "true": True, "false": False}
                expected = plain[text] if text in plain else text if isinstance(value, str) else float(text)
                assert value == expected, (name, value, text)
                listed += 1
    assert listed > 30
