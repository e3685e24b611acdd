"""Base of runners that step an environment: one step and its logging, first observations, the NaN guard."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Annotated, Any

import torch
from tensordict import TensorDict
from torch import Tensor

from ..buffer.transition import Transition
from ..configclass import Range, configclass
from ..envs.spec import EnvSpec
from ..envs.structure import require_observations, require_step
from ..envs.vec_env import StepReturn, VecEnv
from ..utils.checkpoint import as_plain, save_tensors
from ..utils.errors import ConfigError, DivergedError, NonFiniteError
from ..utils.side_activity import side_activity
from .failures import is_on_stack
from .nan_guard import NanGuard
from .statistics import EnvLog, EpisodeStatistics, Ratio
from .trainer import Trainer, TrainerCfg

logger = logging.getLogger(__name__)

_CHECKED_STEPS = 3


class EnvRunner(Trainer):
    """A trainer whose iterations take `num_steps_per_env` steps of every environment.

    Args:
        cfg: Configuration of the run, without the environment.
        env: Environment to learn from; already built, so that nothing is built from a wrong configuration.
        spec: Spec that the learner is built for, if not that of `env`: to be played, it is built for the number of
            environments that it was trained with.
        task: Id of the task, for the records; None: the name that the environment has.
        runtime: See `Trainer`.
    """

    cfg: EnvRunnerCfg
    steps_env = True

    def __init__(
        self, cfg: EnvRunnerCfg, *, env: VecEnv, spec: EnvSpec | None = None, task: str | None = None, **runtime: Any
    ) -> None:
        self.env = env
        self.continues_episodes = False
        """True if the environment continues exactly where the checkpoint was written."""
        device = torch.device(runtime.get("device", "cpu"))
        if torch.device(env.device).type != device.type:
            raise ConfigError(
                f"'{env.spec.task}' returns tensors on {env.device} and the runner learns on {device}: give both "
                f"the same device, as --device does (env.device={device}, or build(device='{env.device}'))."
            )
        super().__init__(cfg, spec=spec or env.spec, task=task or env.spec.task, **runtime)
        spec, steps = env.spec, self.steps_per_iteration
        if cfg.log_reward_terms and "reward_terms" not in spec.extras:
            raise ConfigError(
                f"log_reward_terms averages the extra reward_terms, which '{spec.task}' lacks: name them in its "
                f"configuration (GymEnvCfg.reward_terms), or set log_reward_terms=false."
            )
        terms = spec.reward_terms if cfg.log_reward_terms else ()
        self.statistics = EpisodeStatistics(
            spec.num_envs,
            steps,
            self.device,
            success="success" in spec.extras,
            terms=terms,
            counted=spec.leader_rows
            if spec.num_blocks > 1
            else None,  # blocks that explore would hide what the leader reaches
        )
        self.algorithm.add_instructions(env.instruction_table.values())
        env.set_eval_policy(self.policy())
        self.env_log = EnvLog()
        self.nan_guard = NanGuard(spec, steps, self.device) if cfg.check_for_nan else None
        self.stateful["statistics"] = self.statistics
        self._pending_step: tuple[Transition, StepReturn] | None = None
        self._checked_steps = 0
        self._step_env = self._first_steps

    @property
    def steps_per_iteration(self) -> int:
        """Most steps that an iteration takes."""
        return self.cfg.num_steps_per_env

    @torch.no_grad()
    def step(self, obs: TensorDict) -> TensorDict:
        """Act, step every environment, let the algorithm store the step; returns the observations after it.

        A step is logged during the next one: by then an update that followed has been sent to the device, which works
        on it meanwhile instead of waiting.
        """
        self.log_step()
        out = self.algorithm.act(obs)
        self.watchdog.enter_step()
        returned = self._step_env(out.action)
        self.watchdog.leave()
        transition = Transition.of_step(obs, out.action, out.record, returned)
        self.algorithm.process_env_step(transition)
        self._pending_step = (transition, returned)
        return transition.reset_obs

    def _first_steps(self, action: Tensor) -> StepReturn:
        """Step, and check the returned values against the spec; later steps call the environment directly."""
        returned = self.env.step(action)
        require_step(self.env, returned)
        self._checked_steps += 1
        if self._checked_steps == _CHECKED_STEPS:
            self._step_env = self.env.step
        return returned

    @torch.no_grad()
    def log_step(self) -> None:
        """Update statistics, logs and the NaN guard by the last step, before its tensors are overwritten."""
        if self._pending_step is None:
            return
        transition, (_, reward, done, extras) = self._pending_step
        self._pending_step = None
        terms = extras["reward_terms"] if self.cfg.log_reward_terms else None
        executed = extras.get("executed_steps", transition.mask)
        self.statistics.record(reward, done, extras.get("success"), terms, executed)
        self.env_log.record(extras["log"])
        if self.nan_guard is not None:
            self.nan_guard.watch(transition)

    def place(self) -> str:
        """Return the position of the loop in the current iteration, for the message after an error."""
        step = self.statistics.steps + (self._pending_step is not None) + 1
        return f"{super().place()}, step {min(step, self.steps_per_iteration)} of {self.steps_per_iteration}"

    def end_env_iteration(self, learned: Mapping[str, Tensor]) -> None:
        """Call `end_iteration` with the statistics of this iteration's episodes."""
        self.log_step()
        logged, numbers = self.env_log.collect()
        self.end_iteration(
            learned,
            env_steps=self.env_steps(),
            ratios=self.ratios(),
            local=logged,
            numbers=numbers,
        )

    def env_steps(self) -> int:
        """Environment steps of this iteration, of all rows of this process."""
        return self.cfg.num_steps_per_env * self.env.num_envs

    def ratios(self) -> dict[str, Ratio]:
        """Return statistics of this iteration as (sum, count)."""
        return self.statistics.collect()

    def first_observations(self) -> TensorDict:
        """Return the observations with which the run starts or continues."""
        if not self.continues_episodes:
            ages = None
            if self.cfg.init_at_random_ep_len and self.env.max_episode_length:
                ages = torch.randint_like(self.env.episode_length_buf, high=self.env.max_episode_length)
                self.env.episode_length_buf = ages
            self.statistics.restart(ages)
            self.algorithm.restart_episodes()
            self.continues_episodes = True  # if `learn` is called again
        obs = self.env.get_observations()
        require_observations(self.env, obs, "get_observations()")
        return obs

    # ------------------------------------------------------------------ the environment as part of the run

    @property
    def played_spec(self) -> EnvSpec:
        """Spec of the environment in which the policy acts."""
        return self.env.spec

    def env_state(self) -> dict[str, Any]:
        """Return the state of this process's environments; empty if they can't be restored."""
        return self.env.state_dict()

    def restore_env(self, state: Mapping[str, Any], data: Mapping[str, Any]) -> None:
        """Continue the episodes of a checkpoint, or log why fresh ones start."""
        there = data["spec"]["num_envs"]
        if there != self.env.num_envs:
            logger.info(
                "Resuming with %d environments instead of %d: all start with fresh episodes.", self.env.num_envs, there
            )
        elif state:
            self.env.load_state_dict(dict(state))
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

    def raised_in_env(self, error: BaseException) -> bool:
        """Return True if `error` was raised inside the environment."""
        return is_on_stack(error, self.env)

    def close(self) -> None:
        """Close the environments and free the learner's resources."""
        with side_activity("Closing the environments"):
            self.env.close()
        super().close()

    def stop_at_nan(self) -> None:
        """Save a dump and stop if the steps of this iteration contain NaN, infinity or absurd numbers."""
        if self._pending_step is not None:
            require_step(self.env, self._pending_step[1])
        self.log_step()
        if self.nan_guard is None or not self.nan_guard.tripped():
            return
        report = self.nan_guard.report(self.algorithm.stored_steps(self.steps_per_iteration))
        bad = report["bad_environments"]
        who, where = (f" (environments {bad[:8]})" if bad else ""), ""
        if self.run_dir is not None:
            path = self.run_dir.root / f"nan_dump_{self.iteration + 1}_rank{self.distributed.rank}.pt"
            state = {
                "env": self.env.state_dict(),
                "algorithm": self.algorithm.state_dict(),
                "spec": self.env.spec.to_dict(),
            }
            with side_activity(f"Writing '{path}'"):
                save_tensors(path, as_plain({**report, **state}, "nan_dump"))
                where = f"; the rollout and all state are in '{path}'"
        if report["action_is_bad"]:
            raise DivergedError(
                f"The policy chose NaN or infinite actions in iteration {self.iteration + 1}"
                f"{who}{where}; lower the learning rate."
            )
        raise NonFiniteError(
            f"{self.task} returned NaN or infinity in iteration {self.iteration + 1}"
            f"{who}{where}; check its rewards and observations (what is beyond 1e10 counts as "
            f"infinite), or set check_for_nan=false to go on."
        )


@configclass
class EnvRunnerCfg(TrainerCfg):
    """Settings that runners with an environment share."""

    class_type: type = EnvRunner

    num_steps_per_env: Annotated[int, Range(ge=1)] = 24
    """Number of steps of each environment in an iteration."""
    init_at_random_ep_len: bool = True
    """True to start the first episodes at random ages, so that time-outs are spread over time."""
    log_reward_terms: bool = False
    """True to log `Reward/<term>`, the sum of each reward term over an episode, like `Train/mean_reward`."""
