"""The commands of `rrf`: the functions that scripts call, for every installed task package."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from ..runners.arguments import Parser, play_parser, train_parser
from ..runners.play_run import prepare_play
from ..runners.training_run import prepare_training
from ..utils.console import say
from ..utils.errors import UserError, did_you_mean
from ..utils.logging import read_metrics
from ..utils.plots import plot_comparison
from ..utils.report import write_report
from ..utils.run_dir import DEFAULT_LOG_ROOT, RunDir, newest_run
from ..utils.user_errors import user_errors
from . import vla_tasks  # noqa: F401 - its tasks are found from now on
from .data_commands import data
from .doctor import doctor
from .listing import task_table
from .model_doctor import model_doctor


def train(argv: Sequence[str]) -> None:
    """Train a task."""
    args = train_parser("Train a task.").parse(argv)
    run = prepare_training(args)
    runner = run.build_runner(run.build_env())
    runner.learn()
    run.finish(runner)


def play(argv: Sequence[str]) -> None:
    """Evaluate a trained policy; with --video and --export film and export it too."""
    _play(play_parser("Evaluate, film and export a trained policy.").parse(argv), evaluates=True)


def evaluate(argv: Sequence[str]) -> None:
    """Evaluate a trained policy."""
    _play(play_parser("Evaluate a trained policy.").parse(argv), evaluates=True)


def export(argv: Sequence[str]) -> None:
    """Export a trained policy as files that run without RoboRenForce."""
    args = play_parser("Export a trained policy as files that run without RoboRenForce.").parse(argv)
    args.export = True
    _play(args, evaluates=False)


def _play(args: argparse.Namespace, *, evaluates: bool) -> None:
    run = prepare_play(args, doing="playing" if evaluates else "exporting")
    runner = run.build_runner(run.build_env() if evaluates or run.has_env else None)
    if evaluates:
        run.evaluate(runner)
    run.finish(runner)


def list_tasks(argv: Sequence[str]) -> None:
    """List the tasks of all installed packages."""
    parser = Parser(description="List the tasks of all installed packages.")
    parser.add_argument("part", nargs="?", default="", help="show only ids that contain this, in any case")
    say(task_table(parser.parse(argv).part))


def check(argv: Sequence[str]) -> None:
    """Tell what is installed, what is missing for which task, and whether rendering and the GPU work."""
    parser = Parser(description="Tell what is installed, what is missing for which task, and what works.")
    parser.add_argument("--model", metavar="DIR", help="tell what this folder of a model holds and lacks, instead")
    args = parser.parse(argv)
    raise SystemExit(0 if (doctor() if args.model is None else model_doctor(args.model)) else 1)


def plot(argv: Sequence[str]) -> None:
    """Draw the curves of a run and write its report, or compare several runs."""
    parser = Parser(description="Draw the curves of a run and write its report, or compare several runs.")
    parser.add_argument("runs", nargs="*", type=Path, help="run directories (default: the newest run)")
    parser.add_argument("--output", type=Path, default=Path("comparison.png"), help="picture of several runs")
    parser.add_argument("--log_root", default=DEFAULT_LOG_ROOT, help=f"where runs are (default: {DEFAULT_LOG_ROOT})")
    args = parser.parse(argv)
    runs = [RunDir(root) for root in args.runs] or [newest_run(args.log_root)]
    for run in runs:
        if not run.metrics.is_file():
            raise UserError(f"'{run.root}' is not a run directory: it has no metrics.jsonl.")
    if len(runs) == 1:
        say(str(write_report(runs[0])))
    else:
        plot_comparison({run.root.as_posix(): read_metrics(run.metrics) for run in runs}, args.output)
        say(str(args.output))


COMMANDS: dict[str, Callable[[Sequence[str]], None]] = {
    "train": train,
    "play": play,
    "eval": evaluate,
    "export": export,
    "list": list_tasks,
    "doctor": check,
    "plot": plot,
    "data": data,
}


def main(argv: Sequence[str] | None = None) -> None:
    """Run one command."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help"):
        listed = "\n".join(
            f"  {name:8s} {(function.__doc__ or '').splitlines()[0]}" for name, function in COMMANDS.items()
        )
        say(f"usage: rrf <command> [options]\n\n{listed}\n\n`rrf <command> --help` shows its options.")
        return
    with user_errors():
        if words[0] not in COMMANDS:
            raise UserError(f"There is no command '{words[0]}': {did_you_mean(words[0], COMMANDS)}")
        COMMANDS[words[0]](words[1:])
