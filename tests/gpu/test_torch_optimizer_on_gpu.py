"""A step of AdamW with groups, schedule, clipping and averages asks nothing of the GPU, and is that of the CPU."""

from __future__ import annotations

import copy

import pytest
import torch
from RoboRenForce.components import EMACfg, OptimizerCfg, ParamGroupCfg, ScheduleCfg
from torch import nn

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

CFG = OptimizerCfg(
    learning_rate=1e-2,
    weight_decay=0.1,
    accumulation_steps=2,
    max_grad_norm=0.5,
    groups=[ParamGroupCfg(pattern="2.*", multiplier=0.1)],
    schedule=ScheduleCfg(kind="cosine", warmup_steps=2, total_steps=8),
    ema=EMACfg(decay=0.9),
)


def test_steps_wait_for_nothing_and_equal_those_on_the_cpu() -> None:
    # In double precision: tests before may have allowed TF32, and Adam makes a small gradient's rounding a step.
    host = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 2)).double()
    modules = [host, copy.deepcopy(host).cuda()]
    optimizers = [CFG.build(module) for module in modules]
    batches = [torch.randn(12, 32, 6, dtype=torch.float64) for _ in range(2)]
    batches[0][6] = torch.nan  # the fourth step is skipped
    batches[1] = batches[0].cuda()
    for module, optimizer, data in zip(modules, optimizers, batches, strict=True):
        torch.cuda.set_sync_debug_mode("error" if data.is_cuda else "default")
        try:
            for index, x in enumerate(data):
                optimizer.backward((module(x) - x[:, :2]).square().mean())
                if index % 2:
                    optimizer.step()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    on_host, on_gpu = (optimizer.state_dict() for optimizer in optimizers)
    assert (on_gpu["steps"].item(), on_gpu["skipped"].item()) == (5.0, 1.0)
    torch.testing.assert_close(modules[1].cpu().state_dict(), host.state_dict(), rtol=1e-4, atol=1e-5)
    for name, average in on_host["ema"].items():
        torch.testing.assert_close(on_gpu["ema"][name].cpu(), average, rtol=1e-4, atol=1e-5)
