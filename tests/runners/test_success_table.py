"""Success by instruction: counted with the episode's own instruction, printed, and in the report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from RoboRenForce.envs import MultiModalCfg, ScriptedEnvCfg
from RoboRenForce.envs.scripted_env import ScriptedEnv
from RoboRenForce.runners import evaluate
from RoboRenForce.runners.success_table import success_table
from RoboRenForce.utils.report import read_evaluation, write_report
from RoboRenForce.utils.run_dir import RunDir
from RoboRenForce.utils.success_rate import SuccessRate
from small_runs import ZeroPolicy
from tensordict import TensorDict
from torch import Tensor

pytestmark = pytest.mark.contract


class Asking(ScriptedEnv):
    """Even episodes ask for one thing, odd ones for another, and only the first kind succeeds in row 0."""

    def __init__(self, cfg: Any) -> None:
        super().__init__(cfg)
        self.spec = type(self.spec).from_dict(self.spec.to_dict() | {"extras": [*self.spec.extras, "instruction"]})

    def _texts(self) -> list[str]:
        return [("even", "odd")[int(episode) % 2] for episode in self._episodes]

    def reset(self, *, seed: int | None = None) -> Any:
        obs, extras = super().reset(seed=seed)
        return obs, {**extras, "instruction": self._texts()}

    def step_rows(self, actions: Tensor, active: Tensor, *, draw: bool = True) -> Any:
        obs, rewards, dones, extras = super().step_rows(actions, active, draw=draw)
        return obs, rewards, dones, {**extras, "instruction": self._texts()}


class Idle(ZeroPolicy):
    def forward(self, obs: TensorDict) -> Tensor:
        return torch.zeros(len(obs), *self.shape)


def evaluated(chunk: int) -> Any:
    script = [["terminated@6", "time_out@5"], ["time_out@3"]]
    chain = MultiModalCfg(proprio=["policy"], chunk_size=chunk)
    env = ScriptedEnvCfg(class_type=Asking, num_envs=2, script=script, extras=["success"], multi_modal=chain).build()
    return evaluate(env, Idle((chunk, 2)), 7, seed=0)


@pytest.mark.parametrize("chunk", [1, 4])
def test_an_episode_counts_for_the_instruction_that_it_was_given(chunk: int) -> None:
    result = evaluated(chunk)
    # Row 0 plays episodes 0 to 3 (even ones succeed), row 1 episodes 0 to 2 (none does).
    assert result.success_by_instruction == {
        "even": SuccessRate.of([True, True, False, False]),
        "odd": SuccessRate.of([False, False, False]),
    }
    assert result.success == SuccessRate.of([True, True, *[False] * 5]) and result.success_rate == 2 / 7
    assert result.mean_length == (6 + 5 + 6 + 5 + 3 * 3) / 7, "in executed actions, not in chunks"


def test_the_table_is_short_and_begins_with_the_worst() -> None:
    rates = {f"text {index:02d}": SuccessRate.of([i < index for i in range(20)]) for index in range(20)}
    lines = success_table({"deterministic": rates, "sampled": rates})
    assert len(lines) == 14 and "text 00" in lines[1] and lines[-1] == "  and 8 more in eval.json"
    assert lines[1].split()[2:] == ["20", "0%", "[0,", "16]", "0%", "[0,", "16]"]
    assert success_table({"sampled": None}) == success_table({"sampled": {"one": rates["text 01"]}}) == []


def test_the_report_shows_them_and_leaves_out_what_no_evaluation_writes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = RunDir(tmp_path)
    content = json.loads(json.dumps({"deterministic": evaluated(4).to_dict()}))
    content["deterministic"]["success_by_instruction"]["<b>"] = {"rate": 1.0, "low": 0.5, "high": 1.0, "n": 4}
    run.evaluation.write_text(json.dumps(content))
    page = write_report(run).read_text()
    assert "<td>odd<td class=n>0% [0, 56]<td class=n>3" in page and "<td>&lt;b&gt;" in page and "<td><b>" not in page

    for bad in ([], {"odd": 3}, {"odd": {"rate": "<b>", "low": 0, "high": 1, "n": 1}}, {"odd": {"rate": 0.5}}):
        content["deterministic"]["success_by_instruction"] = bad
        run.evaluation.write_text(json.dumps(content))
        caplog.clear()
        assert read_evaluation(run.evaluation) == {}
        assert "no evaluation writes" in caplog.text
