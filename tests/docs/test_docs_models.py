"""The snippets of the pages on VLA models run as written."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.contract
ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("page", ["vla/models.md", "adding/backbone.md"])
def test_snippets_run(page, tmp_path):
    pytest.importorskip("transformers")
    pytest.importorskip("peft")
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
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
