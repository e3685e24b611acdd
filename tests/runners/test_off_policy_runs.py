"""Off-policy runs: order of calls, exact resume, played and exported policies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from RoboRenForce import algorithms, components, networks, runners
from RoboRenForce.algorithms import Transition
from RoboRenForce.buffer import PrioritizedReplayBufferCfg, ReplayBufferCfg, SequenceReplayBufferCfg
from RoboRenForce.configclass import ConfigError
from RoboRenForce.envs.scripted_env import ScriptedEnvCfg
from RoboRenForce.utils.checkpoint import load_checkpoint
from RoboRenForce.utils.export import export_policy
from small_runs import CountingCfg, NoPolicyCfg, scripted
from test_resume import check_resume, trained

pytestmark = pytest.mark.contract


def sac_cfg(algorithm: Any = None, policy: Any = None, **changes: Any) -> runners.OffPolicyRunnerCfg:
    """A real SAC with tiny networks, in environments that normalizers matter in."""
    mlp = networks.MLPCfg(hidden_features=[8])
    pack = components.ActorQPackCfg(
        actor_cfg=components.TanhGaussianActorCfg(backbone_cfg=mlp), critic_cfg=components.QNetworkCfg(backbone_cfg=mlp)
    )
    options: dict[str, Any] = {
        "num_steps_per_env": 4,
        "max_iterations": 4,
        "logger": [],
        "report": False,
        "policy": policy or pack,
        "algorithm": algorithm or algorithms.SACCfg(**SMALL),
    }
    return runners.OffPolicyRunnerCfg(**(options | changes))


SMALL: dict[str, Any] = {
    "replay": ReplayBufferCfg(capacity=64, store=True),
    "batch_size": 16,
    "learning_starts": 20,
    "policy_delay": 2,
}


def dsact() -> runners.OffPolicyRunnerCfg:
    critic = components.QNetworkCfg(
        backbone_cfg=networks.MLPCfg(hidden_features=[8]), head_cfg=components.GaussianHeadCfg()
    )
    return sac_cfg(algorithms.DSACTCfg(**SMALL), components.ActorQPackCfg(critic_cfg=critic))


def with_memory(encoder: str) -> runners.OffPolicyRunnerCfg:
    mlp = networks.MLPCfg(hidden_features=[8])
    pack = components.HistoryActorQPackCfg(
        actor_cfg=components.TanhGaussianActorCfg(backbone_cfg=mlp),
        critic_cfg=components.QNetworkCfg(backbone_cfg=mlp),
        history_encoder=encoder,
        history_size=8,
        history_window=3,
    )
    replay = SequenceReplayBufferCfg(capacity=64, length=5, burn_in=1, store=True)
    return sac_cfg(algorithms.SACSeqCfg(**{**SMALL, "replay": replay}), pack)


RUNS = {
    "sac": sac_cfg,
    "dsact": dsact,
    "sac_seq": lambda: with_memory("gru"),
    "sac_trans": lambda: with_memory("transformer"),
    "prioritized": lambda: sac_cfg(
        algorithms.SACCfg(**{**SMALL, "replay": PrioritizedReplayBufferCfg(capacity=64, store=True)})
    ),
}


def test_updates_come_after_every_train_freq_steps() -> None:
    cfg = runners.OffPolicyRunnerCfg(
        num_steps_per_env=4, train_freq=2, max_iterations=1, logger=[], policy=NoPolicyCfg(), algorithm=CountingCfg()
    )
    runner = cfg.build(env=scripted())
    runner.learn()
    assert runner.algorithm.calls == (["act", "process_env_step"] * 2 + ["update"]) * 2
    assert runner.algorithm.context.rollout_steps == 2 and runner.algorithm.context.max_updates == 2


def test_an_iteration_is_a_whole_number_of_updates() -> None:
    with pytest.raises(ConfigError, match="num_steps_per_env: 10 is not a multiple of train_freq=4"):
        sac_cfg(num_steps_per_env=10, train_freq=4).validate()


@pytest.mark.parametrize("name", RUNS)
def test_resume_is_exact(tmp_path: Path, name: str) -> None:
    check_resume(RUNS[name](), ScriptedEnvCfg(num_envs=4), tmp_path, stop=10, end=20)
    assert trained(load_checkpoint(tmp_path / "straight" / "model_20.pt"), tmp_path)


def test_resume_is_exact_on_a_real_simulator(tmp_path: Path) -> None:
    package = pytest.importorskip("RRF_gym_tasks")
    check_resume(sac_cfg(), package.GymEnvCfg(env_id="Pendulum-v1", num_envs=4), tmp_path, stop=10, end=20)


def test_without_its_replay_a_resumed_run_warms_up_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    algorithm = algorithms.SACCfg(**{**SMALL, "replay": ReplayBufferCfg(capacity=64)})
    first = sac_cfg(algorithm).build(env=scripted(), log_dir=tmp_path)
    first.learn()
    again = sac_cfg(algorithm, max_iterations=8).build(env=scripted(), log_dir=tmp_path)
    again.load(tmp_path / "model_4.pt")
    assert again.algorithm.num_updates == first.algorithm.num_updates > 0
    assert again.algorithm.experience.num_stored == 0 and again.algorithm.update() == {}
    policy_acts: list[int] = []
    plain = again.algorithm.collector._act_step
    stored = again.algorithm.experience
    again.algorithm.collector._act_step = lambda obs: (policy_acts.append(stored.num_stored), plain(obs))
    again.learn()
    assert policy_acts[0] == 0  # what it has learned collects, not chance
    assert "starts empty" in caplog.text
    assert again.algorithm.num_updates > first.algorithm.num_updates


@pytest.mark.parametrize("resume", [True, False])
def test_a_memory_of_the_checkpoint_goes_on_only_with_its_episodes(tmp_path: Path, resume: bool) -> None:
    cfg = with_memory("gru").replace(max_iterations=5)
    first = cfg.build(env=scripted(), log_dir=tmp_path)
    first.learn()
    again = cfg.build(env=scripted())
    again.load(tmp_path / "model_5.pt", resume=resume)
    again.first_observations()
    memory, before = again.algorithm.collector.policy_state, first.algorithm.collector.policy_state
    assert before.previous_action.any() and not before.start.all()
    assert torch.equal(memory.start, before.start if resume else torch.ones(4, dtype=torch.bool))
    assert torch.equal(memory.previous_action, before.previous_action * float(resume))


def test_new_episodes_forget_held_noise_and_running_returns() -> None:
    cfg = sac_cfg(algorithms.SACCfg(**SMALL, max_return=5.0, exploration=components.RepeatedNoiseCfg()))
    runner = cfg.build(env=scripted())
    runner.learn()
    learner = runner.algorithm
    learner.collector.exploration.state["steps_left"].fill_(3)
    learner.experience.reward_scaler.discounted.fill_(2.0)
    learner.restart_episodes()
    assert (
        not learner.collector.exploration.state["steps_left"].any()
        and not learner.experience.reward_scaler.discounted.any()
    )


def test_the_stored_successor_is_the_final_observation_and_a_time_out_bootstraps() -> None:
    """A scripted environment that ends by time-out at step 3: what is drawn has the true successor and discount."""
    env = scripted(num_envs=1, seed=7, script=[["time_out@3"]])
    runner = sac_cfg(algorithms.SACCfg(**{**SMALL, "learning_starts": 1000}), num_steps_per_env=6).build(env=env)
    seen: list[Any] = []
    record = runner.algorithm.process_env_step

    def spy(transition: Transition) -> None:
        seen.append((transition.next_obs["policy"].clone(), transition.terminated.clone()))
        record(transition)

    runner.algorithm.process_env_step = spy
    runner.learn(1)
    batch = runner.algorithm.experience.buffer.sample()
    for row, index in enumerate(batch.index.tolist()):
        final, terminated = seen[index]
        torch.testing.assert_close(batch.next_obs["policy"][row], final[0])
        assert float(batch.discount[row]) == pytest.approx(0.0 if bool(terminated[0]) else 0.99)
    assert not any(bool(terminated.any()) for _, terminated in seen)


def test_a_loaded_policy_acts_as_it_did_in_training_normalizer_included(tmp_path: Path) -> None:
    runner = sac_cfg().build(env=scripted(), log_dir=tmp_path)
    runner.learn()
    loaded = sac_cfg().build(env=scripted())
    loaded.load(tmp_path / "model_4.pt", resume=False)
    obs = runner.env.get_observations()
    assert float(runner.algorithm.actor.normalizer.moments.count) == 4 * 4 * runner.env.num_envs
    torch.testing.assert_close(loaded.policy()(obs), runner.policy()(obs), rtol=0, atol=0)


def test_the_exported_policy_acts_the_same(tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    runner = sac_cfg().build(env=scripted())
    runner.learn()
    export_policy(runner.policy().exportable(), tmp_path, formats=["onnx"])
    obs = runner.env.get_observations()
    flat = torch.cat([obs[group] for group in runner.algorithm.actor.groups], dim=-1)
    session = onnxruntime.InferenceSession(str(tmp_path / "policy.onnx"), providers=["CPUExecutionProvider"])
    (actions,) = session.run(None, {"obs": flat.numpy()})
    torch.testing.assert_close(torch.from_numpy(actions), runner.policy()(obs), rtol=1e-5, atol=1e-5)


def test_checkpoints_with_other_parts_are_refused(tmp_path: Path) -> None:
    runner = sac_cfg().build(env=scripted(), log_dir=tmp_path)
    runner.learn(1)
    fixed = algorithms.SACCfg(**SMALL, temperature=components.TemperatureCfg(learned=False))
    with pytest.raises(Exception, match="temperature_optimizer"):
        sac_cfg(fixed).build(env=scripted()).load(tmp_path / "model_1.pt")


def test_a_support_too_small_for_the_rewards_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    critic = components.QNetworkCfg(
        backbone_cfg=networks.MLPCfg(hidden_features=[8]),
        head_cfg=components.CategoricalHeadCfg(num_atoms=11, v_min=-0.1, v_max=0.1),
    )
    runner = sac_cfg(policy=components.ActorQPackCfg(critic_cfg=critic), max_iterations=10).build(env=scripted())
    runner.learn()
    said = [record.getMessage() for record in caplog.records if "CategoricalHead" in record.getMessage()]
    assert len(said) == 1
    assert "of the probability at v_max=0.1" in said[0] and "Widen v_min and v_max" in said[0]
