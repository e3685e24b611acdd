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
from dataclasses import astuple
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from ..configclass import Cfg, configclass
from ..configclass.references import main_module
from ..envs.env_cfg import has_env
from ..utils.console import Display
from ..utils.environment_info import git_commit, hardware, versions
from ..utils.errors import RunDirectoryError
from ..utils.logging import cut_metrics, make_logger
from ..utils.report import try_to_write_report
from ..utils.run_dir import RunDir, write_yaml
from .during_training import has_to_stop, most_steps, played_aside
from .evaluation import evaluate
from .smoothness import Smoothness
from .tiles import record_tiles
from .video import record_video

if TYPE_CHECKING:
    from .trainer import Trainer

logger = logging.getLogger(__name__)


class Callback:
    """Base class of callbacks; every hook does nothing."""

    def __init__(self, cfg: CallbackCfg | None = None) -> None:
        self.cfg = cfg

    def on_start(self, runner: Trainer) -> None:
        """Run before the first iteration of a session."""

    def after_iteration(self, runner: Trainer, metrics: dict[str, float]) -> None:
        """Run after every iteration; additions to `metrics` are visible to later callbacks."""

    def on_end(self, runner: Trainer) -> None:
        """Run after the last iteration of a session that did not fail."""

    def close(self, runner: Trainer) -> None:
        """Run after a session, also one that failed."""


@configclass
class CallbackCfg(Cfg):
    """Base configuration of callbacks; derive from it to add one to `TrainerCfg.callbacks`."""

    class_type: type = Callback


_EVAL_TAGS = ("Eval/mean_reward", "Eval/std_reward", "Eval/mean_episode_length", "Eval/success_rate")
_EVAL_TAGS += ("Eval/action_change", "Eval/action_spectrum", "Eval/jacobian_norm")


class EvaluateCallback(Callback):
    """Play `eval_episodes` episodes of the deterministic policy every `eval_interval` iterations.

    Training is not affected: another environment is played and the random numbers are restored. An evaluation that
    fails, or that a signal ends, has no metrics.
    """

    def __init__(self, cfg: CallbackCfg | None = None) -> None:
        super().__init__(cfg)
        self._failed = False

    def after_iteration(self, runner: Trainer, metrics: dict[str, float]) -> None:
        """Evaluate on the main process if it is time; all processes get the result."""
        cfg = runner.cfg
        if not runner.evaluates or runner.iteration % cfg.eval_interval:
            return
        found: list[float] = []
        if runner.is_main and runner.eval_env is not None:
            env = runner.eval_env
            consequence = "further failures are not reported"
            with played_aside(runner, "The evaluation", consequence, quiet=self._failed):
                result = evaluate(
                    env,
                    runner.policy(),
                    cfg.eval_episodes,
                    seed=cfg.seed,
                    max_steps=cfg.eval_max_steps or most_steps(env, cfg.eval_episodes),
                    should_stop=lambda: has_to_stop(runner),
                )
                optional = [result.success_rate, *astuple(result.smoothness or Smoothness(None, None, None))]
                found = [result.mean, result.std, result.mean_length]
                found += [math.nan if value is None else value for value in optional]
            self._failed |= not found
        # That it failed is told too: the other processes wait for it.
        values = torch.tensor([*(found or [0.0] * 7), bool(found)], dtype=torch.float64, device=runner.device)
        *numbers, succeeded = runner.distributed.broadcast_(values).tolist()
        if succeeded:
            known = zip(_EVAL_TAGS, numbers, strict=True)
            metrics.update((tag, value) for tag, value in known if not math.isnan(value))


class VideoCallback(Callback):
    """Film the policy every `video_interval` iterations, until the first failure."""

    def __init__(self, cfg: CallbackCfg | None = None) -> None:
        super().__init__(cfg)
        self._failed = False

    def after_iteration(self, runner: Trainer, metrics: dict[str, float]) -> None:
        """Film if it is time."""
        cfg = runner.cfg
        if not cfg.video_interval or runner.iteration % cfg.video_interval or self._failed:
            return
        if not runner.is_main or runner.run_dir is None or runner.eval_env is None:
            return
        path = runner.run_dir.videos / f"iteration_{runner.iteration}.mp4"
        self._failed = True
        record: Any = partial(record_tiles, captions=cfg.info_on_video) if cfg.video_tiles else record_video
        with played_aside(runner, "The video", "no more are made in this run", quiet=False):
            record(
                runner.eval_env,
                runner.policy(),
                path,
                steps=cfg.video_steps,
                seed=cfg.seed,
                should_stop=lambda: has_to_stop(runner),
            )
            runner.logger.video(path, runner.iteration)
            self._failed = False


class LogCallback(Callback):
    """Record the parameters of the run, then its metrics: to the writers and to the display."""

    def __init__(self, cfg: CallbackCfg | None = None) -> None:
        super().__init__(cfg)
        self._display: Display | None = None

    def on_start(self, runner: Trainer) -> None:
        """Write the parameters and open logs and display."""
        if not runner.is_main:
            return
        packages = versions()
        logger.info(
            "%s | %s", ", ".join(f"{name} {version}" for name, version in packages.items()), hardware(runner.device)
        )
        spec = "" if runner.spec is None else f" | {runner.spec}"
        logger.info("device %s | seed %d%s", runner.device, runner.cfg.seed, spec)
        title = runner.task
        if runner.run_dir is not None:
            logger.info("run directory %s", runner.run_dir.root)
            self._open_logs(runner, runner.run_dir, packages)
            runner.logger.config(runner.config_dict())
            title += f"  ·  {runner.run_dir.root.name}"
        self._display = Display(title)
        self._display.start()

    def _open_logs(self, runner: Trainer, run: RunDir, packages: dict[str, str]) -> None:
        cfg, iteration = runner.cfg, runner.iteration
        try:
            write_params(runner, run, packages)
            cut_metrics(run.metrics, iteration, runner.metrics)
            runner.logger = make_logger(run, cfg.logger, project=cfg.logger_project, first_iteration=iteration)
        except OSError as error:
            raise RunDirectoryError(
                f"The run directory '{run.root}' can't be written ({error.strerror}); choose another one."
            ) from error

    def after_iteration(self, runner: Trainer, metrics: dict[str, float]) -> None:
        """Write and show the metrics; a mean without any episode yet is left out."""
        if self._display is None:
            return
        known = {tag: value for tag, value in metrics.items() if math.isfinite(value)}
        runner.logger.scalars(known, runner.iteration)
        self._display.update(runner.progress(known))

    def close(self, runner: Trainer) -> None:
        """Release the terminal and close the logs."""
        if self._display is not None:
            self._display.stop()
            self._display = None
        runner.logger.close()


class ReportCallback(Callback):
    """Draw the curves and write the report."""

    def on_end(self, runner: Trainer) -> None:
        """Write `curves.png` and `report.html`."""
        if runner.is_main and runner.run_dir is not None and runner.cfg.report:
            try_to_write_report(runner.run_dir)


def _command() -> str:
    """The command line of this process; a module by its name, whose file lies elsewhere on another machine."""
    module = main_module()
    start = ["-m", module.removesuffix(".__main__")] if module else sys.argv[:1]
    return shlex.join(["python", *start, *sys.argv[1:]])


def write_params(runner: Trainer, run: RunDir, packages: dict[str, str]) -> None:
    """Write `params/{agent,env,run}.yaml`."""
    for name, config in runner.config_dict().items():
        if config is not None:
            write_yaml(run.params(name), config)
    earlier = run.run_info()
    facts: dict[str, Any] = {
        "task": runner.task,
        "command": _command(),
        "started": earlier.get("started", time.strftime("%Y-%m-%d %H:%M:%S")),
        "seed": runner.cfg.seed,
        "device": str(runner.device),
        "processes": runner.distributed.world_size,
        "hardware": hardware(runner.device),
        "versions": packages,
        "commit": git_commit(),
        "spec": {} if runner.spec is None else runner.spec.to_dict(),
    }
    if not has_env(runner.env_cfg):
        facts["has_env"] = False
    if runner.resumed:
        facts["command"] = earlier.get("command", facts["command"])
        facts["resumed"] = [
            *earlier.get("resumed", []),
            {"iteration": runner.iteration, "command": _command()},
        ]
    write_yaml(run.params("run"), facts)
