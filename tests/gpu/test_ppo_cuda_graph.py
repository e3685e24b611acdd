"""PPO on a GPU: captured and eager runs agree, nothing waits for the host, memory does not grow."""

import pytest
import torch
from RoboRenForce import algorithms, components, networks
from RoboRenForce.envs.spec import ActionSpec, EnvSpec
from RoboRenForce.utils.cuda_graph import GraphedStep
from stepping import stepped
from tensordict import TensorDict

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

STEPS, ENVS, ACTIONS = 8, 256, 12
DEVICE = torch.device("cuda:0")


def make(recurrent: bool = False, backbone=None, **options) -> algorithms.PPO:
    spec = EnvSpec(
        "synthetic",
        ENVS,
        {"actor": (48,), "critic": (72,)},
        ActionSpec("continuous", ACTIONS),
        100,
        ("final_observations",),
    )

    def network():
        mlp = networks.MLPCfg(hidden_features=[128, 64], activations="ELU")
        return networks.RNNCfg(hidden_size=32, head_cfg=mlp) if recurrent else mlp

    policy = components.ActorCriticPackCfg(
        actor_cfg=components.StateIndStdActorCfg(backbone_cfg=backbone or network()),
        critic_cfg=components.VNetworkCfg(backbone_cfg=network()),
    )
    torch.manual_seed(0)
    context = algorithms.RunContext(spec=spec, device=DEVICE, rollout_steps=STEPS)
    return algorithms.PPOCfg(**options).build(policy=policy, context=context)


def tape(iterations: int):
    generator = torch.Generator(DEVICE).manual_seed(1)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, device=DEVICE)

    steps = []
    for _ in range(iterations * STEPS + 1):
        obs = TensorDict({"actor": normal(ENVS, 48), "critic": normal(ENVS, 72)}, batch_size=[ENVS])
        done = torch.rand(ENVS, generator=generator, device=DEVICE) < 0.05
        time_outs = done & (torch.rand(ENVS, generator=generator, device=DEVICE) < 0.5)
        steps.append((obs, normal(ENVS), done.long(), time_outs))
    return steps


def iterate(algorithm: algorithms.PPO, steps, iteration: int) -> dict[str, torch.Tensor]:
    for t in range(iteration * STEPS, (iteration + 1) * STEPS):
        out = algorithm.act(steps[t][0])
        obs, reward, done, time_outs = steps[t + 1]
        extras = {"time_outs": time_outs, "final_observations": obs, "terminated": done.bool() & ~time_outs, "log": {}}
        algorithm.process_env_step(stepped(steps[t][0], out, obs, reward, done, extras))
    return algorithm.update()


def run(iterations: int, **options) -> tuple[list[torch.Tensor], algorithms.PPO]:
    algorithm, steps = make(**options), tape(iterations)
    torch.manual_seed(2)
    for iteration in range(iterations):
        iterate(algorithm, steps, iteration)
    return [p.detach().clone() for p in algorithm.networks.parameters()], algorithm


@pytest.mark.parametrize("recurrent", [False, True])
def test_captured_equals_eager_after_five_iterations(recurrent):
    options = {"precision": "fp32", "compile": "off", "recurrent": recurrent}
    eager, _ = run(5, cuda_graph="off", **options)
    captured, algorithm = run(5, cuda_graph="on", **options)
    for step in (algorithm.collector.step, algorithm.rollout.step, algorithm._learn_step):
        assert isinstance(step, GraphedStep), step
        assert step.captured, step.name
    for a, b in zip(eager, captured, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-4, atol=1e-5)


SMOOTH = {
    "caps": [algorithms.CAPSCfg(temporal_weight=0.1, spatial_weight=0.1, max_samples=128)],
    "l2c2": [algorithms.L2C2Cfg(policy_weight=0.1, value_weight=0.01)],
    "lips": [algorithms.LipsCfg(weight=0.05, probes=2)],
    "lcp": [algorithms.LipsCfg(mode="lcp", weight=0.01)],
    "both": [algorithms.CAPSCfg(), algorithms.LipsCfg()],
}


@pytest.mark.parametrize("recurrent", [False, True])
@pytest.mark.parametrize("name", SMOOTH)
def test_smoothness_terms_are_captured_as_they_run_eagerly(name, recurrent):
    options = {"precision": "fp32", "compile": "off", "recurrent": recurrent, "loss_terms": SMOOTH[name]}
    eager, _ = run(4, cuda_graph="off", **options)
    captured, algorithm = run(4, cuda_graph="on", **options)
    assert algorithm._learn_step.captured
    for a, b in zip(eager, captured, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("recurrent", [False, True])
def test_compiled_smoothness_terms_wait_for_nobody_and_hold_their_memory(recurrent):
    algorithm, steps = make(recurrent, loss_terms=[term for terms in SMOOTH.values() for term in terms[:1]]), tape(6)
    for iteration in range(4):
        iterate(algorithm, steps, iteration)
    assert algorithm._learn_step.captured
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.set_sync_debug_mode("error")
    try:
        metrics = iterate(algorithm, steps, 4)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.cuda.synchronize()
    assert torch.cuda.memory_allocated() <= before
    assert all(metrics[f"Loss/{name}"].item() > 0 for name in ("caps", "l2c2", "lips"))


@pytest.mark.parametrize("kind", ["lips_net", "spectral", "filter"])
def test_networks_of_smooth_policies_are_captured(kind):
    mlp = networks.MLPCfg(hidden_features=[64], activations="ELU")
    backbone, term = {
        "lips_net": (networks.LipsNetCfg(net_cfg=mlp), algorithms.LipsCfg(mode="mgn", weight=0.01)),
        "spectral": (networks.SpectralMLPCfg(hidden_features=[64]), algorithms.LipsCfg(mode="spectral")),
        "filter": (networks.FFTFilterCfg(window=4, head_cfg=mlp), algorithms.LipsCfg(filter_weight=1e-4)),
    }[kind]
    options = {"precision": "fp32", "compile": "off", "backbone": backbone, "loss_terms": [term]}
    eager, _ = run(4, cuda_graph="off", **options)
    captured, algorithm = run(4, cuda_graph="on", **options)
    assert algorithm._learn_step.captured and algorithm.collector.step.captured
    for a, b in zip(eager, captured, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-3, atol=1e-4)


def test_compiled_loss_equals_eager():
    # One update at a fixed learning rate: rounding at the edge of a KL threshold must not decide about the comparison.
    eager, _ = run(1, cuda_graph="off", precision="fp32", compile="off", schedule="fixed")
    compiled, _ = run(1, cuda_graph="off", precision="fp32", compile="on", schedule="fixed")
    for a, b in zip(eager, compiled, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-3, atol=1e-4)


def test_nothing_waits_for_the_host():
    algorithm, steps = make(), tape(6)
    for iteration in range(4):  # eager warm-up and capture
        iterate(algorithm, steps, iteration)
    torch.cuda.set_sync_debug_mode("error")
    try:
        metrics = iterate(algorithm, steps, 4)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert metrics["Loss/learning_rate"].item() > 0


def test_memory_does_not_grow():
    algorithm, steps = make(), tape(1)
    for _ in range(5):
        iterate(algorithm, steps, 0)
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    for _ in range(50):
        iterate(algorithm, steps, 0)
    torch.cuda.synchronize()
    assert torch.cuda.memory_allocated() <= before


def test_a_failing_capture_falls_back_and_leaves_other_graphs_working(caplog):
    counter, noise = torch.zeros((), device=DEVICE), torch.zeros(1000, device=DEVICE)
    good = GraphedStep(noise.normal_, DEVICE, "on", "good step")
    for _ in range(4):
        good()
    before = noise.clone()

    def talks_to_the_host() -> None:
        counter.add_(torch.rand((), device=DEVICE) * 0 + 1)
        counter.item()

    step = GraphedStep(talks_to_the_host, DEVICE, "auto", "bad step")
    for _ in range(5):
        step()
    assert counter.item() == 5
    assert "bad step" in caplog.text
    good()  # raises if the failed capture still owns the generator
    assert good.captured
    assert not torch.equal(noise, before)
    assert abs(noise.std().item() - 1) < 0.2
    assert not torch.equal(torch.rand(3, device=DEVICE), torch.rand(3, device=DEVICE))
