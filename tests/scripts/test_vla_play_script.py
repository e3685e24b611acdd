"""`scripts/vla/play.py` takes the options of `rrf play`, and a mistake is one sentence."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.contract
SCRIPT = Path(__file__).parents[2] / "scripts" / "vla" / "play.py"


@pytest.mark.parametrize(
    ("argv", "message"),
    [(["--execution", "rtc", "--episodes", "3"], "no run"), (["--execution", "all"], "temporal_ensemble")],
)
def test_a_mistake_is_one_sentence(
    tmp_path: Path, argv: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), "--log_root", str(tmp_path), *argv])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    shown = capsys.readouterr()
    assert ended.value.code == 1 and message in (shown.out + shown.err).lower()
