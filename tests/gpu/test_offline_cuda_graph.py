"""Offline learners on a GPU: captured and eager runs agree, nothing waits for the host."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from offline_cases import recorded, spec
from RoboRenForce import algorithms, components, networks
from RoboRenForce.utils.cuda_graph import GraphedStep

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

DEVICE = torch.device("cuda:0")
MLP = networks.MLPCfg(hidden_features=[64, 64], activations="ReLU")
CRITIC = components.QNetworkCfg(backbone_cfg=MLP)
NORMAL = components.StateIndStdActorCfg(backbone_cfg=MLP, use_log_std=True)
SQUASHED = components.ActorQPackCfg(actor_cfg=components.TanhGaussianActorCfg(backbone_cfg=MLP), critic_cfg=CRITIC)
FIXED = components.ActorQPackCfg(actor_cfg=components.DeterministicActorCfg(backbone_cfg=MLP), critic_cfg=CRITIC)
RUNS: dict[str, tuple[Any, Any]] = {
    "bc": (algorithms.BCCfg, components.ActorPackCfg(actor_cfg=NORMAL)),
    "iql": (algorithms.IQLCfg, components.ActorQVPackCfg(actor_cfg=NORMAL, critic_cfg=CRITIC)),
    "cql": (algorithms.CQLCfg, SQUASHED),
    "cql_lagrange": (lambda **options: algorithms.CQLCfg(target_gap=1.0, **options), SQUASHED),
    "td3_bc": (algorithms.TD3BCCfg, FIXED),
    "rebrac": (algorithms.ReBRACCfg, FIXED),
}


def make(name: str, **options: Any) -> Any:
    algorithm, policy = RUNS[name]
    torch.manual_seed(0)
    context = algorithms.RunContext(spec=spec(), device=DEVICE, data=recorded(), max_updates=100)
    return algorithm(batch_size=64, precision="fp32", **options).build(policy=policy, context=context)


def learned(name: str, **options: Any) -> tuple[list[torch.Tensor], Any]:
    algorithm = make(name, **options)
    torch.manual_seed(2)
    for _ in range(20):
        algorithm.update()
    return [p.detach().clone() for p in algorithm.networks.parameters()], algorithm


@pytest.mark.parametrize("name", RUNS)
def test_captured_equals_eager(name: str) -> None:
    eager, _ = learned(name, cuda_graph="off", compile="off")
    captured, algorithm = learned(name, cuda_graph="on", compile="off")
    for step in algorithm.updates.graphs.values():
        assert isinstance(step, GraphedStep) and step.captured, step.name
    for a, b in zip(eager, captured, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", RUNS)
def test_nothing_waits_for_the_host(name: str) -> None:
    algorithm = make(name)
    for _ in range(12):  # eager steps, compilation and captures
        algorithm.update()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(10):
            metrics = algorithm.update()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(torch.isfinite(value) for value in metrics.values())
