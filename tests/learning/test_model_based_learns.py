"""MBPO swings a pendulum up in a part of the real steps that SAC needs; a policy balances that only imagined."""

from __future__ import annotations

import statistics
from pathlib import Path

import pytest
from RoboRenForce.envs.env_cfg import evaluation_cfg
from RoboRenForce.runners.evaluation import evaluate
from RoboRenForce.utils.registry import load_task

pytestmark = [pytest.mark.learning, pytest.mark.slow]

pytest.importorskip("RRF_gym_tasks", reason="RRF_gym is not installed")

GOOD = -200.0


def steps_to(task_id: str, seed: int, every: int, most: int) -> float:
    """Real steps after which an evaluation of twenty episodes first reaches `GOOD`; infinity after `most`."""
    task = load_task(f"RoboRenForce-Gym-{task_id}")
    task.env_cfg.seed = 1000 * seed
    cfg = task.runner_cfg.replace(seed=seed, logger=[], report=False)
    cfg.num_steps_per_env = every // task.env_cfg.num_envs
    runner = cfg.build(env=task.env_cfg.build(), device="cpu")
    env = evaluation_cfg(task.env_cfg, 20, 1000 * seed + 500).build()
    while runner.steps < most:
        runner.learn(1)
        if evaluate(env, runner.policy(), 20).mean >= GOOD:
            return runner.steps
    return float("inf")


def test_mbpo_reaches_the_threshold_in_few_steps() -> None:
    assert steps_to("Pendulum-MBPO", 1, 200, 2400) <= 2400


@pytest.mark.long
def test_mbpo_needs_at_most_two_fifths_of_the_steps_of_sac() -> None:
    model_based = [steps_to("Pendulum-MBPO", seed, 200, 5000) for seed in (1, 2, 3)]
    model_free = [steps_to("Pendulum-SAC", seed, 1000, 20_000) for seed in (1, 2, 3)]
    assert statistics.median(model_based) <= 0.4 * statistics.median(model_free), (model_based, model_free)


@pytest.mark.long
def test_a_policy_that_only_imagined_balances_the_pole(tmp_path: Path) -> None:
    """At least 80 % of the return of the same PPO in the environment, from 5,000 steps of a random policy."""
    package = pytest.importorskip("RRF_d4rl_tasks", reason="RRF_d4rl is not installed")
    from RoboRenForce.runners.recording import RandomBehavior, record_episodes
    from RoboRenForce.utils.run_dir import RunDir
    from RRF_d4rl_tasks.hdf5_rows import write_rows
    from RRF_d4rl_tasks.recorded_space import spaces_to_record

    assert package
    real = load_task("RoboRenForce-Gym-InvertedPendulum-PPO")
    env = real.env_cfg.build()
    found = record_episodes(env, RandomBehavior(env.spec.action), 5000, seed=1)
    write_rows(tmp_path / "cart.hdf5", found, spaces_to_record(env.spec, None, wrapped=False), {})
    model = load_task("system_dynamics_mlp")
    model.apply_overrides([f"dataset.source={tmp_path / 'cart.hdf5'}", "policy.backbone_cfg.hidden_features=[128,128]"])
    model.apply_overrides(["algorithm.fit.learning_rate=3e-3", "max_iterations=60", "logger=[]", "report=false"])
    learner = model.runner_cfg.build(log_dir=tmp_path / "model")
    learner.learn()

    returns = {}
    for name in ("Gym", "Imagined"):
        task = load_task(f"RoboRenForce-{name}-InvertedPendulum-PPO")
        if name == "Imagined":
            task.env_cfg.model = str(RunDir(tmp_path / "model").root)
            task.env_cfg.imagination.horizon = 300
        cfg = task.runner_cfg.replace(seed=1, logger=[], report=False, eval_interval=0)
        runner = cfg.build(env=task.env_cfg.build(), device="cpu")
        runner.learn()
        returns[name] = evaluate(evaluation_cfg(task.env_cfg, 10, 77).build(), runner.policy(), 10).mean
    assert returns["Imagined"] >= 0.8 * returns["Gym"], returns
