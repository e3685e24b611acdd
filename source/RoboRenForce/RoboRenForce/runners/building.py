"""Set-up of a process for a run: threads, device, process group, seeds, and the learner."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ..algorithms.algorithm import Algorithm, RunContext
from ..envs.no_spec import NO_SPEC
from ..utils.distributed import DistributedContext
from ..utils.errors import ConfigError, Problem, did_you_mean
from ..utils.seeding import seed_everything

if TYPE_CHECKING:
    from .trainer import Trainer, TrainerCfg


def set_up_process(cfg: TrainerCfg, device: torch.device) -> DistributedContext:
    """Set threads and current device, and join the process group of the run."""
    if device.type == "cpu":
        torch.set_num_threads(cfg.cpu_threads)
    elif device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)  # graphs are captured on the current device
    return DistributedContext.from_environment(device, timeout=cfg.step_timeout)


def build_learner(trainer: Trainer) -> Algorithm:
    """Build the learner of a trainer with equal weights in every process, and different random numbers afterwards.

    Raises:
        ConfigError: `obs_groups` names an observation set that the learner doesn't read, or it can't be built.
    """
    cfg = trainer.cfg
    seed_everything(cfg.seed, deterministic=cfg.deterministic)
    algorithm = cfg.algorithm.build(policy=cfg.policy, context=trainer.context())
    _require_known_obs_sets(cfg, algorithm)
    seed_everything(cfg.seed + trainer.distributed.rank)
    return algorithm


def run_context(trainer: Trainer) -> RunContext:
    """Return the facts about the run that are passed to the learner."""
    return RunContext(
        spec=NO_SPEC if trainer.spec is None else trainer.spec,
        device=trainer.device,
        rollout_steps=trainer.rollout_steps,
        max_updates=trainer.max_updates,
        obs_groups=trainer.cfg.obs_groups,
        distributed=trainer.distributed,
        seed=trainer.cfg.seed,
        eval_spec=None if trainer.eval_env is None else trainer.eval_env.spec,
    )


def _require_known_obs_sets(cfg: TrainerCfg, algorithm: Algorithm) -> None:
    known = algorithm.obs_sets
    what = f"{type(cfg.algorithm).__name__} reads no such observation set"
    unknown = [name for name in cfg.obs_groups if name not in known]
    problems = [Problem(f"obs_groups.{name}", what, did_you_mean(name, known)) for name in unknown]
    if problems:
        raise ConfigError(problems, type(cfg).__name__)
