"""Dynamics models on a GPU: a captured gradient step has the numbers of the eager one, and MBPO and RWM run with it."""

from __future__ import annotations

import pytest
import torch
from dynamics_cases import episodes, mlp_cfg
from RoboRenForce.algorithms import DynamicsFitCfg, RunContext, SystemDynamicsLearnerCfg
from RoboRenForce.components import SystemDynamicsTransformerCfg
from RoboRenForce.networks import TransformerCfg
from RoboRenForce.utils.registry import load_task

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

DEVICE = torch.device("cuda:0")
TRANSFORMER = SystemDynamicsTransformerCfg(
    num_members=2,
    termination=True,
    history=6,
    forecast=1,
    backbone_cfg=TransformerCfg(dim=16, num_layers=1, num_heads=2, window=4),
)
"""Without a forecast, whose samples a graph draws in another order."""


@pytest.mark.parametrize("model_cfg", [mlp_cfg(termination=True), TRANSFORMER], ids=["mlp", "transformer"])
def test_captured_equals_eager(model_cfg) -> None:
    torch.manual_seed(0)
    data, found = episodes(20, 30), []
    for mode in ("off", "on"):
        torch.manual_seed(1)
        context = RunContext(spec=data.spec(), device=DEVICE, data=data)
        cfg = SystemDynamicsLearnerCfg(fit=DynamicsFitCfg(batch_size=32, max_epochs=2), cuda_graph=mode)
        learner = cfg.build(policy=model_cfg, context=context)
        while not learner.is_finished:
            learner.update()
        assert mode == "off" or learner.fit._step.captured
        found.append([parameter.detach().clone() for parameter in learner.model.parameters()])
        learner.close()
    for eager, captured in zip(*found, strict=True):
        torch.testing.assert_close(captured, eager, rtol=1e-3, atol=1e-4)


def test_the_forecast_of_a_window_is_captured() -> None:
    torch.manual_seed(0)
    data = episodes(20, 30)
    context = RunContext(spec=data.spec(), device=DEVICE, data=data)
    cfg = SystemDynamicsLearnerCfg(fit=DynamicsFitCfg(batch_size=32, max_epochs=2), cuda_graph="on")
    learner = cfg.build(policy=TRANSFORMER.replace(forecast=4), context=context)
    while not learner.is_finished:
        learner.update()
    assert learner.fit._step.captured
    assert all(torch.isfinite(parameter).all() for parameter in learner.model.parameters())
    learner.close()


def test_mbpo_runs_with_its_graphs() -> None:
    task = load_task("RoboRenForce-Gym-Pendulum-MBPO")
    task.apply_overrides(["num_steps_per_env=100", "algorithm.num_rollouts=200", "algorithm.fit.max_epochs=3"])
    task.apply_overrides(["algorithm.learner.learning_starts=100", "algorithm.model_interval=50"])
    task.env_cfg = task.env_cfg.replace(device="cuda:0")
    cfg = task.runner_cfg.replace(logger=[], report=False)
    runner = cfg.build(env=task.env_cfg.build(), device="cuda:0", task=task.id, env_cfg=task.env_cfg)
    runner.learn(3)
    assert runner.algorithm.fit._step.captured
    assert runner.metrics["Model/validation_error"] > 0
    runner.algorithm.close()
