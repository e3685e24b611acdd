"""Report on a dynamics model: error and calibration against the horizon, `dynamics_report.json` and `.png`."""

from __future__ import annotations

import json
import logging
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from ..algorithms.model_based import SystemDynamicsLearner
from ..components.teacher import newest_checkpoint
from ..configclass import Range, configclass
from ..utils.console import say, setup_logging
from ..utils.errors import UserError
from ..utils.plots import plot_lines
from ..utils.run_dir import run_of, write_text_atomically
from .callbacks import Callback, CallbackCfg
from .checkpoint_task import task_of_checkpoint
from .saved_run import read_run

if TYPE_CHECKING:
    from .trainer import Trainer

logger = logging.getLogger(__name__)

NAME = "dynamics_report"
"""Name of both files, without suffix."""


def write_dynamics_report(runner: Trainer, folder: Path, horizon: int) -> dict[str, Any]:
    """Judge the model of a run and write both files; returns what the JSON file holds.

    Args:
        runner: Run with its data.
        folder: Folder of the files.
        horizon: Most steps that are predicted on end.
    """
    learner = runner.algorithm
    if not isinstance(learner, SystemDynamicsLearner):
        raise UserError(
            f"A {type(learner).__name__} has no dynamics model to report on: take a run of system_dynamics_mlp or "
            "system_dynamics_transformer."
        )
    found = {"task": runner.task, "iteration": runner.iteration, **learner.report(horizon)}
    write_text_atomically(folder / f"{NAME}.json", json.dumps(found, indent=1) + "\n")
    _draw(found, folder / f"{NAME}.png")
    return found


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
    learner, state = runner.algorithm, saved.data["algorithm"]
    if args.overrides and isinstance(learner, SystemDynamicsLearner):
        learner.load_to_judge(state)
    else:
        runner.restore(saved, resume=False)
    folder = run_of(path).root
    found = write_dynamics_report(runner, folder, args.horizon)
    for step in sorted({1, min(10, args.horizon), args.horizon}):
        numbers = ", ".join(f"{name} {values[step - 1]:.3g}" for name, values in found["error"].items())
        say(f"{step:4d} steps    error {numbers}")
    say(f"written to    {folder / NAME}.json and .png")


def _draw(found: Mapping[str, Any], path: Path) -> None:
    coverage = {f"{float(share):.0%} of samples": values for share, values in found["coverage"].items()}
    panels = {
        "Error in standard deviations of the state": found["error"],
        "Recorded values inside": coverage,
    }
    plot_lines(panels, path, f"{found['task']}: {found['rows']} held-out starts", "steps ahead")


class DynamicsReport(Callback):
    """Write the report at the end of a run."""

    cfg: DynamicsReportCfg

    def on_end(self, runner: Trainer) -> None:
        """Write it on the main process."""
        if runner.run_dir is not None and runner.is_main:
            found = write_dynamics_report(runner, runner.run_dir.root, self.cfg.horizon)
            error = found["error"]["model"]
            logger.info("error %.3g after one step, %.3g after %d (%s.png)", error[0], error[-1], len(error), NAME)


@configclass
class DynamicsReportCfg(CallbackCfg):
    """Configuration of the report at the end of a run."""

    class_type: type = DynamicsReport
    horizon: Annotated[int, Range(ge=1)] = 50
    """Most steps that are predicted on end."""
