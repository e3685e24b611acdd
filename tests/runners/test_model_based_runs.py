"""Runs of dynamics models, MBPO and MBPO-PPO: exact resume, mixed batches, growth, play in the real environment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from dynamics_cases import episodes, mlp_cfg
from RoboRenForce import algorithms, components, networks, runners
from RoboRenForce.algorithms import DynamicsFitCfg, ImaginationCfg, ImaginationEnvCfg, MBPOCfg, MBPOPPOCfg
from RoboRenForce.buffer import DatasetCfg, DatasetLoader, ReplayBufferCfg, SequenceReplayBufferCfg, TransitionDataset
from RoboRenForce.configclass import ConfigError, configclass
from RoboRenForce.envs import ScriptedEnvCfg
from RoboRenForce.envs.env_cfg import evaluation_cfg
from RoboRenForce.runners.evaluation import evaluate
from RoboRenForce.runners.recording import RandomBehavior, record_episodes
from RoboRenForce.utils.checkpoint import load_checkpoint
from RoboRenForce.utils.errors import UserError
from small_runs import check_same, ppo_cfg, scripted
from test_off_policy_runs import sac_cfg
from test_resume import check_resume

pytestmark = pytest.mark.contract

FIT = DynamicsFitCfg(batch_size=8, max_epochs=2)
SMALL: dict[str, Any] = {
    "replay": ReplayBufferCfg(capacity=400, store=True),
    "batch_size": 20,
    "learning_starts": 20,
}


def transformer_cfg(**options: Any) -> components.SystemDynamicsTransformerCfg:
    trunk = networks.TransformerCfg(dim=8, num_layers=1, num_heads=2, window=4)
    return components.SystemDynamicsTransformerCfg(backbone_cfg=trunk, history=3, forecast=2, **options)


def mbpo_cfg(**changes: Any) -> runners.OffPolicyRunnerCfg:
    options: dict[str, Any] = {
        "learner": algorithms.SACCfg(**SMALL),
        "real_ratio": 0.2,
        "model": mlp_cfg(termination=True),
        "fit": FIT,
        "model_interval": 24,
        "num_rollouts": 10,
        "final_rollout_length": 3,
        "growth": (20, 60),
        "retained": 2,
    }
    return sac_cfg(MBPOCfg(**(options | changes)))


def mbpo_ppo_cfg(**changes: Any) -> runners.MBPOOnPolicyRunnerCfg:
    base = ppo_cfg()
    options: dict[str, Any] = {
        "learner": base.algorithm,
        "imagination_num_envs": 6,
        "imagination_num_steps_per_env": 4,
        "imagination_updates": 2,
        "imagination": ImaginationCfg(horizon=6),
        "num_starts": 32,
        "model": transformer_cfg(termination=True),
        "fit": DynamicsFitCfg(batch_size=8, validation_share=0.0, max_epochs=1, steps_per_epoch=3),
        "model_warmup_iterations": 2,
        "replay": ReplayBufferCfg(capacity=400, store=True),
    }
    return runners.MBPOOnPolicyRunnerCfg(
        num_steps_per_env=8, logger=[], report=False, policy=base.policy, algorithm=MBPOPPOCfg(**(options | changes))
    )


class ScriptedData(DatasetLoader):
    """Random steps of a scripted environment."""

    def read(self) -> TransitionDataset:
        env = scripted()
        found = record_episodes(env, RandomBehavior(env.spec.action), 200, seed=3)
        return TransitionDataset.from_episodes(found, source="scripted", action=env.spec.action)


@configclass
class ScriptedDataCfg(DatasetCfg):
    class_type: type = ScriptedData


class LinearData(DatasetLoader):
    """Episodes of the linear system."""

    def read(self) -> TransitionDataset:
        torch.manual_seed(4)
        return episodes(20, 12)


@configclass
class LinearDataCfg(DatasetCfg):
    class_type: type = LinearData


def dynamics_cfg(model: Any, data: DatasetCfg | None = None, **changes: Any) -> runners.OfflineRunnerCfg:
    options: dict[str, Any] = {"updates_per_iteration": 1, "max_iterations": 4, "eval_interval": 0}
    return runners.OfflineRunnerCfg(
        logger=[],
        report=False,
        dataset=data or LinearDataCfg(),
        policy=model,
        algorithm=algorithms.SystemDynamicsLearnerCfg(fit=DynamicsFitCfg(batch_size=16), num_starts=32),
        **(options | changes),
    )


@pytest.mark.parametrize("name", ["mbpo", "mbpo_ppo"])
def test_resume_is_exact(tmp_path: Path, name: str) -> None:
    cfg = mbpo_cfg() if name == "mbpo" else mbpo_ppo_cfg()
    check_resume(cfg, ScriptedEnvCfg(num_envs=4), tmp_path, stop=7, end=12)
    early, late = (load_checkpoint(tmp_path / "halves" / f"model_{n}.pt")["algorithm"] for n in (7, 12))
    for part in ("model", "learner"):
        before, after = early[part], late[part]
        before, after = (x["networks"] if part == "learner" else x for x in (before, after))
        assert any(not torch.equal(before[key], after[key]) for key in before), f"{part} learned nothing"


@pytest.mark.parametrize("name", ["mlp", "transformer"])
def test_a_resumed_fit_goes_on_exactly(tmp_path: Path, name: str) -> None:
    cfg = dynamics_cfg(mlp_cfg() if name == "mlp" else transformer_cfg())
    check_resume(cfg, None, tmp_path, stop=2, end=4)


def test_without_stored_rollouts_a_resumed_run_begins_with_a_fit(tmp_path: Path) -> None:
    learner = algorithms.SACCfg(**{**SMALL, "replay": ReplayBufferCfg(capacity=400)})
    first = mbpo_cfg(learner=learner).build(env=scripted(), log_dir=tmp_path)
    first.learn(8)
    again = mbpo_cfg(learner=learner).build(env=scripted())
    again.load(first.save())
    assert again.algorithm._fitted_at is None and again.algorithm.update() == {}
    again.learn(8)
    assert again.algorithm._fitted_at is not None


def test_batches_are_real_and_imagined_in_the_stated_parts() -> None:
    runner = mbpo_cfg().build(env=scripted())
    runner.learn(8)
    learner = runner.algorithm.learner
    batch = learner.experience.sample()
    assert learner.cfg.batch_size == 4 and len(batch.reward) == 20
    real, imagined = learner.experience.buffer, runner.algorithm.rollouts
    whole = [buffer.records.at("obs/policy", torch.arange(len(buffer))) for buffer in (real, imagined)]
    for row, obs in enumerate(batch.obs["policy"]):
        assert (whole[0 if row < 4 else 1] == obs).all(1).any()
    assert batch.valid is not None and batch.valid.all()


def test_rollouts_branch_off_real_states_and_grow() -> None:
    runner = mbpo_cfg().build(env=scripted())
    algorithm, lengths = runner.algorithm, []
    plain = algorithm._imagine

    def spy(length: int) -> None:
        lengths.append(length)
        algorithm.rollouts.load_state_dict({"rows_added": torch.zeros(1), "capacity": algorithm.rollouts.rows})
        plain(length)
        known = algorithm.learner.experience.buffer
        states = known.records.at("obs/policy", torch.arange(len(known)))
        first = algorithm.rollouts.records.at("obs/policy", torch.arange(10))
        assert all((states == state).all(1).any() for state in first)
        rows = algorithm.rollouts.records.gather(torch.arange(length * 10))
        going_on = (rows["done"] == 0).nonzero().squeeze(1)
        following = rows["obs/policy"][(going_on + 10).clamp(max=length * 10 - 1)]
        assert torch.equal(rows["next_obs/policy"][going_on], following)

    algorithm._imagine = spy
    runner.learn(8)
    assert lengths[0] == 1 and lengths[-1] == 3 and lengths == sorted(lengths)


def test_only_the_newest_rollouts_are_drawn() -> None:
    runner = mbpo_cfg().build(env=scripted())
    runner.learn(8)
    rollouts = runner.algorithm.rollouts
    rollouts.keep(10)
    newest = set(rollouts._newest().tolist())
    assert {int(slot) for _ in range(20) for slot in rollouts.sample().index} == newest


def test_a_replay_is_read_in_order_also_after_it_went_around() -> None:
    env = scripted(num_envs=3)
    runner = mbpo_cfg(learner=algorithms.SACCfg(**{**SMALL, "replay": ReplayBufferCfg(capacity=30)})).build(env=env)
    runner.learn(5)  # 20 rows of each environment in a ring of 10
    table, replay = runner.algorithm.table, runner.algorithm.learner.experience.buffer
    table.fill_from_replay(replay)
    steps = table.gather(torch.arange(table.size))
    assert table.size == 30 and table.begins.sum() > 3
    goes_on = ~table.begins[1:]
    assert torch.equal(steps.next_state[:-1][goes_on], steps.state[1:][goes_on])


def test_mbpo_says_what_it_can_not_learn_from() -> None:
    wrong = algorithms.SACCfg(replay=SequenceReplayBufferCfg(), max_return=5.0)
    with pytest.raises(ConfigError) as error:
        MBPOCfg(learner=wrong, growth=(5, 5)).validate()
    for sentence in ("imagined rollouts are single transitions", "scales real rewards only", "ends before it begins"):
        assert sentence in str(error.value)


def test_in_warm_up_iterations_the_model_alone_learns() -> None:
    runner = mbpo_ppo_cfg().build(env=scripted())
    algorithm = runner.algorithm
    start = {name: x.clone() for name, x in algorithm.learner.networks.state_dict().items()}
    model = {name: x.clone() for name, x in algorithm.model.state_dict().items()}
    runner.learn(2)
    check_same(start, dict(algorithm.learner.networks.state_dict()))
    assert any(not torch.equal(x, model[name]) for name, x in algorithm.model.state_dict().items())
    units = algorithm.model.inputs.mean.clone()
    runner.learn(1)
    assert any(not torch.equal(x, start[name]) for name, x in algorithm.learner.networks.state_dict().items())
    assert torch.equal(units, algorithm.model.inputs.mean), "policies learn in a model of fixed units"


def test_the_policy_learns_from_no_real_step() -> None:
    runner = mbpo_ppo_cfg(model_warmup_iterations=0).build(env=scripted())
    given = []
    store = runner.algorithm.learner.process_env_step
    runner.algorithm.learner.process_env_step = lambda step: (given.append(len(step.reward)), store(step))
    runner.learn(2)
    assert given == [6] * (2 * 2 * 4)  # iterations, updates, steps, of 6 imagined environments; the real ones are 4


def test_a_trained_model_is_fine_tuned_or_left_as_it_is(tmp_path: Path) -> None:
    first = dynamics_cfg(transformer_cfg(termination=True), ScriptedDataCfg()).build(log_dir=tmp_path)
    first.learn()
    learned = first.algorithm.fit.best_state()
    options: dict[str, Any] = {"init_from": str(tmp_path), "model_warmup_iterations": 0, "trust": True}
    for finetune in (True, False):
        runner = mbpo_ppo_cfg(finetune=finetune, **options).build(env=scripted())
        check_same(learned, dict(runner.algorithm.model.state_dict()))
        runner.learn(2)
        now = runner.algorithm.model.state_dict()
        assert any(not torch.equal(x, learned[name]) for name, x in now.items()) == finetune
    with pytest.raises(ConfigError, match="finetune: false keeps the model of init_from, which is empty"):
        mbpo_ppo_cfg(finetune=False).validate()


def test_any_algorithm_learns_in_a_checkpoint_and_is_judged_in_the_real_environment(tmp_path: Path) -> None:
    first = dynamics_cfg(mlp_cfg(termination=True), ScriptedDataCfg()).build(log_dir=tmp_path)
    first.learn()
    cfg = ImaginationEnvCfg(
        model=str(tmp_path), real=ScriptedEnvCfg(), num_envs=4, imagination=ImaginationCfg(horizon=5), trust=True
    )
    for runner_cfg in (ppo_cfg(), sac_cfg(algorithms.SACCfg(**SMALL))):
        runner = runner_cfg.build(env=cfg.build(), log_dir=tmp_path / type(runner_cfg).__name__)
        runner.learn()
        env = evaluation_cfg(cfg, 2, 5).build()
        assert type(env).__name__ == "ScriptedEnv" and env.num_envs == 2
        assert evaluate(env, runner.policy(), 4).n == 4
        player = runner_cfg.build(env=env)
        player.load(runner.run_dir.root / f"model_{runner.iteration}.pt", resume=False)
        obs = env.get_observations()
        torch.testing.assert_close(player.policy()(obs), runner.policy()(obs))
    with pytest.raises(ConfigError, match="There is no model to imagine with"):
        cfg.replace(model="").build()


def test_a_fit_ends_the_run_and_leaves_a_report(tmp_path: Path) -> None:
    import json

    cfg = dynamics_cfg(mlp_cfg(), max_iterations=500, callbacks=[runners.DynamicsReportCfg(horizon=6)])
    cfg.algorithm.fit.learning_rate = 3e-3
    runner = cfg.build(log_dir=tmp_path)
    runner.learn()
    assert 5 < runner.iteration < 500 and runner.algorithm.is_finished
    report = json.loads((tmp_path / "dynamics_report.json").read_text())
    assert (tmp_path / "dynamics_report.png").stat().st_size > 1000
    error, hold = report["error"]["model"], report["error"]["hold"]
    assert len(error) == 6 and error[0] < 0.5 * hold[0] and error[0] < error[-1] < hold[-1]
    assert 0.7 < report["coverage"]["0.9"][0] <= 1.0
    with pytest.raises(UserError, match="is no policy and takes no actions"):
        runner.policy()
