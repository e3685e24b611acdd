"""Offline tasks: every id learns from a file, and the scripts record, train, resume, play and score."""

from __future__ import annotations

import json
import re
import runpy
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from RoboRenForce.cli import main as rrf
from RoboRenForce.utils.checkpoint import load_checkpoint
from RoboRenForce.utils.registry import list_tasks, load_task
from RoboRenForce.utils.run_dir import RunDir, newest_run
from tensordict import TensorDict

pytest.importorskip("minari")
pytest.importorskip("RRF_d4rl_tasks")
pytest.importorskip("RRF_gym_tasks")

import h5py
from RRF_d4rl_tasks import OfflineDatasetCfg, normalized_score, reference_returns
from RRF_d4rl_tasks.registration import ALGORITHMS, ENVIRONMENTS

pytestmark = pytest.mark.contract

ROOT = Path(__file__).parents[3]
SIZES = {"HalfCheetah": (17, 6), "Hopper": (11, 3), "Walker2d": (17, 6), "Pendulum": (3, 1)}
"""Observations and actions of the environments."""
TASKS = [f"RoboRenForce-D4RL-{env}-{algorithm}" for env in SIZES for algorithm in ALGORITHMS]
GYM_TASK = "RoboRenForce-Gym-Pendulum-PPO"
QUIET = ["report=false", "logger=[]"]


@pytest.fixture(autouse=True)
def in_a_fresh_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def write_random(path: str, env: str, rows: int = 60) -> None:
    """A file of D4RL's layout with random numbers, episodes of 20 steps, every second one terminated."""
    draw = np.random.default_rng(0)
    obs, actions = SIZES[env]
    ends = np.arange(rows) % 20 == 19
    with h5py.File(path, "w") as file:
        file["observations"] = draw.normal(size=(rows, obs)).astype(np.float32)
        file["actions"] = draw.uniform(-1, 1, (rows, actions)).astype(np.float32)
        file["rewards"] = draw.normal(size=rows).astype(np.float32)
        file["terminals"] = ends & (np.arange(rows) % 40 == 19)
        file["timeouts"] = ends & (np.arange(rows) % 40 != 19)


def run_script(monkeypatch: pytest.MonkeyPatch, name: str, *args: str) -> None:
    monkeypatch.setattr(sys, "argv", [name, *args])
    runpy.run_path(str(ROOT / "scripts" / name), run_name="__main__")


def refused(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, name: str, *args: str) -> str:
    """The one sentence with which a script ends."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as left:
        run_script(monkeypatch, name, *args)
    assert left.value.code == 1
    (error,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("Error: ")]
    return error


# ----------------------------------------------------------------------------------------------------------- tasks


def test_the_promised_tasks_are_registered() -> None:
    assert set(list_tasks("RoboRenForce-D4RL-")) == set(TASKS)
    assert ENVIRONMENTS.keys() == SIZES.keys()


@pytest.mark.parametrize("task_id", TASKS)
def test_a_task_learns_from_a_file_and_is_judged_in_its_environment(task_id: str) -> None:
    env = task_id.split("-")[2]
    task = load_task(task_id)
    assert task.env_cfg.num_envs == 1 and task.env_cfg.env_id.startswith(env)
    assert re.sub("[^a-z]", "", task.runner_cfg.dataset.source.split("/")[-2]) == re.sub("[^a-z]", "", env.lower())
    write_random("random.hdf5", env)
    task.runner_cfg = task.runner_cfg.replace(updates_per_iteration=2, eval_interval=0, logger=[], report=False)
    task.runner_cfg.dataset.source = "random.hdf5"
    task.runner_cfg.algorithm.batch_size = 8
    task.validate()
    runner = task.runner_cfg.build(task=task_id)
    before = {name: value.clone() for name, value in runner.algorithm.networks.actor.named_parameters()}
    runner.learn(1)
    after = dict(runner.algorithm.networks.actor.named_parameters())
    assert any(not torch.equal(before[name], after[name]) for name in before)
    played = task.env_cfg.build()
    action = runner.policy()(played.get_observations())
    assert action.shape == (1, SIZES[env][1]) and action.abs().max() <= 1.0
    played.close()


def test_tasks_are_listed_with_their_package(capsys: pytest.CaptureFixture[str]) -> None:
    rrf(["list", "RoboRenForce-D4RL-Hopper"])
    listed = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["RoboRenForce-D4RL-Hopper-ReBRAC", "RRF_d4rl_tasks", "ReBRAC"] in listed
    assert ["RoboRenForce-D4RL-Hopper-TD3BC", "RRF_d4rl_tasks", "TD3BC"] in listed


# ---------------------------------------------------------------------------------------------------------- scores


def test_scores_are_on_the_scale_of_d4rl() -> None:
    assert normalized_score("Hopper-v5", 3234.3) == pytest.approx(100.0)
    assert normalized_score("hopper-medium-v2", -20.272305) == pytest.approx(0.0)
    assert normalized_score("RoboRenForce-D4RL-Walker2d-IQL", 3000.0) == pytest.approx(65.3144, abs=1e-3)
    assert normalized_score("mujoco/halfcheetah/medium-v0", 5000.0) == pytest.approx(42.5299, abs=1e-3)
    assert normalized_score("Pendulum-v1", -200.0) is None and reference_returns("HopperLike") is None


# --------------------------------------------------------------------------------------------------------- scripts


def test_the_scripts_record_train_resume_play_and_score(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    record = ["--task", "RoboRenForce-Gym-Hopper-PPO", "--steps", "400", "--num_envs", "2", "--output"]
    run_script(monkeypatch, "data/collect_dataset.py", *record, "data.hdf5")
    out = capsys.readouterr().out
    assert re.search(r"random +4\d\d transitions in \d+ episodes \(\d+ terminated\), return", out)
    assert "written to    data.hdf5" in out
    data = OfflineDatasetCfg(source="data.hdf5").build()
    assert f"random        {len(data):,} transitions in {len(data.episode_returns):,} episodes" in out

    small = ["updates_per_iteration=3", "algorithm.batch_size=8", "eval_interval=1", "eval_episodes=2"]
    options = ["--task", "RoboRenForce-D4RL-Hopper-TD3BC", "dataset.source=data.hdf5", *small, *QUIET]
    run_script(monkeypatch, "renforce/train_offline.py", *options, "--max_iterations", "2")
    run = newest_run("logs/RFRL")
    run_script(monkeypatch, "renforce/train_offline.py", "--resume", "--max_iterations", "3")
    lines = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    assert [line["Train/updates"] for line in lines] == [3.0, 6.0, 9.0]
    for line in lines:
        expected = 100 * (line["Eval/mean_reward"] + 20.272305) / (3234.3 + 20.272305)
        assert line["Eval/normalized_score"] == pytest.approx(expected)

    Path("data.hdf5").rename("elsewhere.hdf5")  # playing needs no data
    capsys.readouterr()
    run_script(monkeypatch, "renforce/play_offline.py", "--episodes", "2", "--export")
    out = capsys.readouterr().out
    mean = json.loads(run.evaluation.read_text())["deterministic"]["mean"]
    assert f"deterministic normalized score {normalized_score('Hopper-v5', mean):.1f}" in out
    assert (run.exported / "policy.onnx").is_file()
    error = refused(capsys, monkeypatch, "renforce/train_offline.py", "--resume", "--max_iterations", "4")
    assert "There is no file 'data.hdf5'" in error


def test_a_resumed_run_is_the_run_that_was_not_interrupted() -> None:
    write_random("data.hdf5", "Pendulum")
    options = ["--task", "RoboRenForce-D4RL-Pendulum-IQL", "dataset.source=data.hdf5", "updates_per_iteration=3"]
    options += ["algorithm.batch_size=8", "eval_interval=0", "max_iterations=4", *QUIET]
    rrf(["train", *options, "--run_name", "straight", "save_interval=2"])
    straight = newest_run("logs/RFRL")
    Path("copy").mkdir()
    Path("copy/model_2.pt").write_bytes(straight.checkpoint(2).read_bytes())
    rrf(["train", "--resume", "copy"])
    states = [load_checkpoint(run.checkpoint(4))["algorithm"]["networks"] for run in (straight, RunDir(Path("copy")))]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_other_data_is_refused(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    write_random("data.hdf5", "Pendulum")
    write_random("more.hdf5", "Pendulum", rows=100)
    options = ["--task", "RoboRenForce-D4RL-Pendulum-BC", "updates_per_iteration=1", "eval_interval=0", *QUIET]
    run_script(monkeypatch, "renforce/train_offline.py", *options, "--max_iterations", "1", "dataset.source=data.hdf5")
    again = ["--resume", "--max_iterations", "2", "dataset.source=more.hdf5"]
    assert "resume with the same data" in refused(capsys, monkeypatch, "renforce/train_offline.py", *again)
    wrong = ["--task", "RoboRenForce-D4RL-Hopper-BC", "dataset.source=data.hdf5", "--max_iterations", "1", *QUIET]
    error = refused(capsys, monkeypatch, "renforce/train_offline.py", *wrong)
    assert "data.hdf5 was not recorded in Hopper-v5: observation group 'policy' is (3,) in the data and (11,)" in error
    absent = ["--task", "RoboRenForce-D4RL-Pendulum-BC", "dataset.download=false", *QUIET]
    error = refused(capsys, monkeypatch, "renforce/train_offline.py", *absent)
    assert "no data set 'pendulum/mixed-v0'" in error and "--output pendulum/mixed-v0" in error


# -------------------------------------------------------------------------------------------------------- recording


@pytest.fixture
def trained() -> RunDir:
    """A run with three checkpoints, that has learned nothing."""
    small = [
        "--num_envs",
        "2",
        "num_steps_per_env=8",
        "algorithm.num_mini_batches=2",
        "algorithm.num_learning_epochs=1",
    ]
    rrf(["train", "--task", GYM_TASK, *small, "--max_iterations", "3", "save_interval=1", *QUIET])
    return newest_run("logs/RFRL")


def collect(monkeypatch: pytest.MonkeyPatch, run: RunDir, *options: str) -> Any:
    output = next((word for word in options if word.endswith(("-v0", ".hdf5"))), "out.hdf5")
    given = options if output in options else (*options, "--output", output)
    run_script(monkeypatch, "data/collect_dataset.py", "--target", str(run.root), "--num_envs", "2", *given)
    return OfflineDatasetCfg(source=output).build()


def test_a_mixture_holds_its_shares(
    trained: RunDir, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ["--policy", "mixed", "--shares", "random=1,expert=2", "--steps", "1200", "--output", "pendulum/mixed-v0"]
    data = collect(monkeypatch, trained, *options)
    out = capsys.readouterr().out
    assert len(data) == 1200 and data.truncated.sum() == 6
    assert re.search(r"random +400 transitions in 2 episodes", out)
    assert re.search(r"expert +800 transitions in 4 episodes", out)


def test_medium_is_the_first_checkpoint_that_is_good_enough(
    trained: RunDir, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    collect(monkeypatch, trained, "--policy", "medium", "--medium_return", "-5000", "--steps", "1")
    assert "medium        model_1.pt with a return of" in capsys.readouterr().out
    error = refused(
        capsys, monkeypatch, "data/collect_dataset.py", "--target", str(trained.root), "--policy", "medium",
        "--medium_return", "0", "--output", "x.hdf5",
    )  # fmt: skip
    assert re.search(r"No checkpoint reaches a return of 0.0 \(model_1.pt -[\d,.]+, model_2.pt .*, model_3.pt", error)


def test_without_a_target_the_newest_run_of_the_task_acts(
    trained: RunDir, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ["--num_envs", "2", "--steps", "1", "--policy", "expert", "--deterministic"]
    run_script(monkeypatch, "data/collect_dataset.py", "--task", GYM_TASK, *options, "--output", "newest.hdf5")
    assert re.search(r"expert +400 transitions", capsys.readouterr().out)
    newest = OfflineDatasetCfg(source="newest.hdf5").build()
    named = collect(monkeypatch, trained, *options[2:], "--output", "named.hdf5")
    assert torch.equal(newest.action, named.action)
    other = ["--target", str(trained.root), "--task", "RoboRenForce-Gym-Hopper-PPO", "--output", "x.hdf5"]
    assert f"belongs to task '{GYM_TASK}', not to" in refused(capsys, monkeypatch, "data/collect_dataset.py", *other)


def test_the_policy_of_the_checkpoint_acts_with_the_noise_that_was_asked_for(
    trained: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    exact = collect(monkeypatch, trained, "--deterministic", "--steps", "400", "--output", "exact.hdf5")
    runner = load_task(GYM_TASK)
    data = load_checkpoint(trained.checkpoint(3))
    runner.runner_cfg = type(runner.runner_cfg).from_dict(data["config"]["agent"])
    player = runner.runner_cfg.build(env=runner.env_cfg.replace(num_envs=2).build())
    player.load(trained.checkpoint(3), resume=False)
    meant = player.policy()(TensorDict(dict(exact.obs), batch_size=[len(exact)])).clamp(-1, 1)
    assert torch.allclose(exact.action, meant, atol=1e-5)
    noisy = collect(
        monkeypatch, trained, "--deterministic", "--steps", "4000", "--noise", "0.1", "--output", "noisy.hdf5"
    )
    meant = player.policy()(TensorDict(dict(noisy.obs), batch_size=[len(noisy)]))
    inside = (meant.abs() < 0.6).squeeze(1)
    assert (noisy.action - meant)[inside].std().item() == pytest.approx(0.1, rel=0.1)
    random = collect(monkeypatch, trained, "--deterministic", "--steps", "400", "--epsilon", "1", "--output", "r.hdf5")
    assert random.action.std().item() == pytest.approx(1 / 3**0.5, rel=0.1)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--output", "x.hdf5"], "Nothing to record: name a --task"),
        (
            ["--task", GYM_TASK, "--policy", "expert", "--output", "x.hdf5"],
            f"No run of task '{GYM_TASK}' with a checkpoint lies below",
        ),
        (["--target", "run", "--shares", "random=1", "--output", "x.hdf5"], "add --policy mixed"),
        (
            ["--target", "run", "--policy", "mixed", "--checkpoint", "3", "--output", "x.hdf5"],
            "--checkpoint names one policy and --policy mixed chooses several",
        ),
        (["--task", GYM_TASK, "--noise", "0.1", "--output", "x.hdf5"], "--noise is for a trained policy, and this"),
        (
            ["--target", "run", "--policy", "random", "--deterministic", "--output", "x.hdf5"],
            "--deterministic is for a trained policy",
        ),
        (
            ["--task", GYM_TASK, "--steps", "0", "--output", "x.hdf5"],
            "--steps is 0, expected at",
        ),
        (["--task", GYM_TASK, "--output", "nonsense"], "'nonsense' is no place for a data set"),
        (["--task", GYM_TASK], "The following arguments are required: --output"),
        (["--shares", "rndom=1", "--output", "x.hdf5"], "there is no level 'rndom': did you mean 'random'?"),
        (["--shares", "random=no", "--output", "x.hdf5"], "the share of random is 'no', expected a number above 0"),
        (["--target", "nowhere", "--output", "x.hdf5"], "'nowhere' is neither a run directory nor a checkpoint"),
    ],
)
def test_wrong_options_of_recording_are_one_sentence(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, words: list[str], sentence: str
) -> None:
    assert sentence in refused(capsys, monkeypatch, "data/collect_dataset.py", *words)
