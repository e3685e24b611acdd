"""The snippets of the page on training VLA policies run as written."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.contract
ROOT = Path(__file__).parents[2]


def test_snippets_run(tmp_path: Path) -> None:
    text = (ROOT / "docs/vla/training.md").read_text(encoding="utf-8")
    code = "\n".join(re.findall(r"^```python\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL))
    (tmp_path / "snippets.py").write_text(code, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "snippets.py"],
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT / "source/RoboRenForce"), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "logs/RFRL/points/first/validation.json").is_file()
