"""Report on a dynamics model: error and calibration against the horizon, `dynamics_report.json` and `.png`."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from ..configclass import Range, configclass
from ..utils.plots import plot_lines
from ..utils.run_dir import write_text_atomically
from .callbacks import Callback, CallbackCfg

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
    found = {"task": runner.task, "iteration": runner.iteration, **runner.algorithm.model_report(horizon)}
    write_text_atomically(folder / f"{NAME}.json", json.dumps(found, indent=1) + "\n")
    _draw(found, folder / f"{NAME}.png")
    return found


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
