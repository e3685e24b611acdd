"""SAC on the features of a frozen policy: what is stored, what is computed, what moves, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import frozen_runs as runs
import pytest
import torch
from frozen_runs import algorithm_cfg, collect, learner, policy_cfg
from RoboRenForce.algorithms import SACCfg
from RoboRenForce.algorithms.vla_rl import DSRLCfg, StartNoiseCfg, VLASACCfg, equal_rewards
from RoboRenForce.algorithms.vla_rl.prefix_features import PrefixFeatures
from RoboRenForce.buffer import ReplayBufferCfg
from RoboRenForce.components.action_heads import DiffusionHeadCfg
from RoboRenForce.envs import MultiModalCfg
from RoboRenForce.runners import VLASACRunnerCfg
from RoboRenForce.utils.errors import CheckpointError, ConfigError, SpecMismatch

CASES = {"residual": (VLASACCfg, runs.REGRESSION), "residual of a flow": (VLASACCfg, runs.FLOW)} | {
    "start noise": (DSRLCfg, runs.FLOW)
}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Any, Any]:
    kind, head = CASES[request.param]
    return algorithm_cfg(tmp_path, kind, head), head


@pytest.mark.oracle
def test_features_of_the_replay_are_those_of_the_observations(case: Any) -> None:
    cfg, head = case
    built, env = learner(cfg, head)
    taken = collect(built, env, 12)
    # Features of every observation, encoded anew -> those of its true successor, None where nothing is bootstrapped.
    successor: dict[bytes, Any] = {}
    for transition in taken[:-1]:
        before, after = built.features(transition.obs).features, built.features(transition.next_obs).features
        for row in range(runs.ENVS):
            successor[before[row].numpy().tobytes()] = None if transition.terminated[row] else after[row]
    batch = built.learner.experience.sample()
    ended = 0
    for row in range(len(batch.reward)):
        expected = successor[batch.obs["features"][row].numpy().tobytes()]
        assert (expected is None) == (batch.discount[row] == 0)
        ended += expected is None
        if expected is not None:  # rows of a cut episode are encoded in another batch
            torch.testing.assert_close(batch.next_obs["features"][row], expected)
    assert 0 < ended < len(batch.reward)


@pytest.mark.contract
def test_an_observation_is_encoded_once(case: Any) -> None:
    cfg, head = case
    built, env = learner(cfg, head)
    encoded: list[int] = []
    built.model.backbone.register_forward_hook(lambda *args: encoded.append(len(args[-1].tokens)))
    taken = collect(built, env, 10)
    cut = [int(transition.time_outs.sum()) for transition in taken]
    assert sum(cut) and sum(encoded) == runs.ENVS * 11 + sum(cut)


@pytest.mark.contract
def test_frozen_weights_stay_and_the_actor_learns(case: Any) -> None:
    cfg, head = case
    built, env = learner(cfg, head)
    before = {name: tensor.clone() for name, tensor in built.model.state_dict().items()}
    actor = [tensor.clone() for tensor in built.learner.actor.parameters()]
    collect(built, env, 12)
    assert built.learner.num_updates
    for name, tensor in built.model.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert not any(parameter.requires_grad for parameter in built.model.parameters())
    assert any(not torch.equal(old, new) for old, new in zip(actor, built.learner.actor.parameters(), strict=True))


@pytest.mark.oracle
@pytest.mark.parametrize("head", [runs.REGRESSION, runs.FLOW], ids=["regression", "flow"])
def test_corrections_are_added_to_the_chunk_of_the_frozen_policy(tmp_path: Path, head: Any) -> None:
    built, env = learner(algorithm_cfg(tmp_path, head=head), head)
    seen = built.features(env.get_observations())
    if head is runs.FLOW:
        wanted = built.model.head.sample(seen.prefix, torch.zeros(runs.ENVS, runs.CHUNK, 2))
    else:
        wanted = built.model.head.act(seen.prefix)[0]
    wanted = wanted[:, : runs.EXECUTED]
    in_units = built.model.preprocessing.env_actions
    state = built.model.raw_state(seen.prefix)
    latent = torch.empty(runs.ENVS, runs.EXECUTED * 2).uniform_(-1, 1)
    same = built.features.env_actions(torch.zeros_like(latent), seen)
    torch.testing.assert_close(same, in_units(wanted, state))
    moved = built.features.env_actions(latent, seen)
    torch.testing.assert_close(moved, in_units(wanted + 0.5 * latent.view_as(wanted), state))
    chunk = wanted + 0.5 * latent.view_as(wanted)
    torch.testing.assert_close(built.features.actions.latent(chunk, seen.context), latent, rtol=1e-4, atol=1e-5)
    far = built.features.actions.latent(chunk + 10, seen.context)
    assert torch.equal(far, torch.ones_like(far))


@pytest.mark.contract
@pytest.mark.parametrize("slope", [0.0, 1.0])
def test_the_same_reward_for_every_action_is_said_once(
    case: Any, slope: float, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(equal_rewards, "PATIENCE", 3)
    algorithm, head = case
    env = runs.env_cfg().build()
    step = env.step

    def rewarded(action: Any) -> Any:
        obs, reward, done, extras = step(action)
        rewards = (slope * torch.arange(runs.ENVS)).unsqueeze(1).expand_as(extras["chunk_rewards"])
        return obs, reward, done, {**extras, "chunk_rewards": rewards}

    monkeypatch.setattr(env, "step", rewarded)
    cfg = VLASACRunnerCfg(
        num_steps_per_env=5,
        max_iterations=6,
        logger=[],
        report=False,
        policy=policy_cfg(head),
        algorithm=algorithm,
    )
    cfg.build(env=env).learn()
    told = [entry.message for entry in caplog.records if "has got the same reward for 3 iterations" in entry.message]
    assert len(told) == (slope == 0.0)


@pytest.mark.contract
def test_a_run_that_was_interrupted_goes_on_bit_for_bit(case: Any, tmp_path: Path) -> None:
    algorithm, head = case

    def runner(name: str) -> Any:
        cfg = VLASACRunnerCfg(
            num_steps_per_env=5,
            max_iterations=4,
            logger=[],
            report=False,
            policy=policy_cfg(head),
            algorithm=algorithm,
        )
        return cfg.build(env=runs.env_cfg().build(), log_dir=tmp_path / name)

    whole = runner("whole")
    whole.learn()
    half = runner("half")
    half.learn(2)
    rest = runner("rest")
    rest.load(half.run_dir.pointed("latest"))
    rest.learn()
    assert whole.steps == rest.steps
    for name in ("env/success_once", "env/episode_len", "env/return", "rollout/num_samples"):
        assert whole.metrics[name] == rest.metrics[name]
    assert whole.metrics["rollout/num_samples"] == 5 * runs.ENVS
    assert whole.metrics["Perf/chunk_samples_per_second"] > 0.0 and whole.metrics["time/step"] > 0.0
    expected, found = (each.algorithm.learner.state_dict() for each in (whole, rest))
    for part in ("networks", "parts", "metrics", "replay"):
        _assert_equal(found[part], expected[part], part)


def _assert_equal(found: Any, expected: Any, where: str) -> None:
    if isinstance(expected, dict):
        assert found.keys() == expected.keys(), where
        for name in expected:
            _assert_equal(found[name], expected[name], f"{where}.{name}")
    elif isinstance(expected, list | tuple):
        for number, (first, second) in enumerate(zip(found, expected, strict=True)):
            _assert_equal(first, second, f"{where}[{number}]")
    else:
        assert torch.equal(torch.as_tensor(found), torch.as_tensor(expected)), where


@pytest.mark.contract
def test_the_policy_plays_as_the_learner_acts(case: Any) -> None:
    cfg, head = case
    built, env = learner(cfg, head)
    collect(built, env, 8)
    policy, obs = built.policy(), env.get_observations()
    seen = built.features(obs)
    mode = built.learner.actor.mode(built.learner.actor.evaluate({"features": seen.features}, None, None)[0])
    torch.testing.assert_close(policy(obs), built.features.env_actions(mode, seen))
    policy.deterministic = False
    assert not torch.equal(policy(obs), policy(obs))


# -- bad input --------------------------------------------------------------------------------------------------------


def refused(cfg: Any, sentence: str, head: Any = runs.REGRESSION, error: Any = ConfigError, env: Any = None) -> None:
    with pytest.raises(error, match=sentence):
        learner(cfg, head, env)


@pytest.mark.contract
def test_what_does_not_fit_is_named(tmp_path: Path) -> None:
    refused(VLASACCfg(), r"algorithm\.init_from is empty")
    refused(algorithm_cfg(tmp_path, DSRLCfg), "DSRL steers the start noise of a flow, and the policy has a Regr")
    diffusion = DiffusionHeadCfg(chunk_size=runs.CHUNK, network=runs.FLOW.network)
    refused(algorithm_cfg(tmp_path, head=diffusion), "DiffusionHead draws noise as it samples", diffusion)
    refused(algorithm_cfg(tmp_path, learner=SACCfg()), "take FeatureReplayBufferCfg")
    refused(algorithm_cfg(tmp_path, learner=runs.sac(max_return=5.0)), "a step is a chunk here")
    odd = runs.sac(batch_size=15)
    refused(algorithm_cfg(tmp_path, learner=odd, demonstrations="somewhere"), "is odd, and half of it")
    chunks = MultiModalCfg(images={"front": "image"}, proprio=["policy"], instruction=runs.TEXT, chunk_size=5)
    longer = runs.env_cfg(multi_modal=chunks).build()
    refused(
        algorithm_cfg(tmp_path), "executes 5 actions per step, and the policy predicts", error=SpecMismatch, env=longer
    )
    other = MultiModalCfg(images={"side": "image"}, proprio=["policy"], instruction=runs.TEXT, chunk_size=3)
    refused(algorithm_cfg(tmp_path), "cameras", error=SpecMismatch, env=runs.env_cfg(multi_modal=other).build())


@pytest.mark.contract
def test_features_of_a_trained_backbone_are_refused(tmp_path: Path) -> None:
    built, _ = learner(algorithm_cfg(tmp_path))
    built.model.backbone.requires_grad_(True)
    with pytest.raises(ConfigError, match="would go stale"):
        PrefixFeatures(built.model, built.features.actions)


@pytest.mark.contract
def test_a_checkpoint_of_another_base_policy_is_refused(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    built, env = learner(algorithm_cfg(tmp_path))
    collect(built, env, 8)
    other, _ = learner(algorithm_cfg(tmp_path / "other"))
    with pytest.raises(CheckpointError, match="not those that this policy was trained with"):
        other.load_state_dict(built.state_dict())


@pytest.mark.contract
def test_a_replay_of_single_steps_is_named_with_its_replacement() -> None:
    cfg = VLASACCfg(init_from="run", learner=SACCfg(replay=ReplayBufferCfg()), actions=StartNoiseCfg())
    with pytest.raises(ConfigError, match=r"learner\.replay: a ReplayBufferCfg does not know how many"):
        cfg.validate()


@pytest.mark.contract
def test_what_was_gathered_elsewhere_is_learned_from_alike(case: Any) -> None:
    cfg, head = case
    here, env = learner(cfg, head)
    taken = collect(here, env, 10)
    there, _ = learner(cfg, head)
    there.collector.load_weights(here.collector.weights())
    for transition in taken:
        there.update([transition])
    stored, gathered = here.stored_steps(10), there.stored_steps(10)
    for name in ("obs/features", "action", "chunk_rewards", "done"):
        torch.testing.assert_close(gathered[name], stored[name], rtol=0, atol=0)
