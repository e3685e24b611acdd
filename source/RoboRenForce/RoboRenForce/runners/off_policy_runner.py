"""Off-policy runner: updates between the environment steps."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any

from ..configclass import Range, configclass
from ..envs.env_cfg import num_learning_envs
from .env_runner import EnvRunner, EnvRunnerCfg


class OffPolicyRunner(EnvRunner):
    """The loop of off-policy learning: an update after every `train_freq` steps of the environments.

    An iteration is only the interval at which metrics are read, logged and checked; it does not affect learning.
    """

    cfg: OffPolicyRunnerCfg

    @property
    def rollout_steps(self) -> int:
        """Steps of each environment between two updates."""
        return self.cfg.train_freq

    @property
    def max_updates(self) -> int:
        """Number of updates of the whole run."""
        return self.cfg.max_iterations * (self.cfg.num_steps_per_env // self.cfg.train_freq)

    def learn(self, num_iterations: int | None = None) -> None:
        """Train; see `Trainer.learn`."""
        with self.session(num_iterations):
            obs = self.first_observations()
            while self.should_continue():
                self.timer.start()
                learned = {}
                for _ in range(self.cfg.num_steps_per_env // self.cfg.train_freq):
                    for _ in range(self.cfg.train_freq):
                        obs = self.step(obs)
                    self.timer.lap("collection")
                    learned = self.algorithm.update()
                    self.watchdog.beat()
                    self.timer.lap("learning")
                self.stop_at_nan()
                self.end_env_iteration(learned)


@configclass
class OffPolicyRunnerCfg(EnvRunnerCfg):
    """Configuration of `OffPolicyRunner`."""

    class_type: type = OffPolicyRunner

    num_steps_per_env = 1000
    train_freq: Annotated[int, Range(ge=1)] = 1
    """Steps of each environment between two updates; each takes `algorithm.gradient_steps`."""
    init_at_random_ep_len = False

    def check(self) -> Iterable[str]:
        """Check that an iteration is a whole number of updates."""
        if self.num_steps_per_env % self.train_freq:
            yield (
                f"num_steps_per_env: {self.num_steps_per_env} is not a multiple of train_freq={self.train_freq}, "
                f"so an iteration would end between two updates; use a multiple"
            )

    def check_env(self, env_cfg: Any) -> Iterable[str]:
        """Check the number of environments by the algorithm's rules."""
        for sentence in self.algorithm.check_rollout(num_learning_envs(env_cfg), self.train_freq):
            yield f"algorithm.{sentence}"
