"""Improve a VLA policy by the rewards of an environment."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from tensordict import TensorDict
from torch import Tensor

from ..algorithms.algorithm import Policy
from ..components.chunk_execution import ChunkExecutorCfg
from ..components.vla_policy import VLAPolicyCfg
from ..configclass import MISSING, configclass
from ..envs.spec import EnvSpec
from ..envs.structure import require_step
from ..envs.vec_env import StepReturn
from ..utils.errors import ConfigError
from .callbacks import CallbackCfg
from .gpu_metrics import GpuMetricsCfg
from .on_policy_runner import OnPolicyRunner, OnPolicyRunnerCfg
from .statistics import Ratio
from .vla_metrics import chunk_speed, with_episodes
from .vla_pretrain_runner import execute_single_actions

_CHECKED_STEPS = 3


class VLAPPORunner(OnPolicyRunner):
    """An `OnPolicyRunner` whose steps are chunks, and whose metrics have the names that users of RLinf know.

    Episodes go on from one iteration to the next, and environments reset by themselves.
    """

    cfg: VLAPPORunnerCfg

    def __init__(self, cfg: VLAPPORunnerCfg, **runtime: Any) -> None:
        super().__init__(cfg, **runtime)
        self._follow_instructions()

    @property
    def learner(self) -> Any:
        """The algorithm, with what those of VLA policies have beside the others."""
        return self.algorithm

    def collect(self, obs: TensorDict) -> TensorDict:
        """Take the steps of one rollout."""
        self._follow_instructions()
        return super().collect(obs)

    def policy(self) -> Policy:
        """The policy, which knows the instructions of the environment that it is played in."""
        for env in (self.env, self.eval_env):
            self.learner.add_instructions(() if env is None else env.instruction_table.values())
        return self.learner.policy(self.env.spec, execution=self.cfg.execution)

    @property
    def played_spec(self) -> EnvSpec:
        """Spec of the environment, in which `execution` makes single actions of the learner's chunks."""
        spec = self.env.spec
        if self.cfg.execution is None or self.spec is None:
            return spec
        return replace(spec, action=replace(spec.action, chunk=self.spec.action.chunk))

    def env_steps(self) -> int:
        """Executed actions of this iteration."""
        return self.learner.frames()

    def ratios(self) -> dict[str, Ratio]:
        """Statistics of episodes: all that ended in the iteration."""
        return with_episodes(super().ratios(), self.learner.episode_ratios())

    def finish_iteration(self, metrics: dict[str, float], losses: set[str]) -> None:
        """Add what speed means for a policy of chunks."""
        more = chunk_speed(metrics, metrics["rollout/num_samples"] * self.distributed.world_size)
        metrics |= more
        self.metrics |= more
        super().finish_iteration(metrics, losses)

    def _follow_instructions(self) -> None:
        """Tell the policy the texts that the environment has announced."""
        self.learner.add_instructions(self.env.instruction_table.values())


class VLAGRPORunner(VLAPPORunner):
    """The same with iterations of whole episodes: all rows start together, and those that have ended are held."""

    cfg: VLAGRPORunnerCfg

    def __init__(self, cfg: VLAGRPORunnerCfg, **runtime: Any) -> None:
        super().__init__(cfg, **runtime)
        spec = self.env.spec
        if "step_rows" not in spec.capabilities:
            raise ConfigError(
                f"Iterations of whole episodes hold rows whose episode has ended, and '{spec.task}' doesn't name "
                "'step_rows' in spec.capabilities: implement VecEnv.step_rows, or use the runner of VLAPPO."
            )
        self._held_steps = 0
        self._step_env = self._step_running

    @property
    def steps_per_iteration(self) -> int:
        """Most steps of an iteration: the longest episode of every wave."""
        spec = self.env.spec
        algorithm: Any = self.cfg.algorithm
        if not spec.max_episode_length:
            raise ConfigError(
                f"Iterations of whole episodes need an end of every episode, and '{spec.task}' has no time limit: set "
                "one in the environment's configuration."
            )
        return math.ceil(spec.max_episode_length / max(spec.action.chunk, 1)) * algorithm.max_waves

    def collect(self, obs: TensorDict) -> TensorDict:
        """Step until the learner has its episodes."""
        self._follow_instructions()
        while self.learner.is_collecting:
            obs = self.step(obs)
        return obs

    def _step_running(self, action: Tensor) -> StepReturn:
        returned = self.env.step_rows(action, self.learner.running)
        if self._held_steps < _CHECKED_STEPS:
            require_step(self.env, returned)
            self._held_steps += 1
        return returned


@configclass
class VLAPPORunnerCfg(OnPolicyRunnerCfg):
    """Configuration of `VLAPPORunner`; a step is a chunk."""

    class_type: type = VLAPPORunner

    policy: VLAPolicyCfg = MISSING
    """The policy, configured as in the run of `algorithm.init_from`."""
    num_steps_per_env = 16
    init_at_random_ep_len = False
    max_iterations = 100
    save_interval = 20
    callbacks: list[CallbackCfg] = [GpuMetricsCfg()]
    execution: ChunkExecutorCfg | None = None
    """Execution of chunks where the policy is played, action by action; None: as many actions as the environment's
    chunks have."""

    def check_env(self, env_cfg: Any) -> Iterable[str]:
        """Check that chunks are executed as they are learned from."""
        yield from super().check_env(env_cfg)
        yield from self.check_execution()

    def check_execution(self) -> Iterable[str]:
        """Sentences on an execution that nothing is learned from."""
        if self.execution is not None:
            yield (
                f"execution: {type(self.execution).__name__} decides for every action, and RL learns from the chunks "
                "that it executed; set it to null, and give --execution to play"
            )

    def adapt_env_to_play(self, env_cfg: Any) -> None:
        """Let the environment execute single actions if `execution` cuts the chunks."""
        if self.execution is not None:
            execute_single_actions(env_cfg)


@configclass
class VLAGRPORunnerCfg(VLAPPORunnerCfg):
    """Configuration of `VLAGRPORunner`; `num_steps_per_env` is not read, because episodes run to their end."""

    class_type: type = VLAGRPORunner

    def check_env(self, env_cfg: Any) -> Iterable[str]:
        """Check nothing about the length of rollouts, which episodes decide."""
        return self.check_execution()
