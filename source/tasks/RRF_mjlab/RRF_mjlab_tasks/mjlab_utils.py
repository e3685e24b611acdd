"""mjlab's environment through the wrapper chain, under the names that users know.

env = MJLabDynamicEnvWrapper(ManagerBasedRlEnv(cfg, device="cuda:0"))
print(env.num_envs, env.dim_params)
obs, extras = env.reset()
obs, rewards, dones, extras = env.step(actions)
"""

from __future__ import annotations

from typing import Any

from mjlab.envs import ManagerBasedRlEnv
from RoboRenForce.envs.dynamic_env import DynamicEnv, DynamicEnvCfg
from RoboRenForce.envs.group_vec import GroupVec, GroupVecCfg
from RoboRenForce.envs.vec_env import VecEnv

from .env_cfg import MJLabEnvCfg
from .mjlab_env import MJLabVecEnv


class RoboRenForceMJLabEnvWrapper(MJLabVecEnv):
    """An existing `ManagerBasedRlEnv` under our contract.

    Args:
        env: mjlab's environment.
        clip_actions: Bound to plus and minus which actions are clipped; None: no clipping.
        options: Further fields of `MJLabEnvCfg`, such as `env_graph="off"`.
    """

    def __init__(self, env: ManagerBasedRlEnv, clip_actions: float | None = None, **options: Any) -> None:
        options = {"task": "an mjlab environment"} | options
        super().__init__(
            MJLabEnvCfg(num_envs=env.num_envs, device=str(env.device), clip_actions=clip_actions, **options), env=env
        )


class MJLabDynamicEnvWrapper(DynamicEnv):
    """`RoboRenForceMJLabEnvWrapper` with reward terms, commands and flat sizes (`dim_params`) guaranteed."""

    def __init__(self, env: ManagerBasedRlEnv | VecEnv, clip_actions: float | None = None, **options: Any) -> None:
        super().__init__(DynamicEnvCfg(), _adapted(env, clip_actions, options))


class MJLabGroupVecWrapper(GroupVec):
    """`MJLabDynamicEnvWrapper` that keeps the last `num_eval_envs` environments for evaluation (by default a fifth)."""

    def __init__(
        self,
        env: ManagerBasedRlEnv | VecEnv,
        clip_actions: float | None = None,
        *,
        num_eval_envs: int | None = None,
        **options: Any,
    ) -> None:
        adapted = env if isinstance(env, VecEnv) else MJLabDynamicEnvWrapper(env, clip_actions, **options)
        kept = int(0.2 * adapted.num_envs) if num_eval_envs is None else num_eval_envs
        super().__init__(GroupVecCfg(num_eval_envs=kept), adapted)


def _adapted(env: ManagerBasedRlEnv | VecEnv, clip_actions: float | None, options: dict[str, Any]) -> VecEnv:
    return env if isinstance(env, VecEnv) else RoboRenForceMJLabEnvWrapper(env, clip_actions, **options)
