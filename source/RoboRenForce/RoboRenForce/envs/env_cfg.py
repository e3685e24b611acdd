"""Base configuration of environments: the adapter's options, and the links of the wrapper chain."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, NoReturn, Self

from ..configclass import Cfg, Range, configclass
from ..utils.errors import UserError
from .dynamic_env import DynamicEnvCfg
from .group_vec import GroupVecCfg
from .multi_modal import MultiModalCfg
from .vec_env import VecEnv


@configclass
class VecEnvCfg(Cfg):
    """Base of adapters' configurations; `build` makes `VecEnv -> DynamicEnv -> GroupVec -> MultiModal`.

    A link that is None is left out.
    """

    class_type: type | str = VecEnv
    """Adapter class."""
    num_envs: Annotated[int, Range(ge=1)] = 1
    seed: int = 0
    device: str = "cpu"
    dynamic: DynamicEnvCfg | None = None
    """Reward terms, commands and dynamics state as extras or observations."""
    groups: GroupVecCfg | None = None
    """Rows with different roles: eval rows, blocks, groups that start together; `num_envs` counts all of them."""
    multi_modal: MultiModalCfg | None = None
    """Images, proprioception, instructions and action chunks."""
    expert: Cfg | None = None
    """Expert that demonstrates the task: `expert.build(env)` is an `EvalPolicy` that gives single actions, however the
    environment is wrapped. It may look at the simulator's state instead of the observations."""

    def build(self, *args: Any, **runtime: Any) -> VecEnv:
        """Validate, build the adapter's environment and wrap it in the links."""
        env: VecEnv = super().build(*args, **runtime)
        try:
            for link in (self.dynamic, self.groups, self.multi_modal):
                env = env if link is None else link.build(env)
        except BaseException:
            env.close()
            raise
        return env

    def for_evaluation(self, num_envs: int, seed: int) -> Self:
        """Return the configuration for playing: every row plays its own episodes, as the leader of blocks does."""
        cfg = self.copy()
        cfg.num_envs, cfg.seed = num_envs, seed
        cfg.groups = None if cfg.groups is None else cfg.groups.for_evaluation()
        cfg.multi_modal = None if cfg.multi_modal is None else cfg.multi_modal.for_evaluation(num_envs)
        return cfg

    def check(self) -> Iterable[str]:
        """Check that the policy of eval rows sees the learner's observations."""
        if self.multi_modal is not None and self.groups is not None and self.groups.num_eval_envs:
            yield (
                "groups: num_eval_envs can't be combined with multi_modal, whose observations eval rows don't get; "
                "set groups.num_eval_envs=0 and evaluate by the runner's eval_interval"
            )


@configclass
class NoEnvCfg(VecEnvCfg):
    """Stands for the environment of a run that has none."""

    def build(self, *args: Any, **runtime: Any) -> NoReturn:
        """Refuse."""
        raise UserError(
            "This run learns from a data set and has no environment: name a task that has one with --task, or set "
            "eval_interval=0 and video_interval=0."
        )


def has_env(env_cfg: Any) -> bool:
    """Return False for the configuration of a run that learned from a data set alone."""
    return not isinstance(env_cfg, NoEnvCfg)


def evaluation_cfg(env_cfg: Any, num_envs: int, seed: int) -> Any:
    """Return `VecEnvCfg.for_evaluation`, also for a user's configuration without links."""
    if isinstance(env_cfg, VecEnvCfg):
        return env_cfg.for_evaluation(num_envs, seed)
    return env_cfg.replace(num_envs=num_envs, seed=seed)


def num_learning_envs(env_cfg: Any) -> int:
    """Return the number of rows that the learner sees, without eval rows."""
    groups = env_cfg.groups if isinstance(env_cfg, VecEnvCfg) else None
    return env_cfg.num_envs - (0 if groups is None else groups.num_eval_envs)
