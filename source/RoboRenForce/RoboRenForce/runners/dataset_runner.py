"""Learn from a stream of recorded samples: pre-training, fine-tuning, imitation."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Annotated, Any

import torch
from typing_extensions import override

from ..algorithms.algorithm import DatasetLearner, DatasetLearnerCfg, RunContext
from ..configclass import MISSING, Cfg, Range, configclass
from ..data.loader import DataLoader, DataLoaderCfg
from ..envs.spec import EnvSpec
from ..utils.errors import SpecMismatch
from .building import set_up_process
from .trainer import Trainer, TrainerCfg
from .updates import take_updates

logger = logging.getLogger(__name__)

_MUCH_WAITING = 0.2


class DatasetRunner(Trainer):
    """The loop of learning from samples: batch after batch, and an evaluation now and then.

    It needs no environment. Where there is one for evaluations, the data has to be of its kind.

    Args:
        cfg: Everything about the run.
        spec: What the learner is built for; None: what the data says about its environment, if anything.
        learns: False opens no data, because the policy is only played.
        device: Where learning happens.
        runtime: See `Trainer`.
    """

    cfg: DatasetRunnerCfg
    algorithm: DatasetLearner

    def __init__(
        self,
        cfg: DatasetRunnerCfg,
        *,
        spec: EnvSpec | None = None,
        learns: bool = True,
        device: torch.device | str = "cpu",
        **runtime: Any,
    ) -> None:
        self.dataset: Any = self.open_data(cfg) if learns else None
        if learns:
            spec = spec or self.dataset.spec
            self._set_length(cfg, set_up_process(cfg, torch.device(device)).world_size)
        super().__init__(cfg, spec=spec, device=device, **runtime)
        self.loader: DataLoader | None = None
        self._warned = False
        if learns:
            self._require_played_in(self.spec, self.eval_env and self.eval_env.spec)
            loader: DataLoader = cfg.loader.build(
                self.dataset,
                rank=self.distributed.rank,
                world_size=self.distributed.world_size,
                seed=cfg.seed,
                device=self.device,
            )
            self.loader = self.shared["loader"] = loader

    def open_data(self, cfg: Any) -> Any:
        """Open what is learned from."""
        return cfg.dataset.build()

    @property
    def max_updates(self) -> int:
        """Updates of the whole run."""
        return self.cfg.max_iterations * self.cfg.updates_per_iteration

    def context(self) -> RunContext:
        """Return the facts about the run that the learner gets, with the data."""
        return replace(super().context(), data=self.dataset)

    def learn(self, num_iterations: int | None = None) -> None:
        """Train; see `Trainer.learn`."""
        loader, learner, cfg = self.loader, self.algorithm, self.cfg
        if loader is None:
            raise ValueError("A runner that was built with learns=False only plays.")
        with self.session(num_iterations):
            loader.source = learner.source(self.dataset)
            batches = loader.endless()
            while self.should_continue():
                take_updates(
                    self,
                    cfg.updates_per_iteration,
                    lambda: learner.update(next(batches)),
                    lambda: self._progress_in_data(loader),
                    samples=loader.sampler.step_size,
                )

    def close(self) -> None:
        """End the workers of the loader too."""
        if self.loader is not None:
            self.loader.close()
        super().close()

    def _set_length(self, cfg: DatasetRunnerCfg, world_size: int) -> None:
        if cfg.epochs is not None:
            samples = cfg.epochs * (cfg.loader.epoch_size or sum(self.dataset.lengths))
            per_iteration = cfg.loader.batch_size * world_size * cfg.updates_per_iteration
            cfg.max_iterations = math.ceil(samples / per_iteration - 1e-9)

    def _progress_in_data(self, loader: DataLoader) -> Mapping[str, float]:
        share = loader.data_wait_share
        if share > _MUCH_WAITING and not self._warned and self.iteration > self.first_iteration and self.is_main:
            self._warned = True
            logger.warning(
                "Learning waits for data %.0f %% of the time: loader.num_workers=%d would do (it has %d, and this "
                "machine %d cores). Smaller images on disk help too.",
                100 * share,
                loader.advised_workers(),
                loader.cfg.num_workers,
                os.cpu_count() or 1,
            )
        return {"Train/epoch": loader.epoch, "Perf/data_wait_share": share}

    def _require_played_in(self, data: EnvSpec | None, env: EnvSpec | None) -> None:
        differences = [] if data is None or env is None else env.differences(data)
        if differences:
            raise SpecMismatch(
                f"The data of {self.task} was not recorded in '{env and env.task}', where it is to be evaluated: "
                f"{'; '.join(differences)}. Evaluate in the environment of the data, or set eval_interval=0."
            )


@configclass
class DatasetRunnerCfg(TrainerCfg):
    """Configuration of `DatasetRunner`."""

    class_type: type = DatasetRunner

    algorithm: DatasetLearnerCfg = MISSING
    """Learner."""
    dataset: Cfg = MISSING
    """Data: `LeRobotDatasetCfg`, `MixtureDatasetCfg`, or another that builds a source of batches."""
    loader: DataLoaderCfg = DataLoaderCfg()
    """In which batches, and by how many processes it is read."""
    updates_per_iteration: Annotated[int, Range(ge=1)] = 100
    """Updates between two looks at the metrics; each takes one batch."""
    epochs: Annotated[float, Range(gt=0)] | None = None
    """Length of the run in passes over the data, from which `max_iterations` follows; None: as that says."""

    @override
    def set_length(self, iterations: int) -> None:
        super().set_length(iterations)
        self.epochs = None

    def check(self) -> Iterable[str]:
        """Sentences on an interval of checkpoints that the learner can't keep."""
        yield from self.algorithm.check_updates(self.updates_per_iteration)
