"""The scripts of VLA RL say in a sentence what is missing, and their flags are short for what they say."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from forked import be_rank, exit_code, forked, free_port
from RoboRenForce.algorithms.vla_rl import ReinforcePPCfg
from RoboRenForce.algorithms.vla_training import SFTAlgorithmCfg
from RoboRenForce.cli import commands, saved_policy, vla_rl
from RoboRenForce.cli.saved_policy import policy_of
from RoboRenForce.cli.vla_rl import benchmark_parser, rl_play_parser, rl_train_parser, to_play
from RoboRenForce.cli.vla_tasks import SFT, find_task
from RoboRenForce.components.action_heads import ActionHeadCfg, FlowHeadCfg, RegressionHeadCfg
from RoboRenForce.components.vla_export import export_vla
from RoboRenForce.components.vla_policy import MLPBaselinePolicyCfg
from RoboRenForce.components.vla_spec import VectorSpec, VLASpec
from RoboRenForce.configclass import ConfigError
from RoboRenForce.runners import VLASFTRunnerCfg
from RoboRenForce.runners.training_run import apply_flags
from RoboRenForce.utils import task_packages
from RoboRenForce.utils.optional import is_installed
from RoboRenForce.utils.registry import Task, load_task
from RoboRenForce.utils.report import read_evaluation
from RoboRenForce.utils.run_configs import find_run_config, run_configs, task_in

pytest.importorskip("RRF_tabletop_tasks")
pytestmark = pytest.mark.contract
SCRIPTS = Path(__file__).parents[2] / "scripts" / "vla" / "rl"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("train.py", "No run given: name one with --config_name; there are"),
        ("train.py --config_name tabletop_rech_sac", "did you mean 'tabletop_reach_sac'"),
        ("train.py --config_name tabletop_reach_sac --model_path nowhere", "'nowhere' is neither a run directory nor"),
        ("train.py --config_name tabletop_reach_sac", "algorithm.init_from is empty, expected the run whose policy"),
        ("train.py --config_name tabletop_reach_sac env.num_env=3", "did you mean 'num_envs'"),
        (
            "train.py --config_name tabletop_reach_sac --task My-Task",
            "configures task 'RoboRenForce-Tabletop-Re",
        ),
        ("play.py --config_name tabletop_reach_sac --model_path nowhere", "'nowhere' is neither a run directory nor"),
        ("train_vla_benchmark.py", "--benchmark"),
        ("train_vla_benchmark.py --benchmark libero", "The benchmark 'libero' is not installed: take one of those"),
        ("train_vla_benchmark.py --benchmark tabletop --task_name fold", "no run configuration 'tabletop_fold_grpo'"),
        ("train_vla_benchmark.py --benchmark tabletop --algo dqn", "choose from"),
        ("train_robotwin_grpo.py --algo ppo --task place_empty_cup", "The benchmark 'robotwin' is not installed"),
        ("train.py --config_name tabletop_reach_grpo --group_size 7", "group_size=7 must divide the 64 training"),
        ("train.py --config_name tabletop_reach_ppo --group_size 8", "env.groups holds None, which has no fields"),
        ("train.py --config_name tabletop_reach_grpo --num_episodes 0", "expected an integer of at least 1"),
    ],
)
def test_a_mistake_is_one_sentence(
    tmp_path: Path, words: str, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    script, *argv = words.split()
    monkeypatch.setattr(sys, "argv", [script, *argv])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(SCRIPTS / script), run_name="__main__")
    shown = capsys.readouterr()
    told = " ".join((shown.out + shown.err).split())
    assert ended.value.code == 1 and message in told and "Traceback" not in told
    assert not list(tmp_path.glob("logs/*/*/*")), "nothing is left of a run that was refused"


def test_flags_have_the_names_of_other_tools_too() -> None:
    args = rl_train_parser("").parse(["--resume_dir", "a", "--max_epochs", "3", "--num-envs", "2"])
    assert (args.resume, args.max_iterations, args.num_envs) == ("a", 3, 2)
    args = rl_play_parser("").parse(["--resume_dir", "a", "--num_episodes", "3"])
    assert (args.rl_model_path, args.episodes) == ("a", 3)
    assert rl_play_parser("").parse([]).episodes == 10
    assert benchmark_parser("", benchmark="robotwin").parse([]).algo == "grpo"


def test_flags_are_short_for_fields() -> None:
    task = vla_rl.configured_task(find_run_config("tabletop_reach_grpo"))
    words = "--lr 1e-4 --group_size 4 --update_epochs 3 --kl_coef 0.1 --model_path m"
    vla_rl._apply_rl_flags(task, rl_train_parser("").parse(words.split()))
    algorithm = task.runner_cfg.algorithm
    assert (algorithm.optimizer.learning_rate, algorithm.num_learning_epochs, algorithm.kl_coef) == (1e-4, 3, 0.1)
    assert task.env_cfg.groups.group_size == 4 and algorithm.init_from == "m"


def test_only_eval_plays_what_would_be_trained() -> None:
    words = ["--config_name", "c", "--model_path", "m", "--resume_dir", "r", "--only_eval", "--seed", "5", "env.a=1"]
    args = to_play(rl_train_parser("").parse(words))
    assert (args.config_name, args.model_path, args.rl_model_path, args.seed) == ("c", "m", "r", 5)
    assert args.only_eval and args.episodes == 50 and args.overrides == ["env.a=1"] and args.log_root


def test_every_configuration_is_one_of_a_task_and_complete() -> None:
    assert {name.split("_")[0] for name in run_configs()} <= set(vla_rl.BENCHMARKS)
    for name, path in run_configs().items():
        if name.startswith("mjlab_") and not is_installed("mjlab"):
            continue
        task = vla_rl.configured_task(path)
        task.validate()
        task.refuse(task.runner_cfg.check_env(task.env_cfg))


def test_a_file_without_a_task_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("max_iterations: 3\n")
    with pytest.raises(Exception, match=r"names no task, expected a line such as task: <id>"):
        vla_rl.configured_task(tmp_path / "a.yaml")


def test_a_file_runs_no_code_and_its_unknown_keys_get_the_nearest_name(tmp_path: Path) -> None:
    head = "task: RoboRenForce-Tabletop-Reach-VLASAC\n"
    (tmp_path / "a.yaml").write_text(head + "max_iteration: 3\nenv: {multi_modal: {chunk_sise: 4}}\n")
    with pytest.raises(ConfigError) as told:
        vla_rl.configured_task(tmp_path / "a.yaml")
    assert "did you mean 'max_iterations'" in str(told.value) and "did you mean 'chunk_size'" in str(told.value)
    (tmp_path / "b.yaml").write_text(head + "algorithm: {class_type: 'os:system'}\n")
    with pytest.raises(ConfigError, match="os:system"):
        vla_rl.configured_task(tmp_path / "b.yaml")


def test_the_policy_comes_from_the_model_before_the_file_changes_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    found = find_task(SFT)
    assert found is not None
    task = Task(found.id, found.env_cfg, VLASFTRunnerCfg(policy=MLPBaselinePolicyCfg(), algorithm=SFTAlgorithmCfg()))
    model = MLPBaselinePolicyCfg(cameras=["front"])
    model.head = model.head.replace(chunk_size=3)
    monkeypatch.setattr(vla_rl, "policy_of", lambda path: model)
    args = rl_train_parser("").parse(["--model_path", "somewhere"])
    vla_rl._take_policy(task, args)
    task.apply_yaml("policy: {head: {chunk_size: 5}}\n")
    vla_rl._apply_rl_flags(task, args)
    assert task.runner_cfg.policy.cameras == ["front"] and task.runner_cfg.policy.head.chunk_size == 5
    assert task.runner_cfg.algorithm.init_from == "somewhere"


@pytest.mark.parametrize("head", [FlowHeadCfg(), RegressionHeadCfg(std=0.1)], ids=["flow", "regression"])
def test_what_demonstrations_taught_can_explore_with_every_configuration(
    monkeypatch: pytest.MonkeyPatch, head: ActionHeadCfg
) -> None:
    """A flow head gets the density that the task's has; a head that always has one stays as it is."""
    monkeypatch.setattr(vla_rl, "policy_of", lambda path: MLPBaselinePolicyCfg(head=head.copy()))
    args = rl_train_parser("").parse(["--model_path", "somewhere"])
    paths = [path for name, path in run_configs().items() if not name.startswith("mjlab_") or is_installed("mjlab")]
    for path in paths:
        task = load_task(str(task_in(path)))
        preset = task.runner_cfg.policy.head
        vla_rl._take_policy(task, args)
        task.apply_yaml(path, trust=False)
        kept = isinstance(head, FlowHeadCfg) and isinstance(preset, FlowHeadCfg)
        expected = head.replace(density=preset.density) if kept else head
        assert task.runner_cfg.policy.head.to_dict() == expected.to_dict()


@pytest.mark.parametrize(
    ("words", "config", "task"),
    [
        ("--algo ppo", "tabletop_reach_ppo", None),
        ("--algo reinforce_pp", "tabletop_reach_reinforce_pp", None),
        ("--task_name place --algo grpo", None, "RoboRenForce-Tabletop-Place-GRPO"),
        ("--task_name fork --algo ppo", None, "RoboRenForce-Tabletop-Fork-VLAPPO"),
        ("--task_name place --algo sac", "tabletop_place_sac", None),
    ],
)
def test_a_benchmark_is_a_configuration_or_else_a_task(
    monkeypatch: pytest.MonkeyPatch, words: str, config: str | None, task: str | None
) -> None:
    monkeypatch.setattr(vla_rl, "prepare_rl_training", lambda args: args)
    args: Any = vla_rl.prepare_benchmark(benchmark_parser("").parse(["--benchmark", "tabletop", *words.split()]))
    assert (args.config_name, args.task) == (config, task)


def test_flags_are_those_of_an_algorithm_that_an_override_chooses() -> None:
    task = load_task("RoboRenForce-Tabletop-Reach-GRPO")
    name = "RoboRenForce.algorithms.vla_rl.reinforce_pp:ReinforcePPCfg"
    words = ["--model_path", "m", "--lr", "0.5", f"algorithm={name}", "algorithm.gamma=0.5"]
    apply_flags(task, rl_train_parser("").parse(words), vla_rl._apply_rl_flags)
    algorithm = task.runner_cfg.algorithm
    assert isinstance(algorithm, ReinforcePPCfg)
    assert (algorithm.init_from, algorithm.optimizer.learning_rate, algorithm.gamma) == ("m", 0.5, 0.5)


def test_a_run_without_a_policy_of_this_kind_is_no_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved: Any = type("Saved", (), {"path": "p", "data": {}})()
    monkeypatch.setattr(saved_policy, "resolve_checkpoint", Path)
    monkeypatch.setattr(saved_policy, "read_run", lambda path: saved)
    stored = type("Stored", (), {"runner_cfg": type("Cfg", (), {"policy": 3})()})()
    monkeypatch.setattr(saved_policy, "task_of_checkpoint", lambda data: stored)
    with pytest.raises(Exception, match="holds a int, expected a vision-language-action policy"):
        policy_of("p")


def test_a_package_in_the_source_tree_is_named_with_its_installation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task_packages, "announced", dict)
    with pytest.raises(Exception, match=r"'tabletop' is not installed: run `./setup_ext.sh RRF_tabletop`"):
        vla_rl.prepare_benchmark(benchmark_parser("").parse(["--benchmark", "tabletop"]))


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A policy of the tabletop that has learned nothing, as `export_vla` writes it."""
    pytest.importorskip("safetensors")
    task = vla_rl.configured_task(find_run_config("tabletop_reach_grpo"))
    env = task.env_cfg.replace(num_envs=1, groups=None).build()

    def vector(dim: int) -> VectorSpec:
        numbers = {"min": -1.0, "max": 1.0, "mean": 0.0, "std": 0.5, "q01": -1.0, "q99": 1.0}
        return VectorSpec(dim, (), {name: (number,) * dim for name, number in numbers.items()})

    proprio = vector(env.spec.obs_groups["proprio"][0])
    spec = VLASpec(("front",), proprio, vector(env.spec.action.dim), tuple(env.instruction_table.values()))
    torch.manual_seed(0)
    return str(export_vla(task.runner_cfg.policy.build(spec), tmp_path_factory.mktemp("policy") / "exported"))


SHORT = ["--max_iterations", "1", "--num_envs", "8", "env.max_episode_length=8", "report=false"]


def test_training_under_torchrun_is_one_run(tmp_path: Path, exported: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["--config_name", "tabletop_reach_grpo", "--model_path", exported, *SHORT, "eval_interval=0"]
    port = free_port()

    def train(rank: int) -> None:
        be_rank(rank, port)
        sys.argv = ["train.py", *words]
        runpy.run_path(str(SCRIPTS / "train.py"), run_name="__main__")

    logs = [tmp_path / f"{rank}.txt" for rank in range(2)]
    with forked(train, 0, log=logs[0]) as first, forked(train, 1, log=logs[1]) as second:
        codes = exit_code(first), exit_code(second)
    assert codes == (0, 0), [log.read_text() for log in logs]
    (run,) = tmp_path.glob("logs/RFRL/*/*")
    assert (run / "global_step_1").is_dir() and (run / "latest").exists()


def test_what_rl_made_is_exported_and_both_are_played(
    tmp_path: Path, exported: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)

    def script(name: str, *words: str) -> str:
        monkeypatch.setattr(sys, "argv", [name, "--config_name", "tabletop_reach_grpo", *words])
        runpy.run_path(str(SCRIPTS / name), run_name="__main__")
        return capsys.readouterr().out

    few = ["--episodes", "4", "--num_envs", "2", "--seed", "3"]
    before = script("play.py", "--model_path", exported, "--only_eval", *few)
    assert f"playing       {exported}/model.safetensors of RoboRenForce-Tabletop-Reach-GRPO" in before
    script("train.py", "--model_path", exported, *SHORT, "eval_interval=0")
    (run,) = tmp_path.glob("logs/RFRL/*/*")
    commands.main(["export", "--target", str(run), "--episodes", "1", "env.max_episode_length=8"])
    assert f"exported to   {run / 'exported'}" in capsys.readouterr().out
    means = []
    cut = ["--execution", "receding_horizon", "execution.num_executed=4"]
    elsewhere = ["--task", "RoboRenForce-Tabletop-Reach-GRPO"]
    for target, more in ((run, []), (run, cut), (run / "exported", elsewhere)):
        commands.main(["play", "--target", str(target), *more, *few, "env.max_episode_length=8"])
        means.append(read_evaluation(target / "eval.json")["deterministic"]["mean"])
    assert means == pytest.approx(means[:1] * 3, abs=1e-4), "four actions of each chunk, in the same scenes"


def test_what_cannot_be_played_so_is_a_sentence(exported: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = {
        f"play --target {exported}": "is an exported policy, which names no task: name one to play it in with --task",
        f"train --task RoboRenForce-Tabletop-Reach-GRPO --print_config algorithm.init_from={exported} "
        "execution=RoboRenForce.components.chunk_execution:RecedingHorizonCfg": "RL learns from the chunks that it",
    }
    for line, message in words.items():
        with pytest.raises(SystemExit):
            commands.main(line.split())
        shown = capsys.readouterr()
        assert message in " ".join((shown.out + shown.err).split())
