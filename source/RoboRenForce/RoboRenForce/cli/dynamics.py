"""Report on the dynamics model of a run, see `runners/dynamics_report.py`."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from ..components.teacher import newest_checkpoint
from ..runners.checkpoint_task import task_of_checkpoint
from ..runners.dynamics_report import NAME, write_dynamics_report
from ..runners.saved_run import read_run
from ..runners.trainer import Trainer
from ..utils.console import say, setup_logging
from ..utils.errors import UserError
from ..utils.run_dir import run_of


def report_run(args: Namespace) -> None:
    """Load a run with its data, write the report into its directory and print the errors.

    Args:
        args: `target`, `horizon`, `trust` and `overrides`, as the script parses them.
    """
    setup_logging()
    if args.horizon < 1:
        raise UserError(f"--horizon is {args.horizon}, expected at least 1.")
    path = newest_checkpoint(Path(args.target))
    saved = read_run(path)
    task = task_of_checkpoint(saved.data, trust=args.trust, task=None)
    task.apply_overrides(args.overrides)
    task.validate()
    runner: Trainer = task.runner_cfg.build(task=task.id)
    if args.overrides:
        runner.algorithm.load_to_judge(saved.data["algorithm"])
    else:
        runner.restore(saved, resume=False)
    folder = run_of(path).root
    found = write_dynamics_report(runner, folder, args.horizon)
    for step in sorted({1, min(10, args.horizon), args.horizon}):
        numbers = ", ".join(f"{name} {values[step - 1]:.3g}" for name, values in found["error"].items())
        say(f"{step:4d} steps    error {numbers}")
    say(f"written to    {folder / NAME}.json and .png")
