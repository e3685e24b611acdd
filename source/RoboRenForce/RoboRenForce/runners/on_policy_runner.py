"""On-policy runner: collect a rollout, update on it, discard it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tensordict import TensorDict

from ..configclass import configclass
from ..envs.env_cfg import num_learning_envs
from .env_runner import EnvRunner, EnvRunnerCfg


class OnPolicyRunner(EnvRunner):
    """The loop of on-policy learning.

    It waits for the device twice per iteration: for one flag before the update (was there a NaN?) and for the metrics
    after it.
    """

    cfg: OnPolicyRunnerCfg

    @property
    def rollout_steps(self) -> int:
        """Steps of each environment between two updates."""
        return self.steps_per_iteration

    def learn(self, num_iterations: int | None = None) -> None:
        """Train; see `Trainer.learn`."""
        with self.session(num_iterations):
            obs = self.first_observations()
            while self.should_continue():
                self.timer.start()
                obs = self.collect(obs)
                self.stop_at_nan()
                self.timer.lap("collection")
                learned = self.algorithm.update()
                self.timer.lap("learning")
                self.end_env_iteration(learned)

    def collect(self, obs: TensorDict) -> TensorDict:
        """Take the steps of one rollout; returns the observations after it."""
        for _ in range(self.cfg.num_steps_per_env):
            obs = self.step(obs)
        return obs


@configclass
class OnPolicyRunnerCfg(EnvRunnerCfg):
    """Configuration of `OnPolicyRunner`; an iteration is one update."""

    class_type: type = OnPolicyRunner

    def check_env(self, env_cfg: Any) -> Iterable[str]:
        """Check the size of a rollout by the algorithm's rules."""
        for sentence in self.algorithm.check_rollout(num_learning_envs(env_cfg), self.num_steps_per_env):
            yield f"algorithm.{sentence}"
