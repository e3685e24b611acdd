"""SAC on a GPU: captured and eager runs agree, nothing waits for the host, memory does not grow."""

import itertools

import pytest
import torch
from RoboRenForce import algorithms, components, networks
from RoboRenForce.buffer import PrioritizedReplayBufferCfg, ReplayBufferCfg
from RoboRenForce.envs.spec import ActionSpec, EnvSpec
from RoboRenForce.networks import constrain_
from RoboRenForce.utils.cuda_graph import GraphedStep
from stepping import stepped
from tensordict import TensorDict

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

ENVS, ACTIONS = 16, 6
DEVICE = torch.device("cuda:0")
HEADS = {
    "scalar": components.ScalarHeadCfg(),
    "categorical": components.CategoricalHeadCfg(num_atoms=51, v_min=-20.0, v_max=20.0),
    "gaussian": components.GaussianHeadCfg(),
    "quantile": components.QuantileHeadCfg(num_quantiles=16),
}


RECIPES = {
    "FastTD3": (algorithms.FastTD3Cfg, algorithms.fast_td3_policy),
    "FastSAC": (algorithms.FastSACCfg, algorithms.fast_sac_policy),
    "FlashSAC": (algorithms.FlashSACCfg, algorithms.flash_sac_policy),
}


def build(cfg, policy):
    action = ActionSpec("continuous", ACTIONS, low=(-1.0,) * ACTIONS, high=(1.0,) * ACTIONS)
    spec = EnvSpec("synthetic", ENVS, {"policy": (17,)}, action, 100, ("final_observations",))
    torch.manual_seed(0)
    return cfg.build(policy=policy, context=algorithms.RunContext(spec=spec, device=DEVICE))


def make(head: str = "scalar", **options) -> algorithms.SAC:
    mlp = networks.MLPCfg(hidden_features=[64, 64], activations="ReLU")
    policy = components.ActorQPackCfg(
        actor_cfg=components.TanhGaussianActorCfg(backbone_cfg=mlp),
        critic_cfg=components.QNetworkCfg(backbone_cfg=mlp, head_cfg=HEADS[head]),
    )
    defaults = {
        "replay": ReplayBufferCfg(capacity=1600, n_step=3),
        "batch_size": 64,
        "learning_starts": 64,
        "policy_delay": 2,
        "policy_updates": 2,
        "precision": "fp32",
    }
    return build(algorithms.SACCfg(**(defaults | options)), policy)


def tape(steps: int):
    generator = torch.Generator(DEVICE).manual_seed(1)
    for _ in range(steps + 1):
        obs = TensorDict(
            {"policy": torch.randn(ENVS, 17, generator=generator, device=DEVICE)}, batch_size=[ENVS], device=DEVICE
        )
        done = torch.rand(ENVS, generator=generator, device=DEVICE) < 0.1
        terminated = done & (torch.rand(ENVS, generator=generator, device=DEVICE) < 0.5)
        yield obs, torch.randn(ENVS, generator=generator, device=DEVICE), done.long(), terminated


def iterate(algorithm: algorithms.SAC, obs, following) -> dict[str, torch.Tensor]:
    out = algorithm.act(obs)
    next_obs, reward, done, terminated = following
    extras = {"final_observations": next_obs, "terminated": terminated, "log": {}}
    algorithm.process_env_step(stepped(obs, out, next_obs, reward, done, extras))
    return algorithm.update()


def run(steps: int, **options) -> tuple[list[torch.Tensor], algorithms.SAC]:
    algorithm, taken = make(**options), list(tape(steps))
    torch.manual_seed(2)
    for before, after in itertools.pairwise(taken):
        iterate(algorithm, before[0], after)
    learned = [*algorithm.networks.parameters(), *algorithm.target_critic.parameters()]
    return [p.detach().clone() for p in learned], algorithm


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("gradient_steps", [1, 2])
def test_captured_equals_eager(head, gradient_steps):
    options = {"head": head, "compile": "off", "gradient_steps": gradient_steps}
    eager, _ = run(30, cuda_graph="off", **options)
    captured, algorithm = run(30, cuda_graph="on", **options)
    steps = [algorithm.collector._act_step, algorithm.experience.store_step, *algorithm.updates.graphs.values()]
    assert len(steps) == 2 + (2 if gradient_steps == 1 else 1)
    for step in steps:
        assert isinstance(step, GraphedStep)
        assert step.captured, step.name
    for a, b in zip(eager, captured, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-3, atol=1e-4)


def test_prioritized_updates_are_captured_too():
    replay = PrioritizedReplayBufferCfg(capacity=1600)
    eager, _ = run(30, cuda_graph="off", compile="off", replay=replay)
    captured, algorithm = run(30, cuda_graph="on", compile="off", replay=replay)
    assert all(step.captured for step in algorithm.updates.graphs.values())
    for a, b in zip(eager, captured, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("cfg", [algorithms.SACCfg, algorithms.TD3Cfg])
@pytest.mark.parametrize("compile_", ["off", "on"])
def test_smoothness_terms_are_captured_too(cfg, compile_):
    terms = [algorithms.CAPSCfg(), algorithms.L2C2Cfg(policy_weight=0.1, value_weight=0.1), algorithms.LipsCfg()]
    mlp = networks.MLPCfg(hidden_features=[64, 64], activations="ReLU")
    actor = components.DeterministicActorCfg if cfg is algorithms.TD3Cfg else components.TanhGaussianActorCfg
    options = {"replay": ReplayBufferCfg(capacity=1600), "batch_size": 64, "learning_starts": 64, "precision": "fp32"}
    learned = []
    for mode in ("off", "on"):
        policy = components.ActorQPackCfg(
            actor_cfg=actor(backbone_cfg=mlp), critic_cfg=components.QNetworkCfg(backbone_cfg=mlp)
        )
        learner = build(cfg(**options, compile=compile_, cuda_graph=mode, loss_terms=terms), policy)
        torch.manual_seed(2)
        for before, after in itertools.pairwise(tape(20)):
            metrics = iterate(learner, before[0], after)
        learned.append([p.detach().clone() for p in learner.networks.parameters()])
        assert all(metrics[f"Loss/{name}"] > 0 for name in ("caps", "l2c2", "lips", "l2c2_critic"))
    assert all(step.captured for step in learner.updates.graphs.values())
    if compile_ == "off":  # compiled ones draw other random numbers
        for a, b in zip(*learned, strict=True):
            torch.testing.assert_close(b, a, rtol=1e-3, atol=1e-4)


def test_compiled_losses_equal_eager_ones():
    batch = make(compile="off")
    for before, after in zip(*(lambda taken: (taken[:-1], taken[1:]))(list(tape(20))), strict=True):
        iterate(batch, before[0], after)
    sample, compiled = batch.experience.buffer.sample(), torch.compile(batch.critic_loss)
    with torch.no_grad():  # sampling of a' differs between the two, so compare where it does not count
        sample.discount.zero_()
    eager, _, metrics = batch.critic_loss(sample)
    found, _, found_metrics = compiled(sample)
    torch.testing.assert_close(found, eager, rtol=1e-4, atol=1e-5)
    assert metrics.keys() == found_metrics.keys()


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_are_compiled_and_captured(name, caplog):
    cfg, policy = RECIPES[name]
    options = {"replay": ReplayBufferCfg(capacity=1600), "batch_size": 256, "learning_starts": 64}
    algorithm = build(cfg(**options, compile="on", cuda_graph="on"), policy())
    before, metrics = [p.detach().clone() for p in algorithm.networks.parameters()], {}
    for now, after in itertools.pairwise(tape(14)):
        metrics = iterate(algorithm, now[0], after)
    assert all(step.captured for step in algorithm.updates.graphs.values())
    assert "recompile_limit" not in caplog.text
    moved = [not torch.equal(a, b) for a, b in zip(before, algorithm.networks.parameters(), strict=True)]
    assert sum(moved) > 0.9 * len(moved)
    assert all(torch.isfinite(value) for value in metrics.values()), metrics
    for network in (algorithm.actor, algorithm.critic):
        learned = [p.detach().clone() for p in network.parameters()]
        constrain_(network)  # moves nothing: the captured steps did it
        for a, b in zip(learned, network.parameters(), strict=True):
            torch.testing.assert_close(a, b.detach(), rtol=1e-5, atol=1e-5)


def test_nothing_waits_for_the_host():
    algorithm, taken = make(), list(tape(30))
    for index in range(20):  # warm-up, eager steps and captures
        iterate(algorithm, taken[index][0], taken[index + 1])
    torch.cuda.set_sync_debug_mode("error")
    try:
        for index in range(20, 30):
            metrics = iterate(algorithm, taken[index][0], taken[index + 1])
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert metrics["Policy/alpha"].item() > 0


def test_memory_does_not_grow():
    algorithm, taken = make(), list(tape(2))
    for _ in range(30):
        iterate(algorithm, taken[0][0], taken[1])
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    for _ in range(100):
        iterate(algorithm, taken[0][0], taken[1])
    torch.cuda.synchronize()
    assert torch.cuda.memory_allocated() <= before


def test_a_replay_in_host_memory_feeds_a_learner_on_the_gpu():
    _, algorithm = run(20, replay=ReplayBufferCfg(capacity=1600, device="cpu"), compile="off")
    assert algorithm.num_updates > 0
    assert algorithm.experience.buffer.sample().obs["policy"].device == DEVICE
