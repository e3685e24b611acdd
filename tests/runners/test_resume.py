"""Interrupt and resume equals never having stopped, bit for bit."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from RoboRenForce import algorithms, components, networks
from RoboRenForce.cli import main
from RoboRenForce.configclass import Cfg
from RoboRenForce.envs.scripted_env import ScriptedEnvCfg
from RoboRenForce.runners import Trainer, TrainerCfg
from RoboRenForce.utils.checkpoint import load_checkpoint
from RoboRenForce.utils.run_dir import RunDir, newest_run
from small_runs import check_same, counting_cfg, ppo_cfg, scripted

pytestmark = pytest.mark.contract

TIMES = (
    "time",
    "Perf/collection_time",
    "Perf/learning_time",
    "Perf/total_time",
    "Perf/total_fps",
    "Perf/updates_per_second",
)


def metrics(folder: Path) -> list[dict[str, Any]]:
    """The lines of `metrics.jsonl` without what a clock decides."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{tag: value for tag, value in line.items() if tag not in TIMES} for line in lines]


def without_raw_arrays(state: Any) -> Any:
    """A state without the raw arrays of MuJoCo, some of which (islands, efm_K) it never writes to."""
    if isinstance(state, dict):
        return {key: without_raw_arrays(value) for key, value in state.items() if key != "bytes"}
    return [without_raw_arrays(item) for item in state] if isinstance(state, list | tuple) else state


def check_resume(cfg: TrainerCfg, env_cfg: Cfg | None, folder: Path, *, stop: int, end: int) -> None:
    """Train `end` iterations at once, and again with a stop in between, in new objects; everything must be equal."""
    straight, halves = folder / "straight", folder / "halves"
    cfg = cfg.replace(max_iterations=end, save_interval=end)

    def build(log_dir: Path) -> Trainer:
        return cfg.build(log_dir=log_dir, **({} if env_cfg is None else {"env": env_cfg.build()}))

    build(straight).learn()
    build(halves).learn(stop)
    torch.rand(7)  # whatever happened in between must not matter
    resumed = build(halves)
    resumed.load(halves / f"model_{stop}.pt")
    assert resumed.iteration == stop
    resumed.learn()
    one, two = (load_checkpoint(root / f"model_{end}.pt") for root in (straight, halves))
    for part in ("algorithm", "local", "iteration", "spec"):
        check_same(without_raw_arrays(one[part]), without_raw_arrays(two[part]), part)
    assert metrics(straight) == metrics(halves)
    assert [line["iteration"] for line in metrics(halves)] == list(range(1, end + 1))


def trained(loaded: dict[str, Any], folder: Path) -> bool:
    """Whether training changed anything at all; equality of untrained weights would show nothing."""
    early = load_checkpoint(folder / "halves" / "model_10.pt")["algorithm"]["networks"]
    return any(not torch.equal(early[name], value) for name, value in loaded["algorithm"]["networks"].items())


BACKBONES = {"mlp": networks.MLPCfg(hidden_features=[8]), "gru": networks.RNNCfg(hidden_size=8)}


@pytest.mark.parametrize("name", BACKBONES)
def test_resume_is_exact(tmp_path: Path, name: str) -> None:
    check_resume(ppo_cfg(BACKBONES[name]), ScriptedEnvCfg(num_envs=4), tmp_path, stop=10, end=20)
    assert trained(load_checkpoint(tmp_path / "straight" / "model_20.pt"), tmp_path)


def test_resume_is_exact_with_every_stateful_option(tmp_path: Path) -> None:
    algorithm = algorithms.PPOCfg(
        num_learning_epochs=2,
        num_mini_batches=2,
        schedule="linear",
        final_entropy_coef=0.0,
        normalize_reward=True,
        normalize_value=True,
        reward_terms=[algorithms.RNDCfg()],
    )
    cfg = ppo_cfg(algorithm=algorithm, obs_groups={"rnd_state": ["policy"]})
    check_resume(cfg, ScriptedEnvCfg(num_envs=4), tmp_path, stop=10, end=20)


def test_a_later_line_of_the_same_iteration_counts(tmp_path: Path) -> None:
    from RoboRenForce.utils.logging import read_metrics

    path = tmp_path / "metrics.jsonl"
    lines = [
        {"iteration": 1, "a": 1.0},
        {"iteration": 2, "a": 2.0},
        {"iteration": 3, "a": 3.0},
        {"iteration": 2, "a": 20.0},
    ]
    path.write_text("\n".join(json.dumps(line) for line in lines) + '\n{"iteration": 3, "a"')
    assert read_metrics(path) == {"a": ([1, 2, 3], [1.0, 20.0, 3.0])}


@pytest.mark.parametrize("env_id", ["HalfCheetah-v5", "CartPole-v1"])
def test_resume_is_exact_on_real_simulators(tmp_path: Path, env_id: str) -> None:
    package = pytest.importorskip("RRF_gym_tasks")
    pytest.importorskip("mujoco")
    cfg = ppo_cfg()
    if env_id == "CartPole-v1":
        cfg.policy.actor_cfg = components.CategoricalActorCfg(backbone_cfg=BACKBONES["gru"])
    check_resume(cfg, package.GymEnvCfg(env_id=env_id, num_envs=4), tmp_path, stop=10, end=20)
    assert trained(load_checkpoint(tmp_path / "straight" / "model_20.pt"), tmp_path)


@pytest.mark.parametrize("resume", [True, False])
def test_a_recurrent_policy_begins_anew_where_the_episodes_of_its_checkpoint_do_not_go_on(
    tmp_path: Path, resume: bool
) -> None:
    cfg = ppo_cfg(BACKBONES["gru"]).replace(max_iterations=3)
    env_cfg = ScriptedEnvCfg(num_envs=4)
    cfg.build(env=env_cfg.build(), log_dir=tmp_path).learn()
    saved = load_checkpoint(tmp_path / "model_3.pt")["algorithm"]["start"]
    assert not saved.all()
    again = cfg.build(env=env_cfg.build())
    again.load(tmp_path / "model_3.pt", resume=resume)
    obs = again.first_observations()
    expected = saved if resume else torch.ones(4, dtype=torch.bool)
    assert torch.equal(again.algorithm.collector.start, expected)
    assert torch.equal(again.algorithm.act(obs).record["start"], expected)


# ------------------------------------------------------------------------------------------- after a run was killed


def killed_after(folder: Path, iterations: int) -> RunDir:
    """A run with checkpoints of every second iteration; tests then make of it what a kill leaves."""
    counting_cfg(max_iterations=iterations, save_interval=2).build(env=scripted(), log_dir=folder).learn()
    return RunDir(folder)


def go_on(run: RunDir, iteration: int) -> None:
    resumed = counting_cfg(max_iterations=8, save_interval=2).build(env=scripted(), log_dir=run.root)
    resumed.load(run.checkpoint(iteration))
    resumed.learn()
    assert [line["iteration"] for line in metrics(run.root)] == [1, 2, 3, 4, 5, 6, 7, 8]


def test_lines_behind_the_checkpoint_and_a_torn_one_are_cut(tmp_path: Path) -> None:
    run = killed_after(tmp_path, 4)
    with run.metrics.open("a") as file:
        file.write('{"iteration": 5, "a": 1.0}\n{"iteration": 6, "a"')
    go_on(run, 4)


def test_the_line_that_a_kill_between_checkpoint_and_line_took_is_written(tmp_path: Path) -> None:
    run = killed_after(tmp_path, 4)
    straight = metrics(tmp_path)
    run.metrics.write_text("".join(run.metrics.read_text().splitlines(keepends=True)[:3]))
    go_on(run, 4)
    assert metrics(tmp_path)[:4] == straight


def test_pointers_are_those_of_the_checkpoint(tmp_path: Path) -> None:
    script = [["terminated@1"] * 9 + ["terminated@8"] * 1000]  # returns rise: the newest is the best
    cfg = counting_cfg(num_steps_per_env=8, max_iterations=4, save_interval=2)
    cfg.build(env=scripted(script=script), log_dir=tmp_path).learn()
    run = RunDir(tmp_path)
    assert run.pointed("best") == run.checkpoint(4)
    for name in ("latest", "best"):  # killed before it could write them
        run.point(name, run.checkpoint(2))
    resumed = cfg.replace(max_iterations=5).build(env=scripted(script=script), log_dir=tmp_path)
    resumed.load(run.checkpoint(4))
    for callback in resumed.callbacks:
        callback.on_start(resumed)
    assert (run.pointed("latest"), run.pointed("best")) == (run.checkpoint(4), run.checkpoint(4))
    for callback in resumed.callbacks:
        callback.close(resumed)


def test_what_killed_processes_left_goes_and_what_a_living_one_writes_stays(tmp_path: Path) -> None:
    run = killed_after(tmp_path, 4)
    (tmp_path / "videos").mkdir()
    dead = subprocess.Popen(["true"])
    dead.wait()
    left = [f".model_6.pt.{dead.pid}.partial", f".latest.{os.getpid()}.partial", f"params/.run.yaml.{dead.pid}.partial"]
    left += ["videos/.play.mp4.partial", ".eval.json.999999999.partial", ".x.99999999999999999999.partial"]
    living = f".eval.json.{os.getppid()}.partial"
    for name in [*left, living]:
        (tmp_path / name).write_text("half")
    go_on(run, 4)
    assert [path.name for path in tmp_path.rglob("*.partial")] == [living]


def test_a_run_that_begins_in_a_used_directory_sets_aside_what_is_there(tmp_path: Path) -> None:
    first = killed_after(tmp_path, 4)
    old = first.checkpoint(4).read_bytes()
    counting_cfg(max_iterations=2).build(env=scripted(), log_dir=tmp_path).learn()
    assert list(first.checkpoints()) == [2] and (tmp_path / "model_4.pt.aside").read_bytes() == old
    assert [line["iteration"] for line in metrics(tmp_path)] == [1, 2]
    assert len((tmp_path / "metrics.jsonl.aside").read_text().splitlines()) == 4
    assert first.set_aside(first.checkpoint(2)).name == "model_2.pt.aside-2"


def resume(*argv: str) -> None:
    main(["train", "--resume", *argv, "--max_iterations", "6"])


def test_resume_takes_the_newest_whole_checkpoint_whatever_latest_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("RRF_gym_tasks")
    monkeypatch.chdir(tmp_path)
    small = ["env.num_envs=2", "num_steps_per_env=8", "report=false", "logger=[]", "save_interval=1"]
    main(["train", "--task", "RoboRenForce-Gym-CartPole-PPO", *small, "--max_iterations", "4"])
    run = newest_run("logs/RFRL")
    run.point("latest", run.checkpoint(2))  # killed between the rename and the pointer
    resume()
    assert list(run.checkpoints())[-1] == 6 and len(list(run.root.parent.iterdir())) == 1
    assert run.pointed("latest") == run.checkpoint(6)
    damaged = run.checkpoint(6).read_bytes()[:-100]
    run.checkpoint(6).write_bytes(damaged)
    capsys.readouterr()
    resume(str(run.root))
    said = capsys.readouterr().err
    assert "model_6.pt' is truncated" in said and f"'{run.checkpoint(5)}'. The run goes on from that one." in said
    assert load_checkpoint(run.checkpoint(6))["iteration"] == 6
    assert (run.root / "model_6.pt.aside").read_bytes() == damaged
    assert [line["iteration"] for line in metrics(run.root)] == [1, 2, 3, 4, 5, 6]
    assert len(list(run.root.parent.iterdir())) == 1
