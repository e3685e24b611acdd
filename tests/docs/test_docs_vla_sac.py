"""The pages about off-policy learning of VLA policies: their commands run one after another, with less to do."""

from __future__ import annotations

from pathlib import Path

import pytest
from doc_pages import ROOT, Workplace, commands_of, found_run

pytest.importorskip("RRF_tabletop_tasks")
pytest.importorskip("pyarrow")
pytest.importorskip("av")
pytestmark = pytest.mark.contract

SIZE = {
    "collect_demos": ["--num_episodes", "3", "--images"],
    "BC": [
        "epochs=null",
        "updates_per_iteration=2",
        "loader.batch_size=4",
        "loader.num_workers=0",
        "validation_interval=0",
    ],
    "RL": ["env.num_envs=2", "num_steps_per_env=12", "algorithm.learner.learning_starts=8", "eval_interval=0"],
    "play": ["--episodes", "2", "--num_envs", "2", "--steps", "3", "--device", "cpu"],
}
SHORT = ["--max_iterations", "1", "report=false"]


def test_the_pages_of_vla_sac_and_dsrl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pages = [ROOT / "docs/algorithms/vla_sac.md", ROOT / "docs/algorithms/dsrl.md"]
    place = Workplace(tmp_path, pages[0], monkeypatch)
    ran = []
    for command in [command for page in pages for command in commands_of(page)]:
        words, kind = list(command.words), command.verb
        if kind == "train":
            kind = "BC" if words[3].endswith("-BC") else "RL"
            words = [found_run(tmp_path, word) if "init_from" in word else word for word in words] + SHORT
        elif not kind:
            kind = "collect_demos"
        assert place.run(*words, *SIZE[kind]) == 0, command
        ran.append(kind)
    assert ran == ["collect_demos", "BC", "RL", "play", "collect_demos", "RL", "BC", "RL", "play"]
    assert len(list((tmp_path / "logs").rglob("*.mp4"))) == 2
