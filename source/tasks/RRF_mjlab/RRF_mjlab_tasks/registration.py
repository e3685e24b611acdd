"""The tasks of this package: mjlab's own ids, those of packages that extend mjlab, and names of ours.

mjlab registers tasks in a registry of its own, and third-party packages add to it through mjlab's entry-point group.
Any id that is found there can be trained: its environment is mjlab's, its training configuration mjlab's translated
into ours.
"""

from __future__ import annotations

import importlib.util
from functools import partial
from typing import Any

import gymnasium as gym
from RoboRenForce.envs import DynamicEnvCfg, GroupVecCfg
from RoboRenForce.utils.errors import MissingPackageError, UnknownTaskError, UserError, did_you_mean
from RoboRenForce.utils.registry import ENV_KEY, RUNNER_KEY, Task, add_task_finder

from .env_cfg import MJLabEnvCfg, import_mjlab_tasks
from .lift_color.tasks import lift_color_tasks
from .motion.env_cfg import MJLabMotionEnvCfg

_OFF_POLICY = {
    "SAC": "RRF_mjlab_tasks.off_policy_agents:sac",
    "FastSAC": "RRF_mjlab_tasks.off_policy_agents:fast_sac",
    "FlashSAC": "RRF_mjlab_tasks.off_policy_agents:flash_sac",
    "TDMPC2": "RRF_mjlab_tasks.planning_agents:tdmpc2",
}
"""Algorithm in our ids that learns from a replay -> its agent, alike for all robots."""

BLOCKS = {"SAPGPPO": (4104, 6), "EPO": (4096, 8)}
"""PPO in blocks of environments in our ids -> environments and blocks; see `block_agents`."""

SMOOTH = ("CAPSPPO", "L2C2PPO", "LipsPPO")
"""PPO with a regularizer of smoothness in our ids; see `smooth_agents`."""

OURS = {
    f"RoboRenForce-MJLab-{robot}{ground}-{algorithm}": f"Mjlab-Velocity-{ground}-Unitree-{robot}"
    for robot in ("Go1", "G1")
    for ground in ("Flat", "Rough")
    for algorithm in ("PPO", *_OFF_POLICY, *BLOCKS, *SMOOTH)
}
"""Our id -> mjlab's."""

EVALUATED = "RoboRenForce-MJLab-Go1FlatEval-PPO"
"""`RoboRenForce-MJLab-Go1Flat-PPO` through the wrapper chain: eval rows beside the 4,096 that learn, the return of each
reward term in the metrics, and a critic that reads the command."""

AMP = {
    f"RoboRenForce-MJLab-{robot}Flat-AMPPPO": (f"Mjlab-Velocity-Flat-Unitree-{robot}", robot) for robot in ("Go1", "G1")
}
"""Our id -> mjlab's id and the robot, of tasks whose reward is half the style of a motion."""

WORLD_MODEL = "RoboRenForce-MJLab-Go1Flat-MBPOPPO"
"""PPO in the imagination of a world model, see `world_model_agents`."""

NUM_ENVS = {"SAC": 1024, "FastSAC": 2048, "FlashSAC": 2048, "TDMPC2": 1024}
"""Environments of off-policy learning, by algorithm."""

ACTION_BOUND = 2.0
"""Size of an off-policy action of 1 in mjlab's units, in which PPO starts with a standard deviation of 1."""


def register_tasks() -> None:
    """Tell Gymnasium's registry about our ids and let `load_task` find mjlab's; calling it twice is harmless."""
    for task_id, mjlab_id in OURS.items():
        algorithm = task_id.rpartition("-")[2]
        agent = _OFF_POLICY.get(algorithm, partial(ppo_runner_cfg, mjlab_id, algorithm))
        _register(task_id, _env_cfg(mjlab_id, algorithm), agent)
    _register(EVALUATED, evaluated_env_cfg(), "RRF_mjlab_tasks.registration:go1_flat_evaluated_ppo")
    real = MJLabEnvCfg(task=OURS["RoboRenForce-MJLab-Go1Flat-PPO"], num_envs=1024)
    _register(WORLD_MODEL, real, "RRF_mjlab_tasks.world_model_agents:go1_flat_mbpo_ppo")
    for task_id, (mjlab_id, robot) in AMP.items():
        _register(task_id, MJLabMotionEnvCfg(task=mjlab_id), partial(amp_runner_cfg, mjlab_id, robot))
    for robot in ("Go1", "G1"):
        blind = env_cfg(f"Mjlab-Velocity-Rough-Unitree-{robot}").replace(student_lacks=["height_scan"])
        _register(f"RoboRenForce-MJLab-{robot}Rough-Distill", blind, "RRF_mjlab_tasks.distill_agents:blind")
    for task_id, (lift_cfg, agent) in lift_color_tasks().items():
        _register(task_id, lift_cfg, agent)
    add_task_finder(find_mjlab_task)


def _register(task_id: str, env_cfg: MJLabEnvCfg, agent: Any) -> None:
    if task_id not in gym.registry:
        gym.register(
            id=task_id,
            entry_point="RRF_mjlab_tasks.registration:refuse_gym_make",
            disable_env_checker=True,
            kwargs={ENV_KEY: env_cfg, RUNNER_KEY: agent},
        )


def mjlab_tasks() -> list[str]:
    """Ids in mjlab's registry, those of third-party packages included."""
    _require_mjlab()
    import_mjlab_tasks()
    from mjlab.tasks.registry import list_tasks

    return list_tasks()


def find_mjlab_task(task_id: str) -> Task | None:
    """The task of an id of mjlab's, or None if mjlab does not know it.

    Raises:
        UnknownTaskError: the id looks like mjlab's and is not; its registry knows the nearest names.
    """
    # Ids of Gymnasium are not mjlab's, whose registry takes ten seconds to import.
    if importlib.util.find_spec("mjlab") is None or ":" in task_id or task_id in gym.registry:
        return None
    known = mjlab_tasks()
    if task_id not in known:
        if task_id.lower().startswith("mjlab-"):
            raise UnknownTaskError(f"mjlab has no task {task_id!r}: {did_you_mean(task_id, known, limit=3)}")
        return None
    from mjlab.tasks.registry import load_rl_cfg

    # mjlab's scripts give this option of the learner to the wrapper of the environment
    env = env_cfg(task_id).replace(clip_actions=load_rl_cfg(task_id).clip_actions)
    return Task(task_id, env, runner_cfg(task_id))


def env_cfg(mjlab_id: str) -> MJLabEnvCfg:
    """The environment of a PPO task: like rsl_rl it bootstraps time-outs without final observations."""
    return MJLabEnvCfg(task=mjlab_id, final_observations=False)


def evaluated_env_cfg(num_train: int = 4096, num_eval: int = 256) -> MJLabEnvCfg:
    """The environment of `EVALUATED`."""
    return env_cfg(OURS["RoboRenForce-MJLab-Go1Flat-PPO"]).replace(
        num_envs=num_train + num_eval,
        dynamic=DynamicEnvCfg(require=["reward_terms", "command"], observe=["command"]),
        groups=GroupVecCfg(num_eval_envs=num_eval),
    )


def bounded_env_cfg(mjlab_id: str, algorithm: str) -> MJLabEnvCfg:
    """The environment of an off-policy task: bounded actions, and the true last observations of episodes."""
    return MJLabEnvCfg(task=mjlab_id, num_envs=NUM_ENVS[algorithm], action_bound=ACTION_BOUND)


def runner_cfg(mjlab_id: str) -> Any:
    """Our training configuration for one of mjlab's tasks."""
    _require_mjlab()
    import_mjlab_tasks()
    from mjlab.tasks.registry import load_rl_cfg

    from .agents import runner_cfg_from_mjlab

    return runner_cfg_from_mjlab(load_rl_cfg(mjlab_id), mjlab_id)


def amp_runner_cfg(mjlab_id: str, robot: Any) -> Any:
    """`runner_cfg` with the style of the robot's motion."""
    cfg = runner_cfg(mjlab_id)
    from .motion.agents import amp

    return amp(cfg, robot)


def ppo_runner_cfg(mjlab_id: str, algorithm: str) -> Any:
    """`runner_cfg` for `algorithm`: PPO, a regularizer of `SMOOTH`, or PPO in `BLOCKS`."""
    cfg = runner_cfg(mjlab_id)
    if algorithm in SMOOTH:
        from .smooth_agents import smooth

        return smooth(cfg, algorithm)
    if algorithm in BLOCKS:
        from .block_agents import in_blocks

        return in_blocks(cfg, algorithm)
    return cfg


def go1_flat_ppo() -> Any:
    """PPO for a Go1 that follows velocity commands on flat ground."""
    return runner_cfg(OURS["RoboRenForce-MJLab-Go1Flat-PPO"])


def go1_flat_evaluated_ppo() -> Any:
    """The agent of `EVALUATED`."""
    cfg = go1_flat_ppo()
    cfg.obs_groups["critic"] = [*cfg.obs_groups["critic"], "command"]
    return cfg.replace(log_reward_terms=True)


def _env_cfg(mjlab_id: str, algorithm: str) -> MJLabEnvCfg:
    if algorithm in BLOCKS:
        num_envs, num_blocks = BLOCKS[algorithm]
        groups = GroupVecCfg(num_blocks=num_blocks, observe_blocks=True)
        return env_cfg(mjlab_id).replace(num_envs=num_envs, groups=groups)
    return bounded_env_cfg(mjlab_id, algorithm) if algorithm in _OFF_POLICY else env_cfg(mjlab_id)


def refuse_gym_make(**kwargs: Any) -> gym.Env[Any, Any]:
    """Our ids name a task, that is an environment and how to train on it; Gymnasium can't make that."""
    raise UserError(
        "gymnasium.make can't build a RoboRenForce task: train it with scripts/renforce/train_mjlab.py --task <id>, "
        "or build its environments with load_task(<id>).env_cfg.build()."
    )


def _require_mjlab() -> None:
    if importlib.util.find_spec("mjlab") is None:
        raise MissingPackageError(
            "MJLab tasks need mjlab, which is not installed: run `pip install -e source/tasks/RRF_mjlab`.", name="mjlab"
        )
