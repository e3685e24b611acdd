"""A training run as steps that a script calls one by one.

    args = train_parser(__doc__).parse()
    run = prepare_training(args)
    runner = run.build_runner(run.build_env())
    runner.learn()
    run.finish(runner)

The script itself calls `learn`, so that a reader finds the way from it to the loss.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
from argparse import Namespace
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ..configclass.validated import validated
from ..envs.env_cfg import has_env
from ..envs.vec_env import VecEnv
from ..utils.console import say, setup_logging
from ..utils.device import find_device
from ..utils.distributed import DistributedContext
from ..utils.errors import SpecMismatch, UserError
from ..utils.plain_data import learning_rates
from ..utils.registry import Task, load_task
from ..utils.report import try_to_write_report
from ..utils.run_configs import task_in
from ..utils.run_dir import DEFAULT_LOG_ROOT, RunDir, create_run_dir, resolve_checkpoint
from ..utils.run_lock import RunLock
from .checkpoint_task import newest_run_of, task_of_checkpoint
from .filming import MOST_PLAY_ENVS, eval_cfg, film
from .saved_run import SavedRun, read_newest, read_run
from .summary import consent, summary
from .trainer import Trainer

logger = logging.getLogger(__name__)

_GOES_ON = "The run goes on from that one."

ApplyFlags = Callable[[Task, Namespace], None]
"""Changes a task by the arguments of the command line."""


@dataclass
class TrainingRun:
    """A training run with its final configuration and existing directory."""

    task: Task
    device: torch.device
    distributed: DistributedContext
    run_dir: RunDir
    saved: SavedRun | None
    """Checkpoint to resume from; freed once it was loaded."""
    video: bool
    lock: RunLock | None = None
    """Lock held by the main process from the moment that the directory is chosen."""
    started_in: Path = field(default_factory=Path.cwd)
    """Folder that printed paths are relative to; the run's own are absolute, as a simulator may change the folder."""

    def build_env(self) -> VecEnv | None:
        """Build the training environments of this process; None if the learner steps no environment."""
        if not self.task.runner_cfg.class_type.steps_env:
            return None
        with self._starting(), validated(self.task.env_cfg):
            return self.task.env_cfg.build()

    def build_runner(self, env: VecEnv | None) -> Trainer:
        """Build the runner, and resume it if configured."""
        cfg = self.task.runner_cfg
        with self._starting(), validated(cfg):
            runner: Trainer = cfg.build(
                log_dir=self.run_dir.root,
                device=self.device,
                eval_env=self._build_eval_env(),
                env_cfg=self.task.env_cfg,
                task=self.task.id,
                **({} if env is None else {"env": env}),
            )
            runner.lock = self.lock or runner.lock
            if self.saved is not None:
                self._resume(runner, self.saved)
                self.saved = None
        return runner

    def finish(self, runner: Trainer) -> None:
        """Film if configured, and print the results and next commands; exits with 128 + signal after a signal."""
        stopped = runner.stop.signal
        if self.distributed.is_main:
            if self.video and stopped is None:
                film(self.task, runner, self.run_dir.videos / f"iteration_{runner.iteration}.mp4")
                try_to_write_report(self.run_dir)
            flags = consent(self.task.id, runner.config_dict())
            saved = runner.saved_elsewhere
            elsewhere = "elsewhere" if runner.algorithm.exports_folder else "never"
            played = "here" if has_env(self.task.env_cfg) else elsewhere
            stops = stopped is not None
            say(summary(self.run_dir, saved, flags, self.started_in, interrupted=stops, played=played))
        if self.lock is not None:
            self.lock.release()
        runner.close()
        self.distributed.close()
        if stopped is not None:
            raise SystemExit(128 + stopped)

    def _build_eval_env(self) -> VecEnv | None:
        cfg = self.task.runner_cfg
        if not self.distributed.is_main or not (cfg.eval_interval or cfg.video_interval):
            return None
        env_cfg = eval_cfg(
            self.task,
            min(cfg.eval_episodes, MOST_PLAY_ENVS),
            cfg.seed + 1,
            render=bool(cfg.video_interval and not cfg.video_tiles),
        )
        with validated(env_cfg):
            return env_cfg.build()

    def _resume(self, runner: Trainer, saved: SavedRun) -> None:
        runner.restore(saved)
        logger.info("resumed from %s at iteration %d", saved.path, runner.iteration)
        before, now = (learning_rates(cfg["agent"]) for cfg in (saved.data["config"], runner.config_dict()))
        for name in sorted(name for name in before.keys() & now.keys() if before[name] != now[name]):
            logger.warning(
                "%s=%g does not reach a run that goes on, unless a schedule computes the rate anew: its optimizer has "
                "the one that began at %g. A new run that begins with its weights takes another.",
                name,
                now[name],
                before[name],
            )
        if runner.iteration >= runner.cfg.max_iterations:
            raise UserError(
                f"'{saved.path}' has finished its {runner.iteration} iterations; "
                f"give a larger --max_iterations to go on, got {runner.cfg.max_iterations}."
            )

    @contextlib.contextmanager
    def _starting(self) -> Iterator[None]:
        """Remove the empty run directory if the run is refused before it starts."""
        try:
            yield
        except BaseException:
            if self.lock is not None:
                self.lock.release()
                with contextlib.suppress(OSError):  # it isn't empty: the run is an older one that was to be resumed
                    self.run_dir.params("run").parent.rmdir()
                    self.run_dir.root.rmdir()
            raise


def prepare_training(
    args: Namespace, flags: ApplyFlags | None = None, *, base: ApplyFlags | None = None
) -> TrainingRun:
    """Check everything before an environment starts: configuration, device, checkpoint, run directory.

    Args:
        args: What `train_parser` has parsed.
        flags: Applies further flags of a script, before the overrides.
        base: Changes what a new run begins with, before --config and all flags.
    """
    setup_logging(is_main=os.environ.get("RANK", "0") == "0")
    saved = _checkpoint_to_resume(args)
    task = _task_to_train(args, saved)
    if base is not None and saved is None:
        base(task, args)
    apply_flags(task, args, flags)
    if not args.print_config:
        _derive(task, args.overrides)
    task.validate(may_miss=args.print_config)
    task.refuse(task.runner_cfg.check_env(task.env_cfg))
    device = find_device(args.device or task.env_cfg.device)
    task.env_cfg.device = str(device)
    if args.print_config:
        say(task.to_yaml())
        raise SystemExit(0)
    cfg = task.runner_cfg
    distributed = DistributedContext.from_environment(device, timeout=cfg.step_timeout)
    lock = _locked_directory(cfg, saved) if distributed.is_main else None
    root = Path(distributed.broadcast_object(None if lock is None else lock.root))
    return TrainingRun(task, device, distributed, RunDir(root), saved, args.video, lock)


def _derive(task: Task, overrides: list[str]) -> None:
    """Fill in settings that follow from the rest of the configuration."""
    cfg = task.runner_cfg
    cfg.experiment_name = cfg.experiment_name or re.sub(r"[/:]", "-", task.id)
    if not any(override.startswith("env.seed=") for override in overrides):
        task.env_cfg.seed = cfg.seed
    # Environment i of a process usually gets the seed + i, so processes are that far apart.
    if rank := int(os.environ.get("RANK", "0")):
        task.env_cfg.seed += rank * task.env_cfg.num_envs


def apply_flags(task: Task, args: Namespace, more: ApplyFlags | None = None) -> None:
    """Change the configuration of a task: first by --config, then by flags, last by overrides."""
    if args.config is not None:
        task.apply_yaml(args.config, trust=args.trust)
    if args.num_envs is not None:
        task.env_cfg.num_envs = args.num_envs
    if args.max_iterations is not None:
        task.runner_cfg.set_length(args.max_iterations)
    for name in ("seed", "run_name", "experiment_name", "logger", "log_root"):
        value = vars(args)[name]
        if value is not None:
            setattr(task.runner_cfg, name, value)
    if more is not None:
        more(task, args)
    task.apply_overrides(args.overrides)


def _checkpoint_to_resume(args: Namespace) -> SavedRun | None:
    if args.resume is None:
        return None
    if "=" in args.resume and not Path(args.resume).exists():  # --resume algorithm.gamma=0.9
        args.overrides.insert(0, args.resume)
        args.resume = "latest"
    if args.resume == "latest":
        newest = newest_run_of(args.task, args.log_root or DEFAULT_LOG_ROOT, args.experiment_name)
        return read_newest(newest, _GOES_ON)
    if Path(args.resume).is_dir():
        return read_newest(RunDir(Path(args.resume)), _GOES_ON)
    return read_run(resolve_checkpoint(args.resume))


def _task_to_train(args: Namespace, saved: SavedRun | None) -> Task:
    """Return the task by its id, or the task of a checkpoint with the configuration that it was trained with."""
    if saved is None:
        configured = None if args.config is None else task_in(args.config)
        if None not in (args.task, configured) and args.task != configured:
            raise UserError(f"'{args.config}' configures task '{configured}', not '{args.task}'; leave --task out.")
        name = args.task or configured or args.default_task
        if name is None:
            raise UserError("No task given; name one with --task, `rrf list` shows all.")
        return load_task(name)
    there = saved.data["task"]
    if args.task not in (None, there):
        raise SpecMismatch(
            f"'{saved.path}' belongs to task '{there}', not to '{args.task}'; leave --task out to continue it."
        )
    return task_of_checkpoint(saved.data, trust=args.trust, task=args.task)


def _locked_directory(cfg: Any, saved: SavedRun | None) -> RunLock:
    """Return a new directory, or that of the checkpoint if it has no newer one: nothing written is overwritten.

    Raises:
        RunLockedError: The run of the checkpoint is being trained.
    """
    if saved is not None and saved.is_newest:
        lock = RunLock(saved.path.parent.absolute())
        lock.acquire()
        if not saved.is_newest:
            raise UserError(
                f"'{saved.path.parent}' was trained on until now: start again to resume what it has become."
            )
        return lock
    lock = RunLock(create_run_dir(cfg.log_root, cfg.experiment_name, cfg.run_name).root.absolute())
    lock.acquire()
    return lock
