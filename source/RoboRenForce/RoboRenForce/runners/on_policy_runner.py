"""Collect a fixed number of steps, learn from them, forget them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any

import torch
from tensordict import TensorDict

from ..algorithms.algorithm import StepOut
from ..configclass import Range, configclass
from ..utils.checkpoint import as_plain, save_tensors
from ..utils.errors import NonFiniteError
from .nan_guard import NanGuard
from .runner import Runner, RunnerCfg
from .statistics import EnvLog, EpisodeStatistics


class OnPolicyRunner(Runner):
    """The loop of on-policy learning.

    Nothing in it waits for the device but two reads per iteration: one flag before learning (was there a NaN?) and the
    metrics after it.
    """

    cfg: OnPolicyRunnerCfg

    def __init__(self, cfg: OnPolicyRunnerCfg, **runtime: Any) -> None:
        super().__init__(cfg, **runtime)
        spec = self.env.spec
        success = "success" in spec.extras
        self.statistics = EpisodeStatistics(spec.num_envs, cfg.num_steps_per_env, self.device, success=success)
        self.env_log = EnvLog()
        self.nan_guard = NanGuard(spec, cfg.num_steps_per_env, self.device) if cfg.check_for_nan else None
        self.stateful["statistics"] = self.statistics

    @property
    def rollout_steps(self) -> int:
        """Steps of each environment between two updates."""
        return self.cfg.num_steps_per_env

    def learn(self, num_iterations: int | None = None) -> None:
        """Train; see `Runner.learn`."""
        with self.session(num_iterations):
            obs = self._first_observations()
            while self.goes_on():
                self.timer.start()
                obs = self.collect(obs)
                self._stop_at_nan()
                self.timer.lap("collection")
                learned = self.algorithm.update()
                self.timer.lap("learning")
                logged, numbers = self.env_log.collect()
                self.end_iteration(
                    learned,
                    env_steps=self.rollout_steps * self.env.num_envs,
                    ratios=self.statistics.collect(),
                    local=logged,
                    numbers=numbers,
                )

    @torch.no_grad()
    def collect(self, obs: TensorDict) -> TensorDict:
        """Hand `num_steps_per_env` steps that begin at `obs` to the algorithm; returns the observations after them."""
        for _ in range(self.rollout_steps):
            action = self.algorithm.act(obs).action
            obs, reward, done, extras = self.env.step(action)
            step = StepOut(obs, reward, done, extras)
            self.algorithm.record(step)
            self.statistics.record(step)
            self.env_log.record(extras["log"])
            if self.nan_guard is not None:
                self.nan_guard.watch(action, step)
        return obs

    def _first_observations(self) -> TensorDict:
        """Where the run begins or continues."""
        if not self.continues_episodes:
            ages = None
            if self.cfg.init_at_random_ep_len and self.env.max_episode_length:
                ages = torch.randint_like(self.env.episode_length_buf, high=self.env.max_episode_length)
                self.env.episode_length_buf = ages
            self.statistics.restart(ages)
            self.continues_episodes = True  # if `learn` is called again
        return self.env.get_observations()

    def _stop_at_nan(self) -> None:
        """Before anything is learned from a bad rollout, save what is needed to understand it and stop."""
        if self.nan_guard is None or not self.nan_guard.tripped():
            return
        report = self.nan_guard.report()
        bad = report["bad_environments"]
        where = ""
        if self.run_dir is not None:
            path = self.run_dir.root / f"nan_dump_{self.iteration + 1}_rank{self.distributed.rank}.pt"
            state = {
                "env": self.env.state_dict(),
                "algorithm": self.algorithm.state_dict(),
                "spec": self.env.spec.to_dict(),
            }
            save_tensors(path, as_plain({**report, **state}, "nan_dump"))
            where = f"; the rollout and all state are in '{path}'"
        if report["action_is_bad"]:
            raise NonFiniteError(
                f"The policy chose NaN or infinite actions in iteration {self.iteration + 1} "
                f"(environments {bad[:8]}){where}; lower the learning rate."
            )
        raise NonFiniteError(
            f"{self.task} returned NaN or infinity in iteration {self.iteration + 1} "
            f"(environments {bad[:8]}){where}; check its rewards and observations, or set check_for_nan=false to go on."
        )


@configclass
class OnPolicyRunnerCfg(RunnerCfg):
    """Configuration of `OnPolicyRunner`."""

    class_type: type = OnPolicyRunner

    num_steps_per_env: Annotated[int, Range(ge=1)] = 24
    """Steps of each environment between two updates."""
    init_at_random_ep_len: bool = True
    """Begin the first episodes at random ages, so that time-outs are spread over time."""

    def check_env(self, env_cfg: Any) -> Iterable[str]:
        """The algorithm's rules about the size of a rollout."""
        for sentence in self.algorithm.check_rollout(env_cfg.num_envs, self.num_steps_per_env):
            yield f"algorithm.{sentence}"
