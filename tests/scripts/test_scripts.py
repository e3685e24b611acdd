"""The scripts and `rrf` as a user calls them: training, resuming, playing, listing, and every wrong input."""

from __future__ import annotations

import json
import os
import re
import runpy
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
import torch
from RoboRenForce.algorithms.on_policy import ppo
from RoboRenForce.cli import main
from RoboRenForce.cli.commands import COMMANDS
from RoboRenForce.configclass import Cfg, configclass
from RoboRenForce.envs.scripted_env import ScriptedEnvCfg
from RoboRenForce.runners import saved_run
from RoboRenForce.runners.arguments import play_parser, train_parser
from RoboRenForce.runners.training_run import apply_flags
from RoboRenForce.utils import console_command as command
from RoboRenForce.utils.checkpoint import load_checkpoint
from RoboRenForce.utils.device import find_device
from RoboRenForce.utils.errors import UserError
from RoboRenForce.utils.registry import ENV_KEY, RUNNER_KEY, load_task
from RoboRenForce.utils.run_dir import RunDir, newest_run
from small_runs import BadEnv, ppo_cfg

pytest.importorskip("RRF_gym_tasks")

pytestmark = pytest.mark.contract

ROOT = Path(__file__).parents[2]
SCRIPTS = ROOT / "scripts" / "renforce"
TASK = "RoboRenForce-Gym-CartPole-PPO"
SMALL = ["--num_envs", "4", "num_steps_per_env=8", "algorithm.num_mini_batches=2", "algorithm.num_learning_epochs=1"]


@configclass
class BadEnvCfg(ScriptedEnvCfg):
    class_type: type = BadEnv


def register(task_id: str, env_cfg: Any) -> None:
    if task_id not in gym.registry:
        gym.register(id=task_id, entry_point="none:none", kwargs={ENV_KEY: env_cfg, RUNNER_KEY: ppo_cfg()})


register("RoboRenForce-Test-NaN-PPO", BadEnvCfg())
register("space/Scripted-v0", ScriptedEnvCfg())


@pytest.fixture(autouse=True)
def in_a_fresh_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def script(name: str, *args: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}
    return subprocess.run([sys.executable, str(SCRIPTS / name), *args], capture_output=True, text=True, env=environment)


def refused(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """The one sentence with which a command ends."""
    with pytest.raises(SystemExit) as left:
        main(list(argv))
    assert left.value.code == 1
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("Error: ")]
    assert len(errors) == 1
    return errors[0]


def trained(*argv: str) -> RunDir:
    main(["train", "--task", TASK, *SMALL, "--max_iterations", "2", "report=false", "logger=[]", *argv])
    return newest_run("logs/RFRL")


def test_a_run_that_a_module_began_names_it_and_no_folder_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = ModuleSpec("RoboRenForce.cli.__main__", None)
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", spec)
    monkeypatch.setattr(sys, "argv", ["/home/me/RoboRenForce/cli/__main__.py", "train", "--task", TASK])
    assert trained().run_info()["command"] == f"python -m RoboRenForce.cli train --task {TASK}"


# --------------------------------------------------------------------------------------------------- the whole path


def test_the_scripts_train_resume_play_film_and_export(tmp_path: Path) -> None:
    done = script("train_gym.py", "--task", TASK, *SMALL, "--max-iterations", "3", "--run_name", "first")
    assert done.returncode == 0, done.stderr
    (root,) = (tmp_path / "logs" / "RFRL" / TASK).iterdir()
    assert root.name.endswith("_first")
    assert {"latest", "curves.png", "metrics.jsonl", "model_3.pt", "report.html"} <= set(os.listdir(root))
    assert sorted(os.listdir(root / "params")) == ["agent.yaml", "env.yaml", "run.yaml"]
    assert [name for name in os.listdir(root) if name.startswith("events.out.tfevents")]
    assert "Learning iteration 3/3" in done.stdout and f" play --target {root.relative_to(tmp_path)}" in done.stdout
    for text in ("torch", "device cpu | seed 42", "CartPole-v1: 4 envs", "run directory"):
        assert text in done.stderr

    done = script("train_gym.py", "--resume", "--max_iterations", "5")
    assert done.returncode == 0, done.stderr
    assert "resumed from" in done.stderr and "Learning iteration 5/5" in done.stdout
    lines = [json.loads(line) for line in (root / "metrics.jsonl").read_text().splitlines()]
    assert [line["iteration"] for line in lines] == [1, 2, 3, 4, 5]
    assert len(list(root.parent.iterdir())) == 1  # the run goes on in its own directory

    done = script("play_gym.py", "--episodes", "3", "--video", "--steps", "10", "--export")
    assert done.returncode == 0, done.stderr
    result = json.loads((root / "eval.json").read_text())
    for mode in ("deterministic", "sampled"):
        returns = result[mode]["returns"]
        assert result[mode]["n"] == len(returns) == 3
        assert result[mode]["mean"] == pytest.approx(sum(returns) / 3)
        assert re.search(rf"{mode} +mean \d", done.stdout)
    assert sorted(os.listdir(root / "exported")) == ["policy.onnx", "policy.pt2"]
    assert os.listdir(root / "videos") == ["play_model_5.mp4"]
    page = (root / "report.html").read_text()
    assert "data:video/mp4" in page and "deterministic return, n = 3" in page


@pytest.mark.usefixtures("usual_signals")
def test_ctrl_c_saves_and_says_how_to_go_on(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}
    command = [sys.executable, str(SCRIPTS / "train_gym.py"), "--task", TASK, *SMALL, "--max_iterations", "100000"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, cwd=tmp_path
    )
    assert process.stdout is not None
    assert process.stdout.readline().startswith("Learning iteration 1/")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate()
    assert process.returncode == 130
    assert "Stopping after this iteration and saving" in err and "Traceback" not in err
    run = newest_run("logs/RFRL")
    assert "Training was stopped; everything is saved." in out and f" train --resume {run.root}" in out
    saved = run.pointed("latest")
    assert saved is not None
    iteration = load_checkpoint(saved)["iteration"]
    main(["train", "--resume", str(run.root), "--max_iterations", str(iteration + 1)])
    assert list(run.checkpoints())[-1] == iteration + 1


def test_resume_on_the_real_simulator_is_exact(tmp_path: Path) -> None:
    straight = trained("--max_iterations", "4", "--run_name", "straight")
    halves = trained("--max_iterations", "4", "save_interval=2", "--run_name", "halves")
    assert straight.root != halves.root
    # A copy that ends at iteration 2 stands for a run that was interrupted there.
    copy = tmp_path / "copy"
    (copy / "params").mkdir(parents=True)
    (copy / "model_2.pt").write_bytes(halves.checkpoint(2).read_bytes())
    main(["train", "--resume", str(copy)])
    one, two = (load_checkpoint(root / "model_4.pt")["algorithm"]["networks"] for root in (straight.root, copy))
    assert all(torch.equal(one[name], two[name]) for name in one)
    early = load_checkpoint(copy / "model_2.pt")["algorithm"]["networks"]
    assert any(not torch.equal(early[name], one[name]) for name in one)


def test_the_way_from_the_script_to_the_loss_has_four_hops(monkeypatch: pytest.MonkeyPatch) -> None:
    class FoundError(Exception):
        pass

    def stop(*args: Any, **kwargs: Any) -> None:
        raise FoundError

    monkeypatch.setattr(ppo.functional, "clipped_surrogate", stop)
    monkeypatch.setattr(sys, "argv", ["train_gym.py", "--task", TASK, *SMALL, "logger=[]"])
    with pytest.raises(FoundError) as caught:
        runpy.run_path(str(SCRIPTS / "train_gym.py"), run_name="__main__")
    project = [str(SCRIPTS), str(Path(ppo.__file__).parents[2])]
    frames = [
        entry for entry in traceback.extract_tb(caught.value.__traceback__) if entry.filename.startswith(tuple(project))
    ]
    files = [Path(entry.filename).name for entry in frames]
    assert list(dict.fromkeys(files)) == ["train_gym.py", "on_policy_runner.py", "ppo.py"]
    assert files == sorted(files, key=["train_gym.py", "on_policy_runner.py", "ppo.py"].index)  # never back and forth
    names = [entry.name for entry in frames]
    assert [name for name in names if name in ("main", "learn", "update")] == ["main", "learn", "update"]
    assert Path(ppo.functional.clipped_surrogate.__code__.co_filename).name == Path(__file__).name
    monkeypatch.undo()
    assert Path(ppo.functional.clipped_surrogate.__code__.co_filename).name == "policy_loss.py"


def test_scripts_stay_thin() -> None:
    for path in SCRIPTS.glob("*.py"):
        text = path.read_text()
        assert len(text.splitlines()) <= 80, path.name
        assert "if task" not in text.replace("if task_id", ""), path.name


# ------------------------------------------------------------------------------------------------- configuration


def given(*argv: str) -> Any:
    task = load_task(TASK)
    apply_flags(task, train_parser("").parse(argv))
    return task


def test_only_flags_that_were_given_change_anything() -> None:
    assert given().to_yaml() == load_task(TASK).to_yaml()
    task = given("--num-envs", "3", "--seed", "7", "--max_iterations=9", "--logger", "none", "--experiment_name", "e")
    assert (task.env_cfg.num_envs, task.runner_cfg.seed, task.runner_cfg.max_iterations) == (3, 7, 9)
    assert (task.runner_cfg.logger, task.runner_cfg.experiment_name) == ([], "e")


def test_overrides_reach_runner_algorithm_policy_and_environment() -> None:
    task = given("algorithm.gamma=0.5", "policy.actor_cfg.normalizer_cfg.eps=0.5", "env.frame_skip=2", "agent.seed=4")
    assert task.runner_cfg.algorithm.gamma == 0.5
    assert task.runner_cfg.policy.actor_cfg.normalizer_cfg.eps == 0.5
    assert (task.env_cfg.frame_skip, task.runner_cfg.seed) == (2, 4)


def test_a_file_is_weaker_than_flags_and_flags_are_weaker_than_overrides(tmp_path: Path) -> None:
    file = tmp_path / "changes.yaml"
    file.write_text("max_iterations: 5\nseed: 5\nalgorithm: {gamma: 0.5}\nenv: {num_envs: 5}\n")
    task = given("--config", str(file), "--seed", "6", "--num_envs", "6", "env.num_envs=7")
    assert (task.runner_cfg.max_iterations, task.runner_cfg.algorithm.gamma) == (5, 0.5)
    assert (task.runner_cfg.seed, task.env_cfg.num_envs) == (6, 7)


def test_the_printed_configuration_can_be_read_back(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as left:
        main(["train", "--task", TASK, "algorithm.gamma=0.123", "env.num_envs=5", "--print_config"])
    assert left.value.code == 0 and not (tmp_path / "logs").exists()
    printed = capsys.readouterr().out
    (tmp_path / "printed.yaml").write_text(printed)
    task = given("--config", str(tmp_path / "printed.yaml"))
    assert (task.runner_cfg.algorithm.gamma, task.env_cfg.num_envs) == (0.123, 5)
    assert task.to_yaml().strip() == printed.strip()


def test_a_resumed_run_keeps_its_overrides(tmp_path: Path) -> None:
    run = trained("algorithm.gamma=0.77", "env.frame_skip=2")
    main(["train", "--resume", "--max_iterations", "3"])
    config = load_checkpoint(run.checkpoint(3))["config"]
    assert config["agent"]["algorithm"]["gamma"] == 0.77 and config["env"]["frame_skip"] == 2
    assert config["agent"]["num_steps_per_env"] == 8


def test_a_learning_rate_that_a_resumed_run_does_not_take_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    run = trained("algorithm.learning_rate=0.002", "algorithm.schedule=fixed")
    main(["train", "--resume", "--max_iterations", "3"])
    assert "does not reach" not in capsys.readouterr().err
    main(["train", "--resume", "--max_iterations", "4", "algorithm.learning_rate=0.5"])
    assert "algorithm.learning_rate=0.5 does not reach a run that goes on" in capsys.readouterr().err
    assert load_checkpoint(run.checkpoint(4))["algorithm"]["optimizer"]["lr"] == pytest.approx(0.002)


def test_a_run_of_a_task_with_a_namespace_is_found_again() -> None:
    main(["train", "--task", "space/Scripted-v0", "--max_iterations", "1", "report=false", "logger=[]"])
    run = newest_run("logs/RFRL", task="space/Scripted-v0")
    assert run.root.parent == Path("logs/RFRL/space-Scripted-v0")
    main(["train", "--task", "space/Scripted-v0", "--resume", "--max_iterations", "2"])
    assert list(run.checkpoints()) == [1, 2]


def test_a_configuration_is_validated_once_and_a_checkpoint_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    validated, read = [], []
    validate, load = Cfg.validate, saved_run.load_checkpoint

    def counted(cfg: Cfg) -> None:
        validated.append(type(cfg).__name__)
        validate(cfg)

    monkeypatch.setattr(Cfg, "validate", counted)
    monkeypatch.setattr(
        saved_run, "load_checkpoint", lambda path, **options: read.append(path) or load(path, **options)
    )
    run = trained("eval_interval=1", "eval_episodes=1")
    both = [type(cfg).__name__ for cfg in (load_task(TASK).env_cfg, load_task(TASK).runner_cfg)]
    assert validated == both and read == []
    validated.clear()
    main(["train", "--resume", "--max_iterations", "3"])
    assert validated == both and read == [run.checkpoint(2)]
    main(["play", "--episodes", "1"])
    assert validated == both * 2 and read == [run.checkpoint(2), run.checkpoint(3)]


def test_a_refused_start_leaves_no_directory_behind(capsys: pytest.CaptureFixture[str]) -> None:
    run = trained("save_interval=1")
    there = list(run.root.parent.iterdir())
    old = ["--resume", str(run.checkpoint(1))]  # which starts another directory
    error = refused(capsys, "train", *old, "env.obs_mask=[1]", "--max_iterations", "3")
    assert "observation group 'policy' is (3,) here and (4,) there" in error
    assert "has finished its 1 iterations" in refused(capsys, "train", *old, "--max_iterations", "1")
    assert "Nothing" in refused(capsys, "train", "--task", TASK, "env.env_id=Nothing-v0")
    assert list(run.root.parent.iterdir()) == there


def test_resuming_an_old_checkpoint_starts_another_directory(tmp_path: Path) -> None:
    run = trained("save_interval=1")
    before = (run.root / "metrics.jsonl").read_bytes()
    main(["train", "--resume", str(run.checkpoint(1)), "--max_iterations", "2", "--run_name", "branch"])
    roots = sorted(run.root.parent.iterdir())
    assert len(roots) == 2 and (run.root / "metrics.jsonl").read_bytes() == before
    branch = next(root for root in roots if root != run.root)
    assert [json.loads(line)["iteration"] for line in (branch / "metrics.jsonl").read_text().splitlines()] == [2]


def test_the_device_of_a_process_follows_from_its_local_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert find_device("cuda") == torch.device("cuda:1")
    assert find_device("cuda:0") == torch.device("cuda:0")
    with pytest.raises(UserError, match="There is no device cuda:2; this machine has 2"):
        find_device("cuda:2")


# ---------------------------------------------------------------------------------------------------- other commands


def test_tasks_are_listed_with_package_and_algorithm(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    main(["list", "RoboRenForce-Gym-Cart"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["TASK", "PACKAGE", "ALGORITHM"]
    assert [TASK, "RRF_gym_tasks", "PPO"] in [line.split() for line in lines]
    assert not [line for line in lines if "HalfCheetah" in line]
    monkeypatch.setattr(sys, "argv", ["list_tasks.py"])
    runpy.run_path(str(SCRIPTS / "list_tasks.py"), run_name="__main__")
    listed = dict(line.split()[::2] for line in capsys.readouterr().out.splitlines() if "-Gym-Half" in line)
    for preset in ("PPO", "SAC", "DSAC", "DSACT", "SACSeq", "TD3"):
        assert listed[f"RoboRenForce-Gym-HalfCheetah-{preset}"] == preset


def test_eval_export_and_plot_work_on_the_newest_run(capsys: pytest.CaptureFixture[str]) -> None:
    run = trained()
    main(["eval", "--episodes", "2", "--stochastic"])
    assert set(json.loads(run.evaluation.read_text())) == {"checkpoint", "task", "seed", "overrides", "sampled"}
    main(["export", "--checkpoint", "2"])
    assert sorted(os.listdir(run.exported)) == ["policy.onnx", "policy.pt2"]
    extra = {"metadata.json": ""}
    torch.export.load(run.exported / "policy.pt2", extra_files=extra)
    known = json.loads(extra["metadata.json"])
    assert json.loads(known["action"])["units"] == "policy" and known["checkpoint"] == "model_2.pt"
    assert json.loads(known["versions"])["torch"] and json.loads(known["simulator"])["id"] == "CartPole-v1"
    (run.exported / "policy.onnx").unlink()
    main(["play", "--episodes", "1", "--export-formats", "torchscript,pt2"])  # names what to export, so it exports
    assert sorted(os.listdir(run.exported)) == ["policy.pt", "policy.pt2"]
    other = trained("--run_name", "other")
    main(["plot"])
    assert str(other.report) in capsys.readouterr().out
    main(["plot", str(run.root), str(other.root), "--output", "both.png"])
    assert Path("both.png").read_bytes().startswith(b"\x89PNG")


def test_the_doctor_tells_what_is_missing_and_tries_to_render(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from RoboRenForce.cli import doctor as module
    from RRF_gym_tasks import doctor as package

    calls: list[list[str]] = []

    def rendered(command: list[str], **options: Any) -> Any:
        calls.append(command)
        code, out, err = outcomes.pop(0)
        return subprocess.CompletedProcess(command, code, out, err)

    versions = {"mujoco": "3.9", "gymnasium": "1.2", "RoboRenForce": "0.1"}
    monkeypatch.setattr(module, "package_version", lambda name: versions.get(name, ""))
    monkeypatch.setattr(package.subprocess, "run", rendered)
    outcomes = [(0, "FRAME 360 480 3 255\n", ""), (1, "", "Traceback\nOSError: libEGL.so.1 not found\n")]
    with pytest.raises(SystemExit) as left:
        main(["doctor"])
    out = capsys.readouterr().out
    assert left.value.code == 0 and "works (480 x 360 pixels" in out
    assert re.search(r"RRF_gym \(.*gym tasks\) +ready \(RoboRenForce 0.1, gymnasium 1.2, mujoco 3.9\)", out)
    assert re.search(r"RRF_gym\[envpool\] +missing envpool: pip install -e 'source/tasks/RRF_gym\[envpool\]'", out)
    assert "HalfCheetah" in calls[0][-1]
    with pytest.raises(SystemExit) as left:
        main(["doctor"])
    assert left.value.code == 1 and "fails: OSError: libEGL.so.1 not found" in capsys.readouterr().out


def test_what_to_type_next_works_without_an_active_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command.shutil, "which", lambda name: None)
    monkeypatch.setattr(sys, "executable", str(tmp_path / ".venv" / "bin" / "python"))
    assert command.console_command() == "python -m RoboRenForce.cli"
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "rrf").touch()
    assert command.console_command() == ".venv/bin/rrf"
    monkeypatch.setattr(command.shutil, "which", lambda name: "/anywhere/rrf")
    assert command.console_command() == "rrf"


def test_every_command_has_help(capsys: pytest.CaptureFixture[str]) -> None:
    main([])
    listed = capsys.readouterr().out
    for name in COMMANDS:
        assert f"  {name} " in listed
        with pytest.raises(SystemExit) as left:
            main([name, "--help"])
        assert left.value.code == 0 and "usage:" in capsys.readouterr().out
    for parser in (train_parser("x"), play_parser("x")):
        assert "env.field=value" in parser.format_help()


# -------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["train", "--task", "RoboRenForce-Gym-CartPol-PPO"], r"no task 'RoboRenForce-Gym-CartPol-PPO'.*CartPole"),
        (["train"], "No task given; name one with --task, `rrf list` shows all"),
        (["train", "--task", TASK, "--num_envs", "0"], "--num_envs: got 0, expected an integer of at least 1"),
        (["train", "--task", TASK, "--num_envs", "many"], "--num_envs: got many, expected an integer"),
        (["train", "--task", TASK, "env.num_envs=0"], r"env.num_envs: .*0"),
        (["train", "--task", TASK, "--device", "gpu"], "There is no device 'gpu'; use cpu, cuda, cuda:<number> or mps"),
        (["train", "--task", TASK, "--num_env", "3"], "There is no option --num_env: did you mean '--num_envs'?"),
        (["train", "--task", TASK, "algorithm.gama=0.9"], "algorithm.gama.*gamma"),
        (["train", "--task", TASK, "algorithm.gamma=2"], "algorithm.gamma.*2"),
        (["train", "--task", TASK, "gamma"], "'gamma' is neither an option nor an override"),
        (["train", "--task", TASK, "--config", "absent.yaml"], "absent.yaml"),
        (
            ["train", "--task", TASK, "--logger", "tensorbord"],
            "there is no logger 'tensorbord': did you mean 'tensorboard'?",
        ),
        (["train", "--task", TASK, "--log_root", "file/logs"], "can't be written .*choose another one with --log_root"),
        (["train", "--resume"], "No run with a checkpoint lies below 'logs/RFRL'"),
        (["train", "--resume", "nowhere"], "'nowhere' is neither a run directory nor a checkpoint"),
        (["train", "--task", TASK, *SMALL, "algorithm.num_mini_batches=7"], "num_mini_batches.*7.*does not divide"),
        (["train", "--task", TASK, *SMALL, "--logger", "swanlab"], r"swanlab.*pip install .*RoboRenForce\[swanlab\]"),
        (["train", "--resume", "--task", "RoboRenForce-Gym-CartPol-PPO"], r"no task 'RoboRenForce-Gym-CartPol-PPO'"),
        (["play"], "No run with a checkpoint lies below"),
        (["play", "--task", TASK], f"No run of task '{TASK}' with a checkpoint lies below 'logs/RFRL'"),
        (["play", "--task", "RoboRenForce-Gym-CartPol-PPO"], r"no task 'RoboRenForce-Gym-CartPol-PPO'.*CartPole"),
        (["play", "--target", "nowhere"], "'nowhere' is neither a run directory nor a checkpoint"),
        (["play", "--episodes", "0"], "--episodes: got 0"),
        (["plot", "."], "'.' is not a run directory: it has no metrics.jsonl"),
        (["list", "Nothing"], "There is no task with 'Nothing' in its id"),
        (["trian"], "There is no command 'trian': did you mean 'train'?"),
    ],
)
def test_wrong_input_is_one_sentence(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, argv: list[str], sentence: str
) -> None:
    (tmp_path / "file").write_text("not a folder")
    assert re.search(sentence, refused(capsys, *argv))


def test_a_missing_gpu_is_one_sentence(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    error = refused(capsys, "train", "--task", TASK, "--device", "cuda:0")
    assert "--device cuda:0 needs an NVIDIA GPU" in error and "use --device cpu" in error
    assert not Path("logs").exists()


def test_the_checkpoint_of_another_task_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    run = trained()
    error = refused(capsys, "train", "--task", "RoboRenForce-Gym-Pendulum-PPO", "--resume", str(run.root))
    assert f"belongs to task '{TASK}', not to 'RoboRenForce-Gym-Pendulum-PPO'" in error
    error = refused(capsys, "play", "--task", "RoboRenForce-Gym-Pendulum-PPO", "--target", str(run.root))
    assert f"belongs to task '{TASK}'" in error
    error = refused(capsys, "play", "--target", str(run.root), "env.obs_mask=[1]")
    assert "observation group 'policy' is (3,) here and (4,) there" in error


def test_a_finished_run_has_nothing_to_resume(capsys: pytest.CaptureFixture[str]) -> None:
    trained()
    assert "has finished its 2 iterations; give a larger --max_iterations" in refused(capsys, "train", "--resume")


def test_a_broken_checkpoint_names_the_usable_one(capsys: pytest.CaptureFixture[str]) -> None:
    run = trained("save_interval=1")
    run.checkpoint(2).write_bytes(run.checkpoint(2).read_bytes()[:1000])
    error = refused(capsys, "play", "--checkpoint", "2")
    assert "is truncated" in error and str(run.checkpoint(1)) in error
    main(["play", "--episodes", "1"])  # both take the newest whole one
    said, shown = capsys.readouterr()[::-1]
    assert "is truncated" in said and f"playing       {run.checkpoint(1)} of" in shown
    main(["train", "--resume"])
    said = capsys.readouterr().err
    assert "is truncated" in said and f"resumed from {run.checkpoint(1)} at iteration 1" in said


def test_nan_from_the_environment_is_one_sentence_with_a_dump(capsys: pytest.CaptureFixture[str]) -> None:
    error = refused(capsys, "train", "--task", "RoboRenForce-Test-NaN-PPO", "num_steps_per_env=4", "save_interval=1")
    assert "returned NaN or infinity in iteration 2" in error
    run = newest_run("logs/RFRL")
    (dump,) = run.root.glob("nan_dump_*.pt")
    assert str(dump) in error and list(run.checkpoints()) == [1]
    assert {"rollout", "first_bad_step", "env", "algorithm", "spec"} <= torch.load(dump, weights_only=True).keys()


def test_a_video_that_cannot_be_made_stops_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from RRF_gym_tasks.gym_env import GymVecEnv

    def fail(self: GymVecEnv) -> None:
        raise RuntimeError("libEGL is missing: apt-get install libegl1")

    monkeypatch.setattr(GymVecEnv, "render", fail)
    run = trained("--video")
    assert "No video: libEGL is missing: apt-get install libegl1" in capsys.readouterr().err
    main(["play", "--episodes", "1", "--video"])
    assert "No video" in capsys.readouterr().err and run.evaluation.is_file()


def test_a_defect_of_ours_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: Any) -> Callable[[], None]:
        raise KeyError("a defect")

    monkeypatch.setattr(ppo.PPO, "update", broken)
    with pytest.raises(KeyError):
        trained()


def test_a_simulator_that_changes_the_folder_does_not_split_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from RRF_gym_tasks.gym_env import GymVecEnv

    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    step = GymVecEnv.step

    def wandering(self: Any, actions: torch.Tensor) -> Any:
        monkeypatch.chdir(elsewhere)
        return step(self, actions)

    here = Path.cwd()
    monkeypatch.setattr(GymVecEnv, "step", wandering)
    main(["train", "--task", TASK, *SMALL, "--max_iterations", "2", "save_interval=1"])
    assert list(elsewhere.iterdir()) == []
    monkeypatch.chdir(here)
    run = newest_run("logs/RFRL")
    assert list(run.checkpoints()) == [1, 2] and len(run.metrics.read_text().splitlines()) == 2
    assert f"checkpoint   {run.checkpoint(2)}" in capsys.readouterr().out
