"""A training run as steps that a script calls one by one.

    args = train_parser(__doc__).parse()
    run = prepare_training(args)
    runner = run.build_runner(run.build_env())
    runner.learn()
    run.finish(runner)

The script itself calls `learn`, so that a reader finds the way from it to the loss.
"""

from __future__ import annotations

import logging
import os
import re
import shlex
from argparse import Namespace
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ..envs.vec_env import VecEnv
from ..utils.checkpoint import newest_usable
from ..utils.console import say, setup_logging
from ..utils.distributed import DistributedContext
from ..utils.errors import CheckpointError, ConfigError, SpecMismatch, UserError
from ..utils.registry import Task, load_task
from ..utils.report import try_to_write_report
from ..utils.run_dir import DEFAULT_LOG_ROOT, RunDir, create_run_dir, newest_run, resolve_checkpoint, run_of
from ..utils.run_lock import RunLock
from ..utils.side_activity import side_activity
from .launch import MOST_PLAY_ENVS, console_command, eval_cfg, film, find_device, task_of_checkpoint
from .runner import Runner
from .saved_run import SAVED_RUN, load_run

logger = logging.getLogger(__name__)


@dataclass
class TrainingRun:
    """A training run whose configuration is final and whose directory exists."""

    task: Task
    device: torch.device
    distributed: DistributedContext
    run_dir: RunDir
    checkpoint: Path | None
    """Where to resume from."""
    video: bool
    lock: RunLock | None = None
    """Held by the main process from the moment that the directory is chosen."""
    started_in: Path = field(default_factory=Path.cwd)
    """What printed paths are relative to; the run's own are absolute, because a simulator may change the folder."""

    def build_env(self) -> VecEnv:
        """The training environments of this process."""
        return self.task.env_cfg.build()

    def build_runner(self, env: VecEnv) -> Runner:
        """The runner, resumed if that was asked for."""
        cfg = self.task.runner_cfg
        eval_env = None
        if self.distributed.is_main and (cfg.eval_interval or cfg.video_interval):
            eval_env = eval_cfg(
                self.task, min(cfg.eval_episodes, MOST_PLAY_ENVS), cfg.seed + 1, render=bool(cfg.video_interval)
            ).build()
        runner = cfg.build(
            env=env,
            log_dir=self.run_dir.root,
            device=self.device,
            eval_env=eval_env,
            env_cfg=self.task.env_cfg,
            task=self.task.id,
        )
        runner.lock = self.lock or runner.lock
        if self.checkpoint is not None:
            runner.load(self.checkpoint)
            logger.info("resumed from %s at iteration %d", self.checkpoint, runner.iteration)
            if runner.iteration >= cfg.max_iterations:
                raise UserError(
                    f"'{self.checkpoint}' has finished its {runner.iteration} iterations; "
                    f"give a larger --max_iterations to go on, got {cfg.max_iterations}."
                )
        return runner

    def finish(self, runner: Runner) -> None:
        """Film if asked to, say where everything is and what to do next; leaves with 128 + signal after a signal."""
        stopped = runner.stop.signal
        if self.distributed.is_main:
            if self.video and stopped is None:
                film(self.task, runner, self.run_dir.videos / f"iteration_{runner.iteration}.mp4")
                try_to_write_report(self.run_dir)
            consent = _consent(self.task.id, runner.config_dict())
            saved = runner.saved_elsewhere
            say(_summary(self.run_dir, saved, consent, self.started_in, interrupted=stopped is not None))
        if self.lock is not None:
            self.lock.release()
        for env in (runner.env, runner.eval_env):
            if env is not None:
                with side_activity("Closing the environments"):
                    env.close()
        runner.algorithm.close()
        self.distributed.close()
        if stopped is not None:
            raise SystemExit(128 + stopped)


def prepare_training(args: Namespace) -> TrainingRun:
    """Everything that can go wrong before an environment starts: configuration, device, checkpoint, run directory."""
    setup_logging(is_main=os.environ.get("RANK", "0") == "0")
    checkpoint = _checkpoint_to_resume(args)
    task = _task_to_train(args, checkpoint)
    apply_flags(task, args)
    task.validate()
    task.refuse(task.runner_cfg.check_env(task.env_cfg))
    device = find_device(args.device or task.env_cfg.device)
    task.env_cfg.device = str(device)
    if args.print_config:
        say(task.to_yaml())
        raise SystemExit(0)
    distributed = DistributedContext.from_environment(device, timeout=task.runner_cfg.step_timeout)
    cfg = task.runner_cfg
    cfg.experiment_name = cfg.experiment_name or re.sub(r"[/:]", "-", task.id)
    if not any(override.startswith("env.seed=") for override in args.overrides):
        task.env_cfg.seed = cfg.seed
    # Environment i of a process usually gets the seed + i, so processes are that far apart.
    task.env_cfg.seed += distributed.rank * task.env_cfg.num_envs
    task.validate()
    lock = _locked_directory(cfg, checkpoint) if distributed.is_main else None
    root = Path(distributed.broadcast_object(None if lock is None else lock.root))
    return TrainingRun(task, device, distributed, RunDir(root), checkpoint, args.video, lock)


def apply_flags(task: Task, args: Namespace) -> None:
    """Change the configuration of a task: first by --config, then by flags, last by overrides."""
    if args.config is not None:
        task.apply_yaml(args.config, trust=args.trust)
    if args.num_envs is not None:
        task.env_cfg.num_envs = args.num_envs
    for name in ("seed", "max_iterations", "run_name", "experiment_name", "logger", "log_root"):
        value = vars(args)[name]
        if value is not None:
            setattr(task.runner_cfg, name, value)
    task.apply_overrides(args.overrides)


def _checkpoint_to_resume(args: Namespace) -> Path | None:
    if args.resume is None:
        return None
    if "=" in args.resume and not Path(args.resume).exists():  # --resume algorithm.gamma=0.9
        args.overrides.insert(0, args.resume)
        args.resume = "latest"
    if args.resume == "latest":
        log_root = args.log_root or DEFAULT_LOG_ROOT
        return _newest_checkpoint(newest_run(log_root, args.experiment_name, args.task))
    if Path(args.resume).is_dir():
        return _newest_checkpoint(RunDir(Path(args.resume)))
    return resolve_checkpoint(args.resume)


def _newest_checkpoint(run: RunDir) -> Path:
    """The newest whole checkpoint, whatever `latest` says: a process may be killed before it has written that."""
    there = list(run.checkpoints().values())
    newest = there[-1] if there else resolve_checkpoint(run.root)
    try:
        load_run(newest)
    except CheckpointError as error:
        usable = newest_usable(run, schema=SAVED_RUN)
        if usable is None:
            raise
        logger.warning("%s The run goes on from that one.", error)
        return usable
    return newest


def _task_to_train(args: Namespace, checkpoint: Path | None) -> Task:
    """The task by its id, or the task of a checkpoint with the configuration that it was trained with."""
    if checkpoint is None:
        name = args.task or args.default_task
        if name is None:
            raise UserError("No task given; name one with --task, `rrf list` shows all.")
        return load_task(name)
    data = load_run(checkpoint)
    if args.task not in (None, data["task"]):
        raise SpecMismatch(
            f"'{checkpoint}' belongs to task '{data['task']}', not to '{args.task}'; leave --task out to continue it."
        )
    return task_of_checkpoint(data, trust=args.trust, task=args.task)


def _locked_directory(cfg: Any, checkpoint: Path | None) -> RunLock:
    """A new directory, or that of the checkpoint if there is no newer one in it: nothing written is overwritten.

    Raises:
        RunLockedError: the run of the checkpoint is being trained.
    """
    if checkpoint is not None and _is_newest(checkpoint):
        lock = RunLock(checkpoint.parent.absolute())
        lock.acquire()
        if not _is_newest(checkpoint):
            raise UserError(
                f"'{checkpoint.parent}' was trained on until now: start again to resume what it has become."
            )
        return lock
    lock = RunLock(create_run_dir(cfg.log_root, cfg.experiment_name, cfg.run_name).root.absolute())
    lock.acquire()
    return lock


def _is_newest(checkpoint: Path) -> bool:
    """Whether a run holds no newer whole checkpoint than this one of it."""
    run = run_of(checkpoint)
    there = list(run.checkpoints().values())
    return checkpoint in there and (there[-1] == checkpoint or newest_usable(run, schema=SAVED_RUN) == checkpoint)


def _consent(task_id: str, config: dict[str, Any]) -> str:
    """The flags without which a checkpoint of this run is refused, because it names what files may not name."""
    flags = f" --task {shlex.quote(task_id)}" if ":" in task_id else ""
    try:
        load_task(task_id).restore(config)
    except ConfigError:
        flags += " --trust"
    return flags


def _summary(run: RunDir, saved_elsewhere: Path | None, consent: str, folder: Path, *, interrupted: bool) -> str:
    def shown(path: Path) -> Path:
        return path.relative_to(folder) if path.is_relative_to(folder) else path

    newest, best = saved_elsewhere or run.pointed("latest"), run.pointed("best")
    root, target = (shlex.quote(str(shown(path))) for path in (run.root, saved_elsewhere or run.root))
    lines = ["Training was stopped; everything is saved." if interrupted else "Training is done."]
    if newest is not None:
        lines.append(f"  checkpoint   {shown(newest)}" + (f" (best: {best.name})" if best is not None else ""))
    if run.report.is_file():
        lines.append(f"  report       {shown(run.report)}")
    lines.append(f"  metrics      {shown(run.metrics)}, tensorboard --logdir {root}")
    rrf = console_command()
    resume = f"  go on        {rrf} train --resume {target}{consent}"
    play = f"  play         {rrf} play --target {target} --video --export{consent}"
    return "\n".join([*lines, *([resume, play] if interrupted else [play, resume + " --max_iterations N"])])
