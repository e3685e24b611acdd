"""Off-policy learners of frozen policies on a GPU: encoding, chunks, storing and the update as graphs, or eagerly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import frozen_runs as runs
import pytest
import torch
from frozen_runs import algorithm_cfg, collect
from RoboRenForce.algorithms import RunContext
from RoboRenForce.algorithms.vla_rl import DSRLCfg, VLASACCfg

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

CASES: dict[str, tuple[Any, dict[str, Any]]] = {
    "residual": (VLASACCfg, {}),
    "start noise": (DSRLCfg, {}),
    "aliased": (DSRLCfg, {"aliased": True}),
}


@pytest.mark.parametrize("case", CASES)
def test_captured_equals_eager(case: str, tmp_path: Path) -> None:
    kind, options = CASES[case]
    found: list[list[torch.Tensor]] = []
    cfg = algorithm_cfg(tmp_path, kind, runs.FLOW, **options)
    for mode in ("off", "on"):
        cfg.learner = runs.sac(cuda_graph=mode, compile="off", precision="fp32")
        env = runs.env_cfg(device="cuda:0").build()
        torch.manual_seed(0)
        context = RunContext(spec=env.spec, device=torch.device("cuda:0"), max_updates=100)
        built = cfg.build(policy=runs.policy_cfg(runs.FLOW), context=context)
        built.add_instructions(env.instruction_table.values())
        built.train()
        torch.manual_seed(1)
        taken = collect(built, env, 20)
        actions = [transition.action for transition in taken]
        found.append([*actions, *(parameter.detach().clone() for parameter in built.learner.networks.parameters())])
        built.close()
    for eager, captured in zip(*found, strict=True):
        torch.testing.assert_close(captured, eager, rtol=1e-3, atol=1e-4)
