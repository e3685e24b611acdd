"""The tasks of this package: `RoboRenForce-Tabletop-<Task>-<Algorithm>`."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
from RoboRenForce.envs import GroupVecCfg, MultiModalCfg
from RoboRenForce.utils.errors import UserError
from RoboRenForce.utils.registry import ENV_KEY, RUNNER_KEY

from .expert import ExpertCfg
from .goals import GOALS, TaskName
from .tabletop_env import TabletopCfg


def state_cfg(task: TaskName, **options: Any) -> TabletopCfg:
    """Numbers instead of pixels and language."""
    return TabletopCfg(task=task, cameras=[], language=False, **options)


def vla_cfg(task: TaskName, **options: Any) -> TabletopCfg:
    """Pixels, proprioception, an instruction and chunks of actions."""
    chain = MultiModalCfg(images={"front": "front"}, proprio=["robot"], chunk_size=4)
    return TabletopCfg(task=task, multi_modal=chain, **options)


def easy_reach_cfg() -> TabletopCfg:
    """Reach for the only block, which a core learns in minutes."""
    return vla_cfg("Reach", colours=["red", "blue"], num_blocks=1, num_templates=1)


def corrected_reach_cfg() -> TabletopCfg:
    """An expert as slow as that of the demonstrations, whose actions label what the policy does."""
    return vla_cfg("Reach", expert=ExpertCfg(speed=0.6))


def grouped(cfg: TabletopCfg) -> TabletopCfg:
    """Groups of eight tables that start alike."""
    return cfg.replace(num_envs=64, groups=GroupVecCfg(group_size=8))


def register_tasks() -> None:
    """Tell Gymnasium's registry about all tasks; calling it twice is harmless."""
    agents = "RRF_tabletop_tasks.agents"
    _register("RoboRenForce-Tabletop-Reach-PPO", state_cfg("Reach", num_envs=64), f"{agents}:reach_ppo")
    for task in GOALS:
        _register(f"RoboRenForce-Tabletop-{task}-BC", vla_cfg(task), f"{agents}:behavior_cloning")
        _register(f"RoboRenForce-Tabletop-{task}-SFT", vla_cfg(task), f"{agents}:fine_tuning")
        cfg = easy_reach_cfg() if task == "Reach" else vla_cfg(task)
        _register(f"RoboRenForce-Tabletop-{task}-GRPO", grouped(cfg), f"{agents}_rl:grpo")
        # The PPO of Reach learns from numbers.
        for name in ["VLAPPO"] if task == "Reach" else ["VLAPPO", "PPO"]:
            _register(f"RoboRenForce-Tabletop-{task}-{name}", cfg.replace(num_envs=64), f"{agents}_rl:ppo")
    _register(
        "RoboRenForce-Tabletop-Reach-ReinforcePP", easy_reach_cfg().replace(num_envs=64), f"{agents}_rl:reinforce_pp"
    )
    _register("RoboRenForce-Tabletop-Reach-DAgger", corrected_reach_cfg(), f"{agents}:dagger")
    pi = f"{agents}_pi"
    _register("RoboRenForce-Tabletop-Reach-PI05-SFT", easy_reach_cfg(), f"{pi}:fine_tuning")
    _register("RoboRenForce-Tabletop-Reach-PI05-GRPO", grouped(easy_reach_cfg()), f"{pi}:grpo")
    _register("RoboRenForce-Tabletop-Reach-PI05-VLAPPO", easy_reach_cfg().replace(num_envs=64), f"{pi}:ppo")
    for name, agent in (("VLASAC", "reach_vla_sac"), ("DSRL", "reach_dsrl")):
        _register(f"RoboRenForce-Tabletop-Reach-{name}", easy_reach_cfg(), f"{agents}_off_policy:{agent}")
    # Demonstrations have no dense rewards.
    cfg = easy_reach_cfg().replace(reward="sparse")
    _register("RoboRenForce-Tabletop-Reach-RLPD", cfg, f"{agents}_off_policy:reach_rlpd")


def refuse_gym_make(**kwargs: Any) -> gym.Env[Any, Any]:
    """Our ids name a task, that is an environment and how to train on it; Gymnasium can't make that."""
    raise UserError(
        "gymnasium.make can't build a RoboRenForce task: train it with `rrf train --task <id>`, or build its "
        "environments with load_task(<id>).env_cfg.build()."
    )


def _register(task_id: str, env_cfg: TabletopCfg, agent: str) -> None:
    if task_id not in gym.registry:
        gym.register(
            id=task_id,
            entry_point="RRF_tabletop_tasks.registration:refuse_gym_make",
            disable_env_checker=True,
            kwargs={ENV_KEY: env_cfg, RUNNER_KEY: agent},
        )
