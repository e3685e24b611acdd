"""The benchmark of a PPO step compares equal work: both organizations compute the same gradients."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from RoboRenForce.buffer.transition import Transition
from RoboRenForce.utils.images import resize

pytestmark = pytest.mark.oracle

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
CPU, ROWS, DECISIONS, SIZE = torch.device("cpu"), 3, 2, 64


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module, with those that it imports."""
    pytest.importorskip("transformers")
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return __import__("vla_rl_step")


def simulator() -> Any:
    fake = __import__("fake_simulator")
    return fake.FakeSimulator(num_envs=ROWS, size=SIZE, chunk=8, step_ms=0.0, frames_on=CPU, device=CPU)


def learners(benchmark: Any) -> tuple[Any, Any]:
    """Ours and the peer with the same weights, whose updates are one gradient step."""
    from RoboRenForce.algorithms.vla_rl import VLAPPO

    peer = __import__("rlinf_like").RLinfLikePPO
    policy = benchmark.random_policy(benchmark.policy_cfg("tiny"), CPU)
    options = {"num_learning_epochs": 1, "num_mini_batches": 1, "entropy_coef": 0.01}
    found = []
    for kind in (VLAPPO, peer):
        torch.manual_seed(1)  # the value head's weights
        cfg = benchmark.ppo_cfg(CPU, **options)
        built = benchmark.learner(kind, cfg, copy.deepcopy(policy), simulator().spec, DECISIONS, CPU)
        for parameter in built.value.parameters():
            torch.nn.init.normal_(parameter, std=0.1)
        found.append(built)
    found[1].synchronize()
    return found[0], found[1]


def gradients(learner: Any) -> dict[str, torch.Tensor]:
    """Update, and return the gradients of its one step."""
    found: dict[str, torch.Tensor] = {}
    step = learner.optimizer.step

    def kept() -> Any:
        found.update({name: p.grad.clone() for name, p in learner.optimizer.params.items()})
        return step()

    learner.epochs.optimizer.step = kept
    learner.update()
    return found


def test_both_organizations_compute_the_same_gradients(benchmark: Any) -> None:
    ours, peer = learners(benchmark)
    world, obs = simulator(), simulator().get_observations()
    for _ in range(DECISIONS):  # ours decides, both learn from it
        out, frames = ours.act(obs), {f"obs/{name}": obs[name] for name in peer.collector.groups}
        returned = world.step(out.action)
        ours.process_env_step(Transition.of_step(obs, out.action, out.record, returned))
        record = {name: t for name, t in out.record.items() if not name.startswith("prefix/")} | frames
        peer.process_env_step(Transition.of_step(obs, out.action, record, returned))
        obs = returned[0]
    tokens = peer.rollout.store.take(torch.arange(2))["prefix/tokens"]
    assert tokens.shape[1] == 3 * (4 + 2) + 200 > ours.rollout.store.rows["prefix/tokens"].shape[1]
    expected, found = gradients(ours), gradients(peer)
    assert expected.keys() == found.keys()
    for name, gradient in expected.items():
        assert gradient.any(), name
        torch.testing.assert_close(found[name], gradient, rtol=1e-3, atol=1e-4 * float(gradient.abs().max()), msg=name)


def test_the_peer_acts_with_a_copy_of_the_weights_and_one_noisy_step(benchmark: Any) -> None:
    _, peer = learners(benchmark)
    obs = simulator().get_observations()
    out = peer.act(obs)
    steps = out.record["record/step"]
    assert (steps == steps[0]).all() and out.record["record/step"].device == CPU
    record = {name.removeprefix("record/"): t for name, t in out.record.items() if name.startswith("record/")}
    with torch.no_grad():
        found = peer.model.evaluate(peer.encode(peer.model, obs), record)
    torch.testing.assert_close(found.log_prob, record["log_prob"], rtol=0, atol=1e-5)
    mine, theirs = next(peer.model.head.parameters()), next(peer.acting["policy"].head.parameters())
    with torch.no_grad():
        mine.add_(1.0)
    assert not torch.equal(mine, theirs)
    peer.synchronize()
    assert torch.equal(mine, theirs)


def test_pictures_are_resized_as_ours_are(benchmark: Any) -> None:
    pictures = __import__("rlinf_like").Pictures((32, 48), CPU)
    generator = torch.Generator().manual_seed(0)
    frames = [torch.randint(256, (2, 64, 64, 3), generator=generator, dtype=torch.uint8) for _ in range(2)]
    found = pictures(frames)
    assert found.shape == (2, 3, 32, 48, 3) and not found[:, 2].any()
    for camera, frame in enumerate(frames):
        difference = found[:, camera].int() - resize(frame, (32, 48), "stretch").int()
        assert difference.abs().float().mean() < 0.5  # PIL rounds between its two passes


def test_what_weights_take_is_computed_from_shapes(benchmark: Any) -> None:
    head = benchmark.estimate(benchmark.policy_cfg("tiny"))
    lora = benchmark.estimate(benchmark.policy_cfg("tiny", lora=True))
    assert lora["trained_parameters"] > head["trained_parameters"]
    policy = benchmark.random_policy(benchmark.policy_cfg("tiny"), CPU)
    assert head["parameters"] == sum(parameter.numel() for parameter in policy.parameters())
