"""Base of every run: session, metrics, callbacks, signals, checkpoints, resume. No loop, no environment.

A concrete trainer's `learn` reads

    with self.session(num_iterations):
        while self.should_continue():
            ...                                  # collect experience, or draw recorded data
            self.end_iteration(algorithm.update(), ...)

and everything else happens around it. State that a trainer needs for an exact resume goes into `self.stateful` if every
process has its own (statistics of episodes), or into `self.shared` if all have the same (the position in the data).
"""

from __future__ import annotations

import logging
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..algorithms.algorithm import AlgorithmCfg, Policy, RunContext
from ..configclass import MISSING, Cfg, configclass
from ..envs.spec import EnvSpec
from ..envs.vec_env import VecEnv
from ..utils.console import Progress
from ..utils.logging import RunLogger
from ..utils.run_dir import RunDir
from ..utils.run_lock import RunLock
from ..utils.side_activity import side_activity
from ..utils.stateful import Stateful
from ..utils.timing import PhaseTimer
from .building import build_learner, run_context, set_up_process
from .callbacks import CallbackCfg
from .default_callbacks import default_callbacks
from .failures import save_last, saved_on_failure
from .metrics import NO_RATIOS, performance, require_finite, tag_of_loss, to_host
from .run_cfg import RunCfg
from .run_state import restore, save
from .saved_run import SavedRun, read_run
from .statistics import Ratio
from .stop_request import StopRequest
from .watchdog import Watchdog

logger = logging.getLogger(__name__)


class Trainer(ABC):
    """Owns the learner and the run; subclasses own the loop.

    Args:
        cfg: Everything about the run but the environment.
        spec: What the learner is built for; None: a learner that knows from its own configuration.
        log_dir: Run directory, made when the run begins; None writes nothing.
        device: Where learning happens.
        eval_env: Environment for evaluations and videos during training; None leaves them out.
        env_cfg: Configuration of the environment, for the checkpoint.
        task: Id of the task, for the records.
    """

    steps_env: ClassVar[bool] = False
    """True if it learns by stepping an environment, which its constructor then takes as `env`."""

    def __init__(
        self,
        cfg: TrainerCfg,
        *,
        spec: EnvSpec | None = None,
        log_dir: str | Path | None = None,
        device: torch.device | str = "cpu",
        eval_env: VecEnv | None = None,
        env_cfg: Cfg | None = None,
        task: str = "",
    ) -> None:
        self.cfg, self.spec, self.eval_env, self.env_cfg = cfg, spec, eval_env, env_cfg
        self.task = task or (spec.task if spec is not None else type(self).__name__)
        self.device = torch.device(device)
        self.distributed = set_up_process(cfg, self.device)
        self.run_dir: RunDir | None = None if log_dir is None else RunDir(Path(log_dir))
        self.lock = None if self.run_dir is None or not self.is_main else RunLock(self.run_dir.root)
        self.saved_elsewhere: Path | None = None
        """The last checkpoint, if it could not be written into the run directory."""
        self.iteration = 0
        """Finished iterations."""
        self.first_iteration = 0
        """Finished iterations when the session began."""
        self.target = cfg.max_iterations
        """Iteration at which the current session ends."""
        self.steps = 0
        """Environment steps over all environments and processes."""
        self.total_time = 0.0
        """Seconds of collecting and learning over all sessions."""
        self.evaluates = bool(cfg.eval_interval) and self.distributed.broadcast_object(eval_env is not None)
        """True if the main process evaluates policies during training; all processes know it."""
        self.best_score = -math.inf
        self.best_iteration: int | None = None
        self.metrics: dict[str, float] = {}
        """Those of the last finished iteration, as far as they are finite."""
        self.resumed, self.stop = False, StopRequest()
        rescue = partial(save_last, self, "in a step that hangs")
        self.watchdog = Watchdog(self.task, cfg.step_timeout, self.stop, self.distributed, save=rescue)
        self.logger, self.timer = RunLogger(), PhaseTimer(self.device)
        self.stateful: dict[str, Stateful] = {}
        self.shared: dict[str, Stateful] = {}
        self.algorithm = build_learner(self)
        self.callbacks = default_callbacks(cfg)

    @abstractmethod
    def learn(self, num_iterations: int | None = None) -> None:
        """Train for `num_iterations` more iterations; None: until `cfg.max_iterations` are done in all."""

    @property
    def is_main(self) -> bool:
        """True if this process writes files and logs."""
        return self.distributed.is_main

    @property
    def rollout_steps(self) -> int:
        """Environment steps between two updates."""
        return 1

    @property
    def max_updates(self) -> int:
        """Updates of the whole run, for schedules."""
        return self.cfg.max_iterations

    @property
    def played_spec(self) -> EnvSpec | None:
        """Spec that the policy is played in: of the environment if there is one."""
        return self.spec if self.eval_env is None else self.eval_env.spec

    def policy(self) -> Policy:
        """The current policy, for play, evaluation and export."""
        return self.algorithm.policy()

    # ------------------------------------------------------------------ the frame of `learn`

    @contextmanager
    def session(self, num_iterations: int | None = None) -> Iterator[None]:
        """Everything around the loop: target, signals, callbacks, and closing the logs whatever happens."""
        self.target = self.cfg.max_iterations if num_iterations is None else self.iteration + num_iterations
        self.first_iteration, self.saved_elsewhere = self.iteration, None
        self.algorithm.train()
        try:
            with self.stop:
                for callback in self.callbacks:
                    callback.on_start(self)
                self._session_start = time.perf_counter()
                with saved_on_failure(self), self.watchdog:
                    self.watchdog.begin_iteration(self.iteration + 1)
                    yield
            for callback in self.callbacks:
                callback.on_end(self)
        finally:
            for callback in self.callbacks:
                callback.close(self)

    def should_continue(self) -> bool:
        """Return True if another iteration follows."""
        return self.iteration < self.target and not self.stop.agreed and not self.algorithm.is_finished

    def end_iteration(
        self,
        learned: Mapping[str, Tensor],
        *,
        env_steps: int = 0,
        ratios: Mapping[str, Ratio] = NO_RATIOS,
        local: Mapping[str, Ratio] = NO_RATIOS,
        numbers: Mapping[str, float] | None = None,
    ) -> None:
        """Read the metrics of an iteration in one transfer and run the callbacks.

        Args:
            learned: What `Algorithm.update` returned.
            env_steps: Environment steps of this process in this iteration.
            ratios: Statistics as (sum, count) with the same tags in every process.
            local: Statistics as (sum, count) of this process.
            numbers: Metrics that are on the host already.
        """
        asked = self.stop.signal is not None
        found, self.stop.agreed = to_host(learned, ratios, local, self.distributed, self.device, flag=asked)
        for sentence in self.algorithm.warnings({name: found[name] for name in learned}) if self.is_main else ():
            logger.warning("Iteration %d: %s", self.iteration + 1, sentence)
        phases = self.timer.durations()
        env_steps *= self.distributed.world_size
        self.iteration += 1
        self.steps += env_steps
        self.total_time += sum(phases.values())
        metrics = {tag_of_loss(tag): value for tag, value in found.items()} | dict(numbers or {})
        metrics |= performance(phases, total_steps=self.steps, total_time=self.total_time, env_steps=env_steps)
        self.metrics = {tag: value for tag, value in metrics.items() if math.isfinite(value)}
        self.finish_iteration(metrics, {tag_of_loss(tag) for tag in learned})

    def finish_iteration(self, metrics: dict[str, float], losses: set[str]) -> None:
        """Check the losses and call all callbacks: the iteration is over, what fails here does not touch its state."""
        if self.cfg.check_for_nan:
            newest = self.run_dir.pointed("latest") if self.run_dir else None
            require_finite(metrics, losses, self.iteration, newest)
        for callback in self.callbacks:
            self.watchdog.enter(type(callback).__name__)
            callback.after_iteration(self, metrics)
        self.watchdog.begin_iteration(self.iteration + 1)

    def place(self) -> str:
        """Return the place of the loop in the running iteration, for the message after an error."""
        return f"in iteration {self.iteration + 1}"

    def progress(self, metrics: Mapping[str, float]) -> Progress:
        """Return the progress of the run, for the display."""
        done = self.iteration - self.first_iteration
        per_iteration = (time.perf_counter() - self._session_start) / max(done, 1)
        left = per_iteration * (self.target - self.iteration)
        return Progress(self.iteration, self.target, metrics, self.steps, self.total_time, left)

    def close(self) -> None:
        """Close the environments and free what the learner holds; learning is over."""
        if self.eval_env is not None:
            with side_activity("Closing the environments"):
                self.eval_env.close()
        self.algorithm.close()

    # ------------------------------------------------------------------ saving and resuming

    def save(self, path: str | Path | None = None) -> Path | None:
        """Write a checkpoint; every process has to call this, those that write get the path.

        Args:
            path: Where; None: `model_<iteration>.pt` of the run directory (`global_step_<iteration>` where the
                learner is sharded), which `latest` then names.

        Raises:
            CheckpointError: it can't be written.
            NonFiniteError: the learner holds NaN, and the run directory keeps its good checkpoints.
        """
        return save(self, path)

    def load(self, path: str | Path, *, resume: bool = True) -> dict[str, Any]:
        """Load a checkpoint and return what it holds; see `restore`."""
        saved = read_run(path)
        self.restore(saved, resume=resume)
        return saved.data

    def restore(self, saved: SavedRun, *, resume: bool = True) -> None:
        """Take over a checkpoint.

        Args:
            saved: The checkpoint.
            resume: Continue the run: counters, statistics, random numbers and the simulator too. False takes the
                learner only, to play it or to start another run from it.

        Raises:
            CheckpointError: it does not fit.
            SpecMismatch: it was written for another robot.
        """
        restore(self, saved, resume=resume)

    def config_dict(self) -> dict[str, Any]:
        """Configurations of the run as plain data."""
        return {"agent": self.cfg.to_dict(), "env": None if self.env_cfg is None else self.env_cfg.to_dict()}

    def env_state(self) -> dict[str, Any]:
        """State of the environments of this process, which is empty where there are none."""
        return {}

    def restore_env(self, state: Mapping[str, Any], data: Mapping[str, Any]) -> None:  # noqa: B027 - it may have none
        """Restore `env_state` from the checkpoint `data`."""

    def raised_in_env(self, error: BaseException) -> bool:
        """Return True if `error` came out of an environment that is learned from."""
        return False

    def context(self) -> RunContext:
        """Return the facts about the run that the learner gets."""
        return run_context(self)


@configclass
class TrainerCfg(RunCfg):
    """Settings of every run: seed, name, length, checkpoints, logs, policy and algorithm."""

    class_type: type = Trainer

    obs_groups: dict[str, list[str]] = {}
    """Observation set of the algorithm -> groups of the environment; sets that are missing are resolved by name."""
    policy: Cfg = MISSING
    """The modules that act and judge."""
    algorithm: AlgorithmCfg = MISSING
    """Learning algorithm."""
    callbacks: list[CallbackCfg] = []
    """Further side activities."""

    def check_env(self, env_cfg: Any) -> Iterable[str]:
        """Like `check`, for what contradicts the environment's configuration; asked before an environment starts."""
        return ()

    def adapt_env_to_play(self, env_cfg: Any) -> None:
        """Change the environment's configuration, in place, where playing needs another one than training."""
