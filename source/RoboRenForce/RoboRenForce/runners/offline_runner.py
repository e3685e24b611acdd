"""Offline runner: learning from recorded transitions on the device, without stepping an environment."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any

from ..algorithms.algorithm import RunContext
from ..buffer.dataset import DatasetCfg, TransitionDataset
from ..configclass import MISSING, Range, configclass
from ..envs.spec import EnvSpec
from .trainer import Trainer, TrainerCfg
from .updates import take_updates


class OfflineRunner(Trainer):
    """The loop of offline learning: updates, and an evaluation now and then.

    The learner draws its batches itself, on the device (`DatasetBuffer`), and is built for the spec of the data; the
    environment for evaluations, if there is one, has to match it.

    Args:
        cfg: Configuration of the run.
        spec: Spec that the learner is built for; None: the spec of the data.
        learns: False to read no data, because the policy is only played.
        task: Id of the task, for the records; None: the origin of the data.
        runtime: See `Trainer`.
    """

    cfg: OfflineRunnerCfg

    def __init__(
        self,
        cfg: OfflineRunnerCfg,
        *,
        spec: EnvSpec | None = None,
        learns: bool = True,
        task: str | None = None,
        **runtime: Any,
    ) -> None:
        self.data: TransitionDataset | None = cfg.dataset.build() if learns else None
        if self.data is not None:
            spec = spec or self.data.spec(task, max_episode_length=cfg.dataset.max_episode_length or 0)
            eval_env = runtime.get("eval_env")
            self.data.require_fit(spec if eval_env is None else eval_env.spec)
        super().__init__(cfg, spec=spec, task=task or "", **runtime)

    @property
    def max_updates(self) -> int:
        """Number of updates of the whole run."""
        return self.cfg.max_iterations * self.cfg.updates_per_iteration

    def context(self) -> RunContext:
        """Return the facts about the run that are passed to the learner, with the data."""
        return replace(super().context(), data=self.data)

    def learn(self, num_iterations: int | None = None) -> None:
        """Train; see `Trainer.learn`."""
        with self.session(num_iterations):
            while self.should_continue():
                take_updates(self, self.cfg.updates_per_iteration, self.algorithm.update)


@configclass
class OfflineRunnerCfg(TrainerCfg):
    """Configuration of `OfflineRunner`."""

    class_type: type = OfflineRunner

    dataset: DatasetCfg = MISSING
    """Data to learn from."""
    updates_per_iteration: Annotated[int, Range(ge=1)] = 1000
    """Updates between two readings of the metrics; each takes `algorithm.gradient_steps`."""
    eval_interval = 5
