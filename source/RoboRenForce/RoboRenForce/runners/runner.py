"""What every runner shares: building the learner, the run directory, saving, resuming, callbacks. It has no loop.

A concrete runner's `learn` reads

    with self.session(num_iterations):
        while self.goes_on():
            ...                                  # collect experience
            self.end_iteration(algorithm.update(), ...)

and everything else happens around it. State that a runner needs for an exact resume (statistics, a data iterator) goes
into `self.stateful`.
"""

from __future__ import annotations

import logging
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

import torch
from torch import Tensor

from ..algorithms.algorithm import AlgorithmCfg, Policy, RunContext
from ..configclass import MISSING, Cfg, Range, configclass
from ..configclass.references import main_script
from ..envs.spec import EnvSpec
from ..envs.vec_env import VecEnv
from ..utils.checkpoint import save_checkpoint
from ..utils.console import Progress
from ..utils.distributed import DistributedContext
from ..utils.environment_info import versions
from ..utils.errors import CheckpointError, ConfigError, NonFiniteError, Problem, SpecMismatch, did_you_mean
from ..utils.logging import RunLogger
from ..utils.run_dir import RunDir, open_run_dir
from ..utils.run_lock import RunLock
from ..utils.seeding import rng_state, seed_everything, set_rng_state
from ..utils.timing import PhaseTimer
from .callbacks import Callback, CallbackCfg, EvaluateCallback, LogCallback, ReportCallback, VideoCallback
from .checkpointing import (
    BestCallback,
    CheckpointCallback,
    RunDirectoryCallback,
    save_last,
    saved_on_failure,
    write_to_run,
)
from .metrics import NO_RATIOS, to_host
from .saved_run import fitting, load_run
from .statistics import Ratio
from .stop_request import StopRequest
from .watchdog import Watchdog

logger = logging.getLogger(__name__)


class Stateful(Protocol):
    """Something whose state belongs into a checkpoint."""

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain data."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore `state_dict`."""
        ...


class Runner(ABC):
    """Owns the algorithm and the run; subclasses own the loop.

    Args:
        cfg: Everything about the run but the environment.
        env: What is learned from; already built, so that nothing is built from a wrong configuration.
        log_dir: Run directory; None writes nothing.
        device: Where learning happens.
        eval_env: Environment for evaluations and videos during training; None leaves them out.
        env_cfg: Configuration of `env`, for the checkpoint.
        task: Id of the task, for the records; None: the name that the environment has.
        spec: What the learner is built for, if not for `env`: to be played, it is built for the number of
            environments that it was trained with.
    """

    def __init__(
        self,
        cfg: RunnerCfg,
        *,
        env: VecEnv,
        log_dir: str | Path | None = None,
        device: torch.device | str = "cpu",
        eval_env: VecEnv | None = None,
        env_cfg: Cfg | None = None,
        task: str | None = None,
        spec: EnvSpec | None = None,
    ) -> None:
        self.cfg, self.env, self.eval_env, self.env_cfg = cfg, env, eval_env, env_cfg
        self.task = task or env.spec.task
        self.device = torch.device(device)
        if torch.device(env.device).type != self.device.type:
            raise ConfigError(
                f"'{env.spec.task}' returns tensors on {env.device} and the runner learns on {self.device}: give both "
                f"the same device, as --device does (env.device={self.device}, or build(device='{env.device}'))."
            )
        if self.device.type == "cpu":
            torch.set_num_threads(cfg.cpu_threads)
        elif self.device.type == "cuda" and self.device.index is not None:
            torch.cuda.set_device(self.device)  # graphs are captured on the current device
        self.distributed = DistributedContext.from_environment(self.device, timeout=cfg.step_timeout)
        self.run_dir: RunDir | None = None if log_dir is None else open_run_dir(log_dir)
        self.lock = None if self.run_dir is None or not self.is_main else RunLock(self.run_dir.root)
        """Held while training."""
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
        """Whether policies are evaluated during training, by the main process; all know it."""
        self.best_score = -math.inf
        self.best_iteration: int | None = None
        self.metrics: dict[str, float] = {}
        """Those of the last finished iteration, as far as they are finite."""
        self.resumed = False
        self.continues_episodes = False
        """Whether the environment goes on exactly where the checkpoint was written."""
        self.stop = StopRequest()
        self.watchdog = Watchdog(
            self.task,
            cfg.step_timeout,
            self.stop,
            self.distributed,
            save=lambda: save_last(self, "in a step that hangs"),
        )
        self.logger = RunLogger()
        self.timer = PhaseTimer(self.device)
        self.stateful: dict[str, Stateful] = {}
        # One seed for building gives every process the same weights; after that each draws its own numbers.
        seed_everything(cfg.seed, deterministic=cfg.deterministic)
        self.algorithm = cfg.algorithm.build(policy=cfg.policy, context=self._context(spec or env.spec))
        self._require_known_obs_sets()
        seed_everything(cfg.seed + self.distributed.rank)
        self.callbacks = self._build_callbacks()

    @abstractmethod
    def learn(self, num_iterations: int | None = None) -> None:
        """Train for `num_iterations` more iterations; None: until `cfg.max_iterations` are done in all."""

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and talks."""
        return self.distributed.is_main

    @property
    def rollout_steps(self) -> int:
        """Environment steps between two updates."""
        return 1

    @property
    def max_updates(self) -> int:
        """Updates of the whole run, for schedules."""
        return self.cfg.max_iterations

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

    def goes_on(self) -> bool:
        """Whether another iteration follows."""
        return self.iteration < self.target and not self.stop.agreed

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
        found, stop_all = to_host(
            learned, ratios, local, self.distributed, self.device, flag=self.stop.signal is not None
        )
        self.stop.agreed = stop_all
        for sentence in self.algorithm.warnings({name: found[name] for name in learned}) if self.is_main else ():
            logger.warning("Iteration %d: %s", self.iteration + 1, sentence)
        phases = self.timer.durations()
        self.iteration += 1
        self.steps += env_steps * self.distributed.world_size
        seconds = sum(phases.values())
        self.total_time += seconds
        metrics = {_loss_tag(tag): value for tag, value in found.items()} | dict(numbers or {})
        metrics["Train/total_steps"] = float(self.steps)
        metrics |= {f"Perf/{name}_time": value for name, value in phases.items()}
        metrics |= {"Perf/total_time": self.total_time}
        if env_steps and seconds:
            metrics["Perf/total_fps"] = env_steps * self.distributed.world_size / seconds
        self.metrics = {tag: value for tag, value in metrics.items() if math.isfinite(value)}
        self.finish_iteration(metrics, {_loss_tag(tag) for tag in learned})

    def finish_iteration(self, metrics: dict[str, float], losses: set[str]) -> None:
        """Check the losses and call all callbacks: the iteration is over, what fails here does not touch its state."""
        if self.cfg.check_for_nan:
            self._require_finite(metrics, losses)
        for callback in self.callbacks:
            self.watchdog.enter(type(callback).__name__)
            callback.after_iteration(self, metrics)
        self.watchdog.begin_iteration(self.iteration + 1)

    def place(self) -> str:
        """Where the loop is in the running iteration, for the message after an error."""
        return f"in iteration {self.iteration + 1}"

    def progress(self, metrics: Mapping[str, float]) -> Progress:
        """Where the run stands, for the display."""
        done = self.iteration - self.first_iteration
        per_iteration = (time.perf_counter() - self._session_start) / max(done, 1)
        left = per_iteration * (self.target - self.iteration)
        return Progress(self.iteration, self.target, metrics, self.steps, self.total_time, left)

    # ------------------------------------------------------------------ saving and resuming

    def save(self, path: str | Path | None = None) -> Path | None:
        """Write a checkpoint; every process has to call this, the main one writes and gets the path.

        Args:
            path: Where; None: `model_<iteration>.pt` of the run directory, which `latest` then names.

        Raises:
            CheckpointError: it can't be written.
            NonFiniteError: the learner holds NaN, and the run directory keeps its good checkpoints.
        """
        data = self.gather_state()
        if data is None:
            return None
        if path is None:
            if self.run_dir is None:
                raise CheckpointError(
                    "This runner has no run directory: give save() a path, or build the runner with log_dir."
                )
            return write_to_run(self.run_dir, data)
        save_checkpoint(path, data)
        return Path(path)

    def gather_state(self) -> dict[str, Any] | None:
        """What a checkpoint holds, on the main process; every process has to call this."""
        local = self.distributed.gather_objects(self._local_state())
        return None if local is None else self._state(local)

    def local_state_only(self, interrupted: str | None) -> dict[str, Any]:
        """What a checkpoint holds if other processes can't be asked.

        Args:
            interrupted: Where in an iteration the run is: its running episodes are not continued. None: between two.
        """
        if interrupted is not None:
            self.algorithm.restart_episodes()
        local = self._local_state(None if interrupted is None else {})
        return self._state([local], interrupted)

    def _state(self, local: list[Any], interrupted: str | None = None) -> dict[str, Any]:
        return {
            "task": self.task,
            "script": None if (script := main_script()) is None else str(script),
            "spec": self.env.spec.to_dict(),
            "config": self.config_dict(),
            "versions": versions(),
            "iteration": self.iteration,
            "interrupted": interrupted,
            "algorithm": self.algorithm.state_dict(),
            "runner": {
                "steps": self.steps,
                "total_time": self.total_time,
                "best_score": self.best_score,
                "best_iteration": self.best_iteration,
                "metrics": self.metrics,
            },
            "local": local,
        }

    def load(self, path: str | Path, *, resume: bool = True) -> dict[str, Any]:
        """Load a checkpoint and return it.

        Args:
            path: The checkpoint.
            resume: Continue the run: counters, statistics, random numbers and the simulator too. False takes the
                learner only, to play it or to start another run from it.

        Raises:
            CheckpointError: the file can't be used; see `load_checkpoint`.
            SpecMismatch: it was written for another robot.
        """
        data = load_run(path)
        there = EnvSpec.from_dict(data["spec"])
        differences = self.env.spec.differences(there)
        if differences:
            raise SpecMismatch(
                f"'{path}' was trained on '{data['task']}' and does not fit '{self.task}': {'; '.join(differences)}. "
                f"Use --task {data['task']}, or the checkpoint of another run."
            )
        with fitting(path, "this algorithm and policy"):
            self.algorithm.load_state_dict(data["algorithm"])
        if resume:
            with fitting(path, "this runner and environment"):
                self._resume(data, there)
        return data

    def config_dict(self) -> dict[str, Any]:
        """Configurations of the run as plain data."""
        return {"agent": self.cfg.to_dict(), "env": None if self.env_cfg is None else self.env_cfg.to_dict()}

    def _resume(self, data: Mapping[str, Any], there: EnvSpec) -> None:
        self.iteration = data["iteration"]
        self.steps, self.total_time = data["runner"]["steps"], data["runner"]["total_time"]
        self.best_score = data["runner"]["best_score"]
        self.best_iteration = data["runner"].get("best_iteration")
        self.metrics = data["runner"].get("metrics", {})
        self.resumed = True
        if self.distributed.rank >= len(data["local"]):
            logger.info("Process %d is new in this run and starts with fresh episodes.", self.distributed.rank)
            return
        local = data["local"][self.distributed.rank]
        if local["algorithm"] is not None:
            self.algorithm.load_local_state_dict(local["algorithm"])
        for name, owner in self.stateful.items():
            owner.load_state_dict(local["stateful"][name])
        if there.num_envs == self.env.num_envs:
            if local["env"]:
                self.env.load_state_dict(local["env"])
                self.continues_episodes = True
            elif data.get("interrupted"):
                logger.info(
                    "The run stopped %s: what it had learned until then is kept, and fresh episodes begin.",
                    data["interrupted"],
                )
            else:
                logger.info(
                    "%s can't restore its simulator: the resumed run starts with fresh episodes.", self.env.spec.task
                )
        else:
            logger.info(
                "Resuming with %d environments instead of %d: all start with fresh episodes.",
                self.env.num_envs,
                there.num_envs,
            )
        set_rng_state(local["rng"])  # last, since restoring may draw numbers

    def _local_state(self, env: dict[str, Any] | None = None) -> dict[str, Any]:
        """What differs between processes, with another state of the environment if one is given."""
        return {
            "env": self.env.state_dict() if env is None else env,
            # That of the main process is in the algorithm's own state.
            "algorithm": None if self.is_main else self.algorithm.local_state_dict(),
            "stateful": {name: owner.state_dict() for name, owner in self.stateful.items()},
            "rng": rng_state(),
        }

    # ------------------------------------------------------------------ building

    def _context(self, spec: EnvSpec) -> RunContext:
        return RunContext(
            spec=spec,
            device=self.device,
            rollout_steps=self.rollout_steps,
            max_iterations=self.max_updates,
            obs_groups=self.cfg.obs_groups,
            distributed=self.distributed,
        )

    def _require_known_obs_sets(self) -> None:
        known = self.algorithm.obs_sets
        what = f"{type(self.cfg.algorithm).__name__} reads no such observation set"
        unknown = [name for name in self.cfg.obs_groups if name not in known]
        problems = [Problem(f"obs_groups.{name}", what, did_you_mean(name, known)) for name in unknown]
        if problems:
            raise ConfigError(problems, type(self.cfg).__name__)

    def _build_callbacks(self) -> list[Callback]:
        """Saving comes before what may fail.

        What an evaluation finds, and further callbacks add to it, is logged and decides about the best.
        """
        checkpoints = CheckpointCallback()
        return [
            RunDirectoryCallback(),
            checkpoints,
            EvaluateCallback(),
            *(callback.build() for callback in self.cfg.callbacks),
            VideoCallback(),
            LogCallback(),
            BestCallback(checkpoints),
            ReportCallback(),
        ]

    def _require_finite(self, metrics: Mapping[str, float], tags: set[str]) -> None:
        bad = {tag: value for tag, value in metrics.items() if tag in tags and not math.isfinite(value)}
        if bad:
            listed = ", ".join(f"{tag} is {value}" for tag, value in bad.items())
            newest = self.run_dir.pointed("latest") if self.run_dir else None
            kept = f" The newest checkpoint before that is '{newest}'." if newest else ""
            raise NonFiniteError(
                f"Learning diverged in iteration {self.iteration}: {listed}; lower the learning rate.{kept}"
            )


def _loss_tag(name: str) -> str:
    """`Loss/<name>`, or the name itself where the algorithm chose the group."""
    return name if "/" in name else f"Loss/{name}"


@configclass
class RunnerCfg(Cfg):
    """What every run has: seed, name, length, checkpoints, logs, policy and algorithm."""

    class_type: type = Runner

    seed: Annotated[int, Range(ge=0, le=2**62)] = 42
    """Seed of everything; processes of one run use seed + rank."""
    cpu_threads: Annotated[int, Range(ge=1, le=1024)] = 1
    """Threads of torch when learning on a CPU: networks of a few hundred units are fastest with one."""
    deterministic: bool = False
    """Ask torch for deterministic kernels: slower, and exact on the GPU too."""
    experiment_name: str = ""
    """Folder of the run below `log_root`; empty: the task id."""
    run_name: str = ""
    """Appended to the run directory's time stamp."""
    log_root: str = "logs/RFRL"
    """Where runs are written."""
    max_iterations: Annotated[int, Range(ge=1)] = 1000
    """Length of the run in iterations."""
    save_interval: Annotated[int, Range(ge=1)] = 100
    """Iterations between checkpoints; the last iteration always gets one."""
    keep_checkpoints: Annotated[int, Range(ge=1)] | None = 5
    """Newest checkpoints to keep besides the best; None: all."""
    check_for_nan: bool = True
    """Stop with a dump when the environment or the learner produces NaN or infinity."""

    logger: Literal["tensorboard", "wandb", "swanlab"] | list[Literal["tensorboard", "wandb", "swanlab"]] = (
        "tensorboard"
    )
    """Where metrics go besides `metrics.jsonl`; an empty list: nowhere."""
    logger_project: str = "RoboRenForce"
    """Project name at W&B and SwanLab."""
    report: bool = True
    """Write `curves.png` and `report.html` at the end."""

    eval_interval: Annotated[int, Range(ge=0)] = 0
    """Iterations between evaluations during training; 0: none."""
    eval_episodes: Annotated[int, Range(ge=1)] = 10
    """Episodes of each evaluation."""
    eval_max_steps: Annotated[int, Range(ge=1)] | None = None
    """Steps of each environment in an evaluation, for policies whose episodes do not end; None: as many as the horizon
    allows, but 10,000 an episode at most."""
    video_interval: Annotated[int, Range(ge=0)] = 0
    """Iterations between videos during training; 0: none."""
    video_steps: Annotated[int, Range(ge=1)] = 300
    """Length of a video in environment steps."""
    step_timeout: Annotated[float, Range(gt=0, le=1e7)] | None = 1800.0
    """Seconds without a finished step, update or answer of another process after which the run ends with a dump of all
    stacks; longer than any compilation takes. None: never, as a debugger needs it."""

    obs_groups: dict[str, list[str]] = {}
    """Observation set of the algorithm -> groups of the environment; sets that are missing are resolved by name."""
    policy: Cfg = MISSING
    """The modules that act and judge."""
    algorithm: AlgorithmCfg = MISSING
    """How they learn."""
    callbacks: list[CallbackCfg] = []
    """Further side activities."""

    def check_env(self, env_cfg: Any) -> Iterable[str]:
        """Like `check`, for what contradicts the environment's configuration; asked before an environment starts."""
        return ()
