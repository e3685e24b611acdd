"""Learn from a stream of recorded samples: pre-training, fine-tuning, imitation."""

from __future__ import annotations

from typing import Annotated, Any

from ..algorithms.algorithm import DatasetLearner, DatasetLearnerCfg
from ..configclass import MISSING, Cfg, Range, configclass
from ..data.loader import DataLoader, DataLoaderCfg
from ..envs.spec import EnvSpec
from ..utils.errors import SpecMismatch
from .trainer import Trainer, TrainerCfg
from .updates import take_updates


class DatasetRunner(Trainer):
    """The loop of learning from samples: batch after batch, and an evaluation now and then.

    It needs no environment. Where there is one for evaluations, the data has to be of its kind.

    Args:
        cfg: Everything about the run.
        spec: What the learner is built for; None: what the data says about its environment, if anything.
        learns: False opens no data, because the policy is only played.
        runtime: See `Trainer`.
    """

    cfg: DatasetRunnerCfg
    algorithm: DatasetLearner

    def __init__(
        self, cfg: DatasetRunnerCfg, *, spec: EnvSpec | None = None, learns: bool = True, **runtime: Any
    ) -> None:
        self.dataset: Any = cfg.dataset.build() if learns else None
        if learns:
            spec = spec or self.dataset.spec
        super().__init__(cfg, spec=spec, **runtime)
        self.loader: DataLoader | None = None
        if learns:
            self._require_played_in(self.spec, self.eval_env and self.eval_env.spec)
            self.loader = cfg.loader.build(
                self.dataset,
                rank=self.distributed.rank,
                world_size=self.distributed.world_size,
                seed=cfg.seed,
                device=self.device,
            )
            self.shared["loader"] = self.loader

    @property
    def max_updates(self) -> int:
        """Updates of the whole run."""
        return self.cfg.max_iterations * self.cfg.updates_per_iteration

    def learn(self, num_iterations: int | None = None) -> None:
        """Train; see `Trainer.learn`."""
        loader, learner = self.loader, self.algorithm
        if loader is None:
            raise ValueError("A runner that was built with learns=False only plays.")
        with self.session(num_iterations):
            batches = loader.endless()
            while self.should_continue():
                take_updates(
                    self,
                    self.cfg.updates_per_iteration,
                    lambda: learner.update(next(batches)),
                    lambda: {"Train/epoch": loader.epoch},
                )

    def close(self) -> None:
        """End the workers of the loader too."""
        if self.loader is not None:
            self.loader.close()
        super().close()

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
    """What learns from the batches."""
    dataset: Cfg = MISSING
    """What is learned from: `LeRobotDatasetCfg`, `MixtureDatasetCfg`, or another that builds a source of batches."""
    loader: DataLoaderCfg = DataLoaderCfg()
    """In which batches, and by how many processes it is read."""
    updates_per_iteration: Annotated[int, Range(ge=1)] = 100
    """Updates between two looks at the metrics; each takes one batch."""
