"""The pages about policy gradients of VLA policies: their commands run one after another, with less to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from doc_pages import ROOT, Workplace, commands_of, found_run
from RoboRenForce.algorithms.vla_rl import GRPOCfg, ReinforcePPCfg, VLAPPOCfg

pytest.importorskip("RRF_tabletop_tasks")
pytest.importorskip("pyarrow")
pytest.importorskip("av")
pytestmark = pytest.mark.contract

SIZE = {
    "collect_demos": ["--num_episodes", "3", "--images"],
    "BC": ["epochs=null", "updates_per_iteration=2", "loader.batch_size=4", "loader.num_workers=0"],
    "GRPO": ["env.num_envs=4", "env.groups.group_size=2", "env.max_episode_length=8"],
    "VLAPPO": ["env.num_envs=2", "num_steps_per_env=2"],
    "play": ["--episodes", "2", "--num_envs", "2", "--steps", "3", "--device", "cpu"],
}
SHORT = ["--max_iterations", "1", "report=false"]


def test_the_commands_of_the_pages_of_grpo_and_ppo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pages = [ROOT / "docs/algorithms/grpo.md", ROOT / "docs/algorithms/vla_ppo.md"]
    place = Workplace(tmp_path, pages[0], monkeypatch)
    ran = []
    for command in [command for page in pages for command in commands_of(page)]:
        words, kind = list(command.words), command.verb
        if kind == "train":
            kind = words[3].rpartition("-")[2]
            words = [found_run(tmp_path, word) if "init_from" in word else word for word in words] + SHORT
        elif not kind:
            kind = "collect_demos"
        more = ["validation_interval=0"] if kind == "BC" else []
        assert place.run(*words, *SIZE[kind], *more) == 0, command
        ran.append(kind)
    assert ran == ["collect_demos", "BC", "GRPO", "play", "VLAPPO", "play"]
    assert len(list((tmp_path / "logs").rglob("*.mp4"))) == 2


def test_the_snippet_of_reinforce_pp_runs() -> None:
    text = (ROOT / "docs/algorithms/reinforce_pp.md").read_text(encoding="utf-8")
    found: dict[str, Any] = {}
    exec(text.split("```python\n")[1].split("```")[0], found)
    assert found["cfg"].algorithm.kl_reward_coef == 0.01


@pytest.mark.parametrize("cfg", [GRPOCfg(), VLAPPOCfg(), ReinforcePPCfg()])
def test_every_option_is_on_a_page(cfg: GRPOCfg | VLAPPOCfg | ReinforcePPCfg) -> None:
    names = ("vla/rl.md", "algorithms/grpo.md", "algorithms/vla_ppo.md", "algorithms/reinforce_pp.md")
    text = "".join((ROOT / "docs" / name).read_text(encoding="utf-8") for name in names)
    hidden = {"class_type", "cuda_graph"}
    assert not [
        name for name in cfg.to_dict() if name not in hidden and f"`{name}" not in text and f"{name}`" not in text
    ]
