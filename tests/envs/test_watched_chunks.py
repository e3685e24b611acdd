"""Who watches an action chunk is told of every executed action, and nobody else notices."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from RoboRenForce.envs import MultiModalCfg, ScriptedEnvCfg, VecEnvWrapper
from torch import Tensor

pytestmark = pytest.mark.contract


def build(chunk_size: int | None, **options: Any) -> Any:
    chain = MultiModalCfg(proprio=["policy"], instruction="go", chunk_size=chunk_size)
    return ScriptedEnvCfg(num_envs=2, script=[["terminated@3"], ["time_out@6"]], multi_modal=chain, **options).build()


@pytest.mark.parametrize("chunk", [1, 4])
def test_every_executed_action_is_seen_before_it_happens(chunk: int) -> None:
    env = build(chunk)
    scripted: Any = env.unwrapped
    seen: list[tuple[list[bool], list[int]]] = []

    def watcher(executes: Tensor) -> None:
        seen.append((executes.tolist(), scripted.get_observations()["policy"][:, 1].int().tolist()))

    assert VecEnvWrapper(env).watch_chunks(watcher)
    executed = torch.zeros(2, dtype=torch.int64)
    for _ in range(4 // chunk):
        executed += env.step(torch.zeros(2, chunk, 2))[3]["executed_steps"]
    assert [rows for rows, _ in seen][:3] == [[True, True]] * 3
    assert [steps for _, steps in seen][:3] == [[0, 0], [1, 1], [2, 2]]
    assert torch.tensor([rows for rows, _ in seen]).sum(0).tolist() == executed.tolist()
    if chunk == 4:
        assert seen[3] == ([False, True], [0, 3]), "the row that ended waits for the rest of the chunk"

    assert env.watch_chunks(None)
    env.step(torch.zeros(2, chunk, 2))
    assert len(seen) == 4


def test_single_actions_have_nothing_to_watch() -> None:
    assert not build(None).watch_chunks(print)
    assert not ScriptedEnvCfg(script=[["time_out@3"]]).build().watch_chunks(print)
