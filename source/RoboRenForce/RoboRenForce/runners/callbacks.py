"""Side activities of a run: evaluation, videos, logs, checkpoints, the report.

Callbacks run in the order of the list. In a run of several processes every process runs them, so that collective calls
match; only the main one writes.
"""

from __future__ import annotations

import logging
import math
import shlex
import sys
import time
from typing import TYPE_CHECKING, Any

import torch

from ..configclass import Cfg, configclass
from ..utils.console import Display
from ..utils.environment_info import git_commit, hardware, versions
from ..utils.errors import MissingPackageError, RunDirectoryError
from ..utils.logging import cut_metrics, make_logger
from ..utils.report import write_report
from ..utils.run_dir import RunDir, write_yaml
from ..utils.seeding import preserved_rng
from .evaluation import evaluate, record_video

if TYPE_CHECKING:
    from .runner import Runner

logger = logging.getLogger(__name__)


class Callback:
    """Base of all callbacks; every hook does nothing."""

    def __init__(self, cfg: CallbackCfg | None = None) -> None:
        self.cfg = cfg

    def on_start(self, runner: Runner) -> None:
        """Before the first iteration of a session."""

    def after_iteration(self, runner: Runner, metrics: dict[str, float]) -> None:
        """After every iteration; `metrics` may be added to, and later callbacks see it."""

    def on_end(self, runner: Runner) -> None:
        """After the last iteration of a session that did not fail."""

    def close(self, runner: Runner) -> None:
        """After a session, also one that failed."""


@configclass
class CallbackCfg(Cfg):
    """Base configuration of callbacks; derive from it to add one to `RunnerCfg.callbacks`."""

    class_type: type = Callback


class EvaluateCallback(Callback):
    """Play `eval_episodes` episodes of the deterministic policy every `eval_interval` iterations.

    Training goes on as if nothing had happened: another environment is played and the random numbers are put back.
    """

    def after_iteration(self, runner: Runner, metrics: dict[str, float]) -> None:
        """Evaluate if it is time, on the main process; all get the result."""
        cfg = runner.cfg
        if not cfg.eval_interval or runner.iteration % cfg.eval_interval:
            return
        values = torch.zeros(3, dtype=torch.float64, device=runner.device)
        if runner.is_main and runner.eval_env is not None:
            runner.algorithm.eval()
            with preserved_rng():
                result = evaluate(runner.eval_env, runner.policy(), cfg.eval_episodes, seed=cfg.seed)
            runner.algorithm.train()
            values = torch.tensor(
                [result.mean, result.std, result.mean_length], dtype=torch.float64, device=runner.device
            )
        runner.distributed.broadcast_(values)
        metrics["Eval/mean_reward"], metrics["Eval/std_reward"], metrics["Eval/mean_episode_length"] = values.tolist()


class VideoCallback(Callback):
    """Film the policy every `video_interval` iterations."""

    def __init__(self, cfg: CallbackCfg | None = None) -> None:
        super().__init__(cfg)
        self._can_render = True

    def after_iteration(self, runner: Runner, metrics: dict[str, float]) -> None:
        """Film if it is time; an environment that can't render is asked only once."""
        cfg = runner.cfg
        if not cfg.video_interval or runner.iteration % cfg.video_interval or not self._can_render:
            return
        if not runner.is_main or runner.run_dir is None or runner.eval_env is None:
            return
        path = runner.run_dir.videos / f"iteration_{runner.iteration}.mp4"
        runner.algorithm.eval()
        try:
            with preserved_rng():
                record_video(runner.eval_env, runner.policy(), path, steps=cfg.video_steps, seed=cfg.seed)
            runner.logger.video(path, runner.iteration)
        except (RuntimeError, MissingPackageError) as error:
            self._can_render = False
            logger.warning("No videos of this run: %s", error)
        runner.algorithm.train()


class LogCallback(Callback):
    """Record what the run is, then its metrics: to the writers and to the display."""

    def __init__(self, cfg: CallbackCfg | None = None) -> None:
        super().__init__(cfg)
        self._display: Display | None = None

    def on_start(self, runner: Runner) -> None:
        """Write the parameters and open logs and display."""
        if not runner.is_main:
            return
        packages = versions()
        logger.info(
            "%s | %s", ", ".join(f"{name} {version}" for name, version in packages.items()), hardware(runner.device)
        )
        logger.info("device %s | seed %d | %s", runner.device, runner.cfg.seed, runner.env.spec)
        title = runner.task
        if runner.run_dir is not None:
            logger.info("run directory %s", runner.run_dir.root)
            self._open_logs(runner, runner.run_dir, packages)
            runner.logger.config(runner.config_dict())
            title += f"  ·  {runner.run_dir.root.name}"
        self._display = Display(title)
        self._display.start()

    def _open_logs(self, runner: Runner, run: RunDir, packages: dict[str, str]) -> None:
        cfg, iteration = runner.cfg, runner.iteration
        try:
            write_params(runner, run, packages)
            cut_metrics(run.metrics, iteration, runner.metrics)
            runner.logger = make_logger(run, cfg.logger, project=cfg.logger_project, first_iteration=iteration)
        except OSError as error:
            raise RunDirectoryError(
                f"The run directory '{run.root}' can't be written ({error.strerror}); choose another one."
            ) from error

    def after_iteration(self, runner: Runner, metrics: dict[str, float]) -> None:
        """Write and show the metrics; a mean without any episode yet is left out."""
        if self._display is None:
            return
        known = {tag: value for tag, value in metrics.items() if math.isfinite(value)}
        runner.logger.scalars(known, runner.iteration)
        self._display.update(runner.progress(known))

    def close(self, runner: Runner) -> None:
        """Give the terminal back and close the logs."""
        if self._display is not None:
            self._display.stop()
            self._display = None
        runner.logger.close()


class ReportCallback(Callback):
    """Draw the curves and write the report."""

    def on_end(self, runner: Runner) -> None:
        """Write `curves.png` and `report.html`."""
        if runner.is_main and runner.run_dir is not None and runner.cfg.report:
            write_report(runner.run_dir)


def write_params(runner: Runner, run: RunDir, packages: dict[str, str]) -> None:
    """Write `params/{agent,env,run}.yaml`."""
    for name, config in runner.config_dict().items():
        if config is not None:
            write_yaml(run.params(name), config)
    earlier = run.run_info()
    facts: dict[str, Any] = {
        "task": runner.task,
        "command": shlex.join(["python", *sys.argv]),
        "started": earlier.get("started", time.strftime("%Y-%m-%d %H:%M:%S")),
        "seed": runner.cfg.seed,
        "device": str(runner.device),
        "processes": runner.distributed.world_size,
        "hardware": hardware(runner.device),
        "versions": packages,
        "commit": git_commit(),
        "spec": runner.env.spec.to_dict(),
    }
    if runner.resumed:
        facts["command"] = earlier.get("command", facts["command"])
        facts["resumed"] = [
            *earlier.get("resumed", []),
            {"iteration": runner.iteration, "command": shlex.join(["python", *sys.argv])},
        ]
    write_yaml(run.params("run"), facts)
