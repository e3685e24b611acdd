"""Networks and components on a GPU: no host synchronization, capturable, same numbers as on the CPU."""

import copy

import pytest
import torch
from RoboRenForce import components, networks
from RoboRenForce.envs.spec import ActionSpec, EnvSpec
from tensordict import TensorDict

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

N, T = 64, 8
SPEC = EnvSpec(
    "Toy", N, {"policy": (12,), "cam": (3, 32, 32)}, ActionSpec("continuous", 4), 100, obs_dtypes={"cam": "uint8"}
)
DISCRETE = EnvSpec("Toy", N, {"policy": (12,)}, ActionSpec("discrete", 4), 100)
CNN = networks.CNNCfg(channels=[8, 8], kernel_sizes=4, strides=2, features=16)
MLP = networks.MLPCfg(hidden_features=[64, 32])

ACTORS = {
    "state-independent": (components.StateIndStdActorCfg(backbone_cfg=MLP), SPEC, ["policy"]),
    "images": (components.StateIndStdActorCfg(backbone_cfg=MLP, cnn_cfg=CNN), SPEC, ["policy", "cam"]),
    "tanh": (components.TanhGaussianActorCfg(backbone_cfg=MLP), SPEC, ["policy"]),
    "beta": (components.BetaActorCfg(backbone_cfg=MLP), SPEC, ["policy"]),
    "categorical": (components.CategoricalActorCfg(backbone_cfg=MLP), DISCRETE, ["policy"]),
    "gru": (components.StateIndStdActorCfg(backbone_cfg=networks.RNNCfg(hidden_size=32)), SPEC, ["policy"]),
    "lstm": (
        components.StateIndStdActorCfg(backbone_cfg=networks.RNNCfg(cell="lstm", hidden_size=32)),
        SPEC,
        ["policy"],
    ),
    "transformer": (components.StateIndStdActorCfg(backbone_cfg=networks.TransformerCfg(window=4)), SPEC, ["policy"]),
}
every_actor = pytest.mark.parametrize(("cfg", "spec", "groups"), ACTORS.values(), ids=ACTORS.keys())


@pytest.fixture(autouse=True)
def _full_precision():
    torch.manual_seed(0)
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before
    torch.cuda.set_sync_debug_mode("default")


def _observations(*batch):
    return TensorDict(
        {"policy": torch.randn(*batch, 12), "cam": torch.randint(0, 256, (*batch, 3, 32, 32), dtype=torch.uint8)},
        batch_size=batch,
    )


def _step(actor, obs, state, starts, action):
    """What an update does with an actor: statistics, distribution, losses."""
    actor.update_normalizer(obs)
    distribution, state = actor(obs, state, starts)
    old = {name: value.detach() * 1.01 for name, value in distribution.params.items()}
    return distribution.log_prob(action), distribution.entropy(), distribution.kl_from(old), state


def _inputs(actor):
    batch = (T, N) if actor.is_recurrent else (N,)
    obs = _observations(*batch)
    action = actor(obs)[0].sample()
    state = actor.initial_state(N)
    starts = torch.rand(T, N) < 0.3 if actor.is_recurrent else None
    return obs, state, starts, action


def _to_gpu(*values):
    return [None if value is None else value.cuda() for value in values]


@every_actor
def test_gpu_equals_cpu_in_value_and_gradient(cfg, spec, groups):
    actor = cfg.build(spec=spec, groups=groups)
    inputs = _inputs(actor)
    twin = copy.deepcopy(actor).cuda()
    results = []
    for module, values in ((actor, inputs), (twin, _to_gpu(*inputs))):
        log_prob, entropy, kl, _ = _step(module, *values)
        (log_prob.mean() + entropy.mean() + kl.mean()).backward()
        results.append([log_prob, entropy, kl, *(parameter.grad for parameter in module.parameters())])
    for cpu, gpu in zip(*results, strict=True):
        torch.testing.assert_close(gpu.cpu(), cpu, rtol=1e-3, atol=1e-4)


@every_actor
def test_acting_and_learning_never_wait_for_the_device(cfg, spec, groups):
    actor = cfg.build(spec=spec, groups=groups)
    inputs = _to_gpu(*_inputs(actor))
    actor.cuda()
    _step(actor, *inputs)  # caches and workspaces are made on the first call
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    log_prob, entropy, kl, _ = _step(actor, *inputs)
    (log_prob.mean() + entropy.mean() + kl.mean()).backward()
    actor(inputs[0], inputs[1], inputs[2])[0].sample()


@every_actor
def test_a_captured_step_replays_with_new_data_and_sees_updated_statistics(cfg, spec, groups):
    actor = cfg.build(spec=spec, groups=groups)
    inputs = _to_gpu(*_inputs(actor))
    actor.cuda()
    eager = copy.deepcopy(actor)
    initial = copy.deepcopy(actor.state_dict())
    stream = torch.cuda.Stream()
    with torch.no_grad():
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                _step(actor, *inputs)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured = _step(actor, *inputs)
            captured_sample = actor(inputs[0], inputs[1], inputs[2])[0].sample()
        actor.load_state_dict(initial)  # undo the statistics of the warm-up
        samples = []
        for _ in range(3):
            inputs[0].copy_(_observations(*inputs[0].batch_size).cuda())
            graph.replay()
            samples.append(captured_sample.clone())
            for ours, wanted in zip(captured, _step(eager, *inputs), strict=True):
                if wanted is not None:
                    torch.testing.assert_close(ours, wanted, rtol=1e-4, atol=1e-5)
    assert not torch.equal(samples[0], samples[1])
    for name, value in eager.state_dict().items():
        torch.testing.assert_close(actor.state_dict()[name], value)


def test_gpu_samples_are_those_of_torch_normal():
    mean, std = torch.randn(4096, 12, device="cuda"), torch.rand(12, device="cuda") + 0.1
    torch.manual_seed(3)
    ours = components.DiagGaussian(mean, std).sample()
    torch.manual_seed(3)
    assert torch.equal(ours, torch.normal(mean, std.expand_as(mean)))


def test_reward_and_value_statistics_never_wait_for_the_device():
    scaler, values = components.RewardScaler(N, 0.99).cuda(), components.ValueNormalizer().cuda()
    rewards, dones = torch.randn(T, N).cuda(), (torch.rand(T, N) < 0.1).long().cuda()
    scaler.update(rewards, dones)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    scaler.update(rewards, dones)
    values.update(rewards)
    scaled, normalized = scaler(rewards), values.denormalize(values.normalize(rewards))
    torch.cuda.set_sync_debug_mode("default")
    reference = components.RewardScaler(N, 0.99)
    for _ in range(2):
        reference.update(rewards.cpu(), dones.cpu())
    torch.testing.assert_close(scaled.cpu(), reference(rewards.cpu()))
    torch.testing.assert_close(normalized, rewards, rtol=1e-4, atol=1e-5)
