"""Reinforcement learning of a VLA policy from one YAML: the flags of its scripts.

`--config_name` is the YAML of the run (see `utils.run_configs`), `--model_path` the policy that learning begins with:
its configuration comes from there too, and what the YAML says below `policy` changes it.
"""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from ..components.action_heads import FlowHeadCfg
from ..components.vla_export import is_exported
from ..runners.arguments import Parser, play_parser, positive, train_parser
from ..runners.play_run import PlayRun, prepare_play
from ..runners.training_run import TrainingRun, prepare_training
from ..utils import task_packages
from ..utils.console import say
from ..utils.errors import UserError
from ..utils.registry import Task, list_tasks, load_task
from ..utils.run_configs import find_run_config, run_configs, task_in
from .saved_policy import policy_of

BENCHMARKS = {
    "tabletop": "reach",
    "mjlab": "liftcolor",
    "libero": "spatial",
    "maniskill": "pickcube",
    "calvin": "d",
    "robotwin": "place_empty_cup",
}
"""Benchmark, which is the second word of its task ids -> task that is trained if none is named."""
ALGORITHMS = {"grpo": "GRPO", "ppo": "VLAPPO", "reinforce_pp": "ReinforcePP", "sac": "VLASAC"}
"""Algorithm -> the last word of its task ids."""
_OVERRIDES = {
    "model_path": "algorithm.init_from",
    "lr": "algorithm.optimizer.learning_rate",
    "group_size": "env.groups.group_size",
    "update_epochs": "algorithm.num_learning_epochs",
    "kl_coef": "algorithm.kl_coef",
}
"""Flag -> what it is short for."""


def rl_train_parser(description: str | None) -> Parser:
    """The options of RL fine-tuning, beside those of all training."""
    parser = _train_flags(description)
    parser.add_argument("--only_eval", action="store_true", help="evaluate --model_path or --resume_dir, learn nothing")
    parser.add_argument("--num_episodes", type=positive, default=50, help="of --only_eval (default: 50)")
    return parser


def to_play(args: Namespace) -> Namespace:
    """Return the arguments of playing that those of training with `--only_eval` stand for."""
    play = rl_play_parser(None).parse(args.overrides)
    for name in ("config_name", "config_path", "model_path", "num_envs", "device", "seed", "trust"):
        setattr(play, name, getattr(args, name))
    play.rl_model_path, play.episodes, play.only_eval = args.resume, args.num_episodes, True
    return play


def rl_play_parser(description: str | None) -> Parser:
    """The options of playing a policy of RL, or the one that it began with."""
    parser = _with_run_flags(play_parser(description))
    parser.add_argument(
        "--rl_model_path", metavar="PATH", help="what RL made of it: a run, or one of its global_step_N"
    )
    parser.add_argument("--resume_dir", dest="rl_model_path", metavar="PATH", help="the same as --rl_model_path")
    parser.add_argument("--num_episodes", dest="episodes", type=positive, help="the same as --episodes")
    parser.add_argument("--only_eval", action="store_true", help="evaluate, without a video and without an export")
    return parser


def benchmark_parser(description: str | None, *, benchmark: str | None = None) -> Parser:
    """The options of training, with the run configuration named by benchmark, task and algorithm."""
    parser = _train_flags(description)
    if benchmark is None:
        parser.add_argument("--benchmark", choices=BENCHMARKS, required=True, help="simulator and its tasks")
    else:
        parser.set_defaults(benchmark=benchmark)
    parser.add_argument("--task_name", help="task of the benchmark; --task means the same here")
    parser.add_argument("--algo", choices=ALGORITHMS, default="grpo", help="how it learns (default: grpo)")
    return parser


def prepare_rl_training(args: Namespace) -> TrainingRun:
    """Find the run configuration and prepare the run as all training does."""
    if args.resume is not None and args.config_name is not None:
        say("resuming      task and configuration of the checkpoint, not --config_name; flags and overrides change it")
    elif args.config_name is not None:
        args.config = _config_file(args)
    if args.resume is None and args.config is None and args.task is None:
        raise UserError(f"No run given: name one with --config_name; there are {', '.join(run_configs()) or 'none'}.")
    return prepare_training(args, _apply_rl_flags, base=_take_policy)


def prepare_benchmark(args: Namespace) -> TrainingRun:
    """Find the run configuration of a benchmark, and prepare the run."""
    if args.config_name is None and args.resume is None:
        task = args.task_name or args.task or BENCHMARKS[args.benchmark]
        args.task = None  # the configuration names the id
        name = f"{args.benchmark}_{task}_{args.algo}".lower()
        installed = task_packages.announced()
        if args.benchmark not in installed:
            project = task_packages.project_of(args.benchmark)
            there = ", ".join(name for name in BENCHMARKS if name in installed) or "none"
            fix = project.install if project else f"take one of those that are, {there}"
            raise UserError(f"The benchmark '{args.benchmark}' is not installed: {fix}.")
        same = f"RoboRenForce-{args.benchmark}-{task}-{ALGORITHMS[args.algo]}".lower()
        if name not in run_configs() and args.config_path is None:  # the task as it is registered
            args.task = next((task for task in list_tasks() if task.lower() == same), None)
        args.config_name = name if args.task is None else None
    return prepare_rl_training(args)


def prepare_rl_play(args: Namespace) -> PlayRun:
    """Find the checkpoint and, if a run configuration is named, play it in the environment of that."""
    args.target = args.rl_model_path or args.model_path or args.target
    if args.only_eval:
        args.video = args.export = False
    config = _config_file(args) if args.config_name is not None else None
    if config is not None and args.target is not None and is_exported(args.target):
        args.task = args.task or task_in(config)  # an exported policy names none

    def play_there(task: Task) -> None:
        if config is not None:
            task.env_cfg = configured_task(config).env_cfg
        if args.rl_model_path is not None:
            _apply_rl_flags(task, args)

    return prepare_play(args, play_there)


def configured_task(config: Path) -> Task:
    """Return the task of a run configuration, with its changes."""
    name = task_in(config)
    if name is None:
        raise UserError(f"'{config}' names no task, expected a line such as task: <id>; `rrf list` shows all.")
    task = load_task(name)
    task.apply_yaml(config, trust=False)
    return task


def _train_flags(description: str | None) -> Parser:
    parser = _with_run_flags(train_parser(description))
    parser.add_argument(
        "--resume_dir", dest="resume", metavar="PATH", help="continue a run: its directory, or one of its global_step_N"
    )
    parser.add_argument("--max_epochs", dest="max_iterations", type=positive, help="the same as --max_iterations")
    parser.add_argument("--lr", type=float, help="learning rate")
    parser.add_argument("--group_size", type=positive, help="GRPO: environments that start alike")
    parser.add_argument("--update_epochs", type=positive, help="passes over the rollout per update")
    parser.add_argument("--kl_coef", type=float, help="weight of the divergence from --model_path")
    return parser


def _with_run_flags(parser: Parser) -> Parser:
    parser.add_argument(
        "--config_name", metavar="NAME", help="YAML of the run, in the folder configs of a task package"
    )
    parser.add_argument("--config_path", type=Path, metavar="DIR", help="another folder of such files, looked in first")
    parser.add_argument(
        "--model_path", metavar="PATH", help="run, checkpoint or exported folder of the policy to begin with"
    )
    return parser


def _config_file(args: Namespace) -> Path:
    return find_run_config(args.config_name, args.config_path)


def _take_policy(task: Task, args: Namespace) -> None:
    """Begin with the policy's own configuration, before the YAML changes it.

    Demonstrations need no density of a flow head; one that learned from them takes that of the task's flow head.
    """
    if args.model_path is None:
        return
    policy, preset = policy_of(args.model_path), task.runner_cfg.policy
    head = policy.head
    if isinstance(head, FlowHeadCfg) and head.density == "none" and isinstance(preset.head, FlowHeadCfg):
        policy.head = head.replace(density=preset.head.density)
    task.runner_cfg.policy = policy


def _apply_rl_flags(task: Task, args: Namespace) -> None:
    # Another algorithm forgets what is set in the task's: it has to be there before the flags are.
    chosen = [text for text in args.overrides if text.startswith("algorithm=")]
    task.apply_overrides(chosen)
    args.overrides = [text for text in args.overrides if text not in chosen]
    given = {path: getattr(args, name, None) for name, path in _OVERRIDES.items()}
    task.apply_overrides([f"{path}={value}" for path, value in given.items() if value is not None])
