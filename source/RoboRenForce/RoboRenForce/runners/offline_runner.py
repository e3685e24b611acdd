"""Learn from recorded data, without stepping an environment."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any

from ..algorithms.algorithm import RunContext
from ..buffer.dataset import DatasetCfg
from ..configclass import MISSING, Range, configclass
from ..envs.spec import EnvSpec
from .runner import Runner, RunnerCfg


class OfflineRunner(Runner):
    """The loop of offline learning: updates, and an evaluation now and then.

    The environment is only asked what it looks like. The policy is played in the evaluation environment, by the same
    callback as in every other run.
    """

    cfg: OfflineRunnerCfg

    def __init__(self, cfg: OfflineRunnerCfg, *, spec: EnvSpec | None = None, **runtime: Any) -> None:
        self._learns = spec is None  # a spec comes with a policy that is only played, for which no data is needed
        super().__init__(cfg, spec=spec, **runtime)

    @property
    def max_updates(self) -> int:
        """Updates of the whole run."""
        return self.cfg.max_iterations * self.cfg.updates_per_iteration

    def learn(self, num_iterations: int | None = None) -> None:
        """Train; see `Runner.learn`."""
        with self.session(num_iterations):
            while self.goes_on():
                self.timer.start()
                learned = {}
                for _ in range(self.cfg.updates_per_iteration):
                    learned = self.algorithm.update()
                    self.watchdog.beat()
                self.timer.lap("learning")
                done = self.cfg.updates_per_iteration
                numbers = {"Train/updates": float((self.iteration + 1) * done)}
                numbers["Perf/updates_per_second"] = done / max(sum(self.timer.durations().values()), 1e-9)
                self.end_iteration(learned, numbers=numbers)

    def _context(self, spec: EnvSpec) -> RunContext:
        context = super()._context(spec)
        return replace(context, data=self.cfg.dataset.build()) if self._learns else context


@configclass
class OfflineRunnerCfg(RunnerCfg):
    """Configuration of `OfflineRunner`."""

    class_type: type = OfflineRunner

    dataset: DatasetCfg = MISSING
    """What is learned from."""
    updates_per_iteration: Annotated[int, Range(ge=1)] = 1000
    """Updates between two looks at the metrics; each takes `algorithm.gradient_steps`."""
    eval_interval = 5
