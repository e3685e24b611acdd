"""SAC with a memory on a GPU: sequences are drawn, and the memory of acting advances, inside the captured steps."""

import itertools

import pytest
import torch
from RoboRenForce import algorithms, components, networks
from RoboRenForce.buffer import SequenceReplayBufferCfg
from RoboRenForce.envs.spec import ActionSpec, EnvSpec
from RoboRenForce.utils.cuda_graph import GraphedStep
from test_sac_cuda_graph import ACTIONS, DEVICE, ENVS, iterate, tape

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

ENCODERS = ["none", "stack", "gru", "lstm", "transformer"]


def make(encoder: str, **options) -> algorithms.SAC:
    spec = EnvSpec(
        "synthetic", ENVS, {"policy": (17,)}, ActionSpec("continuous", ACTIONS), 100, ("final_observations",)
    )
    mlp = networks.MLPCfg(hidden_features=[32])
    policy = components.HistoryActorQPackCfg(
        actor_cfg=components.TanhGaussianActorCfg(backbone_cfg=mlp),
        critic_cfg=components.QNetworkCfg(backbone_cfg=mlp),
        history_encoder=encoder,
        history_size=16,
        history_heads=2,
        history_window=4,
    )
    torch.manual_seed(0)
    replay = SequenceReplayBufferCfg(capacity=1600, length=8, burn_in=2)
    defaults = {"replay": replay, "batch_size": 16, "learning_starts": 64, "precision": "fp32"}
    context = algorithms.RunContext(spec=spec, device=DEVICE)
    return algorithms.SACCfg(**(defaults | options)).build(policy=policy, context=context)


def run(encoder: str, steps: int, **options) -> tuple[list[torch.Tensor], algorithms.SAC]:
    algorithm, taken = make(encoder, **options), list(tape(steps))
    torch.manual_seed(2)
    for before, after in itertools.pairwise(taken):
        iterate(algorithm, before[0], after)
    learned = [p.detach().clone() for p in algorithm.networks.parameters()]
    return [*learned, *algorithm.collector.policy_state.state_dict().values()], algorithm


@pytest.mark.parametrize("encoder", ENCODERS)
def test_captured_equals_eager(encoder):
    eager, _ = run(encoder, 30, cuda_graph="off", compile="off")
    captured, algorithm = run(encoder, 30, cuda_graph="on", compile="off")
    for step in [algorithm.collector._act_step, algorithm.experience.store_step, *algorithm.updates.graphs.values()]:
        assert isinstance(step, GraphedStep)
        assert step.captured, step.name
    for a, b in zip(eager, captured, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("encoder", ["gru", "transformer"])
def test_nothing_waits_for_the_host(encoder):
    algorithm, taken = make(encoder, compile="off"), list(tape(30))
    for index in range(20):
        iterate(algorithm, taken[index][0], taken[index + 1])
    torch.cuda.set_sync_debug_mode("error")
    try:
        for index in range(20, 30):
            metrics = iterate(algorithm, taken[index][0], taken[index + 1])
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert metrics["Policy/alpha"].item() > 0
