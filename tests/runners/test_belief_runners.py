"""Pre-training of beliefs: exact resume, and what a policy takes over from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from RoboRenForce import algorithms, components, networks, runners
from RoboRenForce.buffer import SequenceReplayBufferCfg
from RoboRenForce.envs.scripted_env import ScriptedEnvCfg
from RoboRenForce.utils.checkpoint import load_checkpoint
from RoboRenForce.utils.errors import CheckpointError, UserError
from test_offline_resume import RandomDataCfg
from test_resume import check_resume, metrics, trained

pytestmark = pytest.mark.contract

MLP = networks.MLPCfg(hidden_features=[8])
QUIET: dict[str, Any] = {"logger": [], "report": False}


def policy(size: int = 6, update: Any = "gru") -> components.BeliefActorCriticPackCfg:
    return components.BeliefActorCriticPackCfg(
        actor_cfg=components.StateIndStdActorCfg(backbone_cfg=MLP),
        critic_cfg=components.VNetworkCfg(backbone_cfg=MLP),
        belief=components.BeliefCfg(
            size=size,
            update=update,
            target=["critic"],
            density=networks.FlowDensityCfg(network=networks.MLPCfg(hidden_features=[8])),
        ),
    )


def pretraining(**changes: Any) -> runners.FlowModelRunnerCfg:
    replay = SequenceReplayBufferCfg(length=5, previous_action=False)
    return runners.FlowModelRunnerCfg(
        policy=policy(**changes),
        algorithm=algorithms.BeliefModelCfg(replay=replay, batch_size=8),
        dataset=RandomDataCfg(),
        updates_per_iteration=3,
        max_iterations=4,
        **QUIET,
    )


def ppo(checkpoint: Path, **changes: Any) -> Any:
    algorithm = algorithms.PPOCfg(
        num_learning_epochs=1, num_mini_batches=2, loss_terms=[algorithms.BeliefLossCfg(weight=0.5)]
    )
    cfg = runners.OnPolicyRunnerCfg(
        seed=7,
        num_steps_per_env=6,
        max_iterations=2,
        policy=policy(**changes),
        algorithm=algorithm,
        callbacks=[runners.PretrainedBeliefCfg(checkpoint=str(checkpoint))],
        **QUIET,
    )
    return cfg.build(env=ScriptedEnvCfg(num_envs=4).build(), device="cpu")


def test_resume_is_exact(tmp_path: Path):
    check_resume(pretraining(update="residual"), None, tmp_path, stop=10, end=20)
    assert trained(load_checkpoint(tmp_path / "straight" / "model_20.pt"), tmp_path)


def test_a_policy_starts_from_the_belief_and_a_resumed_one_goes_on_with_its_own(tmp_path: Path):
    runner = pretraining().build(log_dir=tmp_path / "belief")
    runner.learn()
    assert "Loss/belief" in metrics(tmp_path / "belief")[-1]
    with pytest.raises(UserError, match="has no policy yet"):
        runner.policy()
    there = load_checkpoint(tmp_path / "belief" / "model_4.pt")["algorithm"]["networks"]
    learner = ppo(tmp_path / "belief")
    seen: dict[str, torch.Tensor] = {}
    first = learner.algorithm.act

    def act(obs: Any) -> Any:
        if not seen:
            seen.update({name: value.clone() for name, value in learner.algorithm.networks.state_dict().items()})
        return first(obs)

    learner.algorithm.act = act
    learner.learn()
    taken = {name for name in seen if name in there and torch.equal(seen[name], there[name])}
    assert {"actor.backbone.fast_update.weight_hh", "actor.encoder.normalizer.moments.mean"} & taken
    assert {name for name in there if name.startswith("actor.backbone.density.")} <= taken
    assert "actor.backbone.head.layers.0.weight" not in taken
    learner.save(tmp_path / "learned.pt")
    resumed = ppo(Path("nowhere"))
    resumed.load(tmp_path / "learned.pt")
    resumed.learn(1)  # does not look for the file


def test_another_belief_is_refused(tmp_path: Path):
    pretraining().build(log_dir=tmp_path).learn()
    with pytest.raises(CheckpointError, match=r"does not fit: 'backbone.* is \(.*\) there, expected"):
        ppo(tmp_path, size=5).learn()
    with pytest.raises(CheckpointError, match="is missing there"):
        ppo(tmp_path, update="residual").learn()
