"""SAPG and EPO in two processes: one set of weights, one population."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing as mp
from RoboRenForce.utils.distributed import DistributedContext
from test_sapg import built, collect, environment, epo

pytestmark = pytest.mark.oracle


def _process(rank: int, folder: Path) -> None:
    torch.distributed.init_process_group("gloo", f"file://{folder / 'store'}", rank=rank, world_size=2)
    context = DistributedContext(rank, rank, 2)
    env = environment(12, 6)
    env.reset(seed=100 * rank)
    cfg = epo(rule="aggressive", num_elites=3, mutation=0.5)
    learner: Any = built(cfg, env, distributed=context)
    torch.manual_seed(50 + rank)  # from here on processes draw different numbers
    for _ in range(6):
        collect(learner, env)
        learner.update()
    found = {
        "weights": [parameter.detach().clone() for parameter in learner.optimizer.params],
        "moments": learner.optimizer.state_dict()["moments"],
        "generations": learner.evolution.generations,
        "obs": learner.buffer.obs["policy"].clone(),
    }
    torch.save(found, folder / f"{rank}.pt")
    context.close()


def test_two_processes_stay_one_population(tmp_path: Path) -> None:
    mp.start_processes(_process, (tmp_path,), nprocs=2, start_method="fork")
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    assert not torch.equal(first["obs"], second["obs"]) and first["generations"] > 0
    for name in ("weights", "generations", "moments"):
        torch.testing.assert_close(first[name], second[name], rtol=0, atol=0)
