"""Settings of a run that do not depend on the algorithm: length, output, side activities."""

from __future__ import annotations

from typing import Annotated, Literal

from ..configclass import Cfg, Range, configclass


@configclass
class RunCfg(Cfg):
    """The part of `TrainerCfg` that does not affect what is learned; read by callbacks and by `building`."""

    seed: Annotated[int, Range(ge=0, le=2**62)] = 42
    """Random seed of everything; processes of one run use seed + rank."""
    cpu_threads: Annotated[int, Range(ge=1, le=1024)] = 1
    """Number of torch's threads when learning on a CPU: networks of a few hundred units are fastest with one."""
    deterministic: bool = False
    """True to use torch's deterministic kernels: slower, and exact on the GPU too."""
    experiment_name: str = ""
    """Folder of the run below `log_root`; empty: the task id."""
    run_name: str = ""
    """Suffix of the run directory's time stamp."""
    log_root: str = "logs/RFRL"
    """Folder in which runs are written."""
    max_iterations: Annotated[int, Range(ge=1)] = 1000
    """Length of the run in iterations."""
    save_interval: Annotated[int, Range(ge=1)] = 100
    """Iterations between checkpoints; the last iteration always gets one."""
    keep_checkpoints: Annotated[int, Range(ge=1)] | None = 5
    """Number of newest checkpoints to keep besides the best; None: all."""
    check_for_nan: bool = True
    """True to stop with a dump when the environment or the learner produces NaN or infinity."""

    logger: Literal["tensorboard", "wandb", "swanlab"] | list[Literal["tensorboard", "wandb", "swanlab"]] = (
        "tensorboard"
    )
    """Writers of metrics besides `metrics.jsonl`; an empty list: none."""
    logger_project: str = "RoboRenForce"
    """Project name at W&B and SwanLab."""
    report: bool = True
    """True to write `curves.png` and `report.html` at the end."""

    eval_interval: Annotated[int, Range(ge=0)] = 0
    """Iterations between evaluations during training; 0: none."""
    eval_episodes: Annotated[int, Range(ge=1)] = 10
    """Number of episodes of each evaluation."""
    eval_max_steps: Annotated[int, Range(ge=1)] | None = None
    """Maximum number of steps of each environment in an evaluation, for policies whose episodes do not end.

    None: as many as the horizon allows, but at most 10,000 per episode.
    """
    video_interval: Annotated[int, Range(ge=0)] = 0
    """Iterations between videos during training; 0: none."""
    video_steps: Annotated[int, Range(ge=1)] = 300
    """Length of a video in environment steps."""
    video_tiles: bool = False
    """True to film an episode of every environment of the evaluation side by side, by its first camera; False to film
    environment 0 by its renderer."""
    info_on_video: bool = True
    """True to write instruction, step, reward and outcome into the tiles of a video."""
    step_timeout: Annotated[float, Range(gt=0, le=1e7)] | None = 1800.0
    """Seconds without a finished step, update or answer of another process after which the run ends with a dump of all
    stacks; longer than any compilation takes. None: never, as a debugger needs it."""

    def set_length(self, iterations: int) -> None:
        """Let the run end after so many iterations, as `--max_iterations` does."""
        self.max_iterations = iterations
