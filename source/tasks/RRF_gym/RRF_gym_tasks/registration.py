"""Tasks of this package: `RoboRenForce-Gym-<Env>-<Algorithm>` and `RoboRenForce-EnvPool-<Env>-<Algorithm>`.

Any other Gymnasium id works too, by `task_from_gym_id`: a default PPO that fits the actions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import gymnasium as gym
from gymnasium import spaces
from RoboRenForce.algorithms import ImaginationEnvCfg
from RoboRenForce.configclass import resolve
from RoboRenForce.envs import DynamicEnvCfg, GroupVecCfg, MultiModalCfg, VecEnvCfg
from RoboRenForce.utils.errors import UserError
from RoboRenForce.utils.registry import ENV_KEY, RUNNER_KEY, Task, add_task_finder

from .envpool_env import EnvPoolCfg
from .gym_env import GymEnvCfg
from .make_gym import find_spec, make_env
from .sensors import CartPoleSensors, PendulumSensors
from .spaces import FLAT_GROUP, ObsLayout

_PPO = "RRF_gym_tasks.agents.ppo"
_MBPO_AGENTS = "RRF_gym_tasks.agents.mbpo"

_NUM_BLOCKS = {"SAPGPPO": 6, "EPO": 8}
"""Number of blocks of four environments, by algorithm."""

_GYM = {
    "CartPole": ("CartPole-v1", "cartpole"),
    "Pendulum": ("Pendulum-v1", "pendulum"),
    "Acrobot": ("Acrobot-v1", "acrobot"),
    "MountainCarContinuous": ("MountainCarContinuous-v0", "mountain_car"),
    "InvertedPendulum": ("InvertedPendulum-v5", "balance"),
    "InvertedDoublePendulum": ("InvertedDoublePendulum-v5", "balance"),
    "HalfCheetah": ("HalfCheetah-v5", "half_cheetah"),
    "Walker2d": ("Walker2d-v5", "locomotion"),
    "Hopper": ("Hopper-v5", "locomotion"),
    "Swimmer": ("Swimmer-v5", "locomotion"),
    "Ant": ("Ant-v5", "humanoid"),
    "Humanoid": ("Humanoid-v5", "humanoid"),
    "Reacher": ("Reacher-v5", "reaching"),
    "Pusher": ("Pusher-v5", "reaching"),
}
"""Name in the task id -> (Gymnasium id, function in `agents.ppo`)."""

_ENVPOOL = {
    **{name: _GYM[name] for name in ("CartPole", "Pendulum", "Acrobot", "InvertedPendulum", "HalfCheetah", "Walker2d")},
    **{name: _GYM[name] for name in ("Hopper", "Swimmer", "Ant", "Humanoid", "Reacher")},
    "Go1Flat": ("Go1JoystickFlatTerrain-v1", "joystick"),
    "Go1Rough": ("Go1JoystickRoughTerrain-v1", "joystick"),
    "G1Flat": ("G1JoystickFlatTerrain-v1", "joystick"),
    "G1Rough": ("G1JoystickRoughTerrain-v1", "joystick"),
    "SpotFlat": ("SpotFlatTerrainJoystick-v1", "joystick"),
    "T1Flat": ("T1JoystickFlatTerrain-v1", "joystick"),
}

_OFF_POLICY = {
    "SAC": "RRF_gym_tasks.agents.sac:{}_sac",
    "SACSeq": "RRF_gym_tasks.agents.sac_history:{}_sac_seq",
    "SACTrans": "RRF_gym_tasks.agents.sac_history:{}_sac_trans",
    "DSAC": "RRF_gym_tasks.agents.sac:{}_dsac",
    "DSACT": "RRF_gym_tasks.agents.sac:{}_dsact",
    "TD3": "RRF_gym_tasks.agents.td3:{}_td3",
}
"""Algorithm in the task id -> its function in `agents`, where `{}` is a kind of `_CONTINUOUS`."""

_CONTINUOUS = {
    "classic": ("Pendulum", "MountainCarContinuous", "InvertedPendulum", "InvertedDoublePendulum"),
    "mujoco": ("HalfCheetah", "Walker2d", "Hopper", "Swimmer", "Ant", "Humanoid", "Reacher", "Pusher"),
}
"""Kind -> the tasks with continuous actions that share its settings."""

_SMOOTH = ("CAPSPPO", "L2C2PPO", "LipsPPO")
"""PPO with a regularizer of smoothness, for every PPO task with continuous actions; see `agents.smooth`."""

_FALLING = ("Walker2d", "Hopper", "Ant", "Humanoid")
"""MuJoCo tasks whose episodes end when the robot falls, which the model of TD-MPC2 learns to predict."""

_DMC = {
    "CartpoleSwingup": ("position", "velocity"),
    "PendulumSwingup": ("orientation", "velocity"),
    "BallInCupCatch": ("position", "velocity"),
    "ReacherEasy": ("position", "to_target", "velocity"),
    "WalkerWalk": ("orientations", "height", "velocity"),
    "CheetahRun": ("position", "velocity"),
    "HopperHop": ("position", "velocity", "touch"),
}
"""Tasks of DeepMind Control in EnvPool -> observation groups."""

_DISCRETE = ("CartPole", "Acrobot")

_NUM_ENVS = {"classic": 4, "mujoco": 1}
"""Number of environments for off-policy learning."""

_GAIL = ("Pendulum", "InvertedPendulum", "HalfCheetah", "Walker2d", "Hopper")
"""Tasks that are also learned by imitation; see `agents.imitation`."""

_MBPO = {
    "Pendulum": "pendulum",
    "InvertedPendulum": "inverted_pendulum",
    "HalfCheetah": "half_cheetah",
    "Hopper": "hopper",
    "Walker2d": "walker2d",
    "Ant": "ant",
}
"""Name in the task id -> function in `agents.mbpo`."""

_VELOCITIES_OF_CARTPOLE = [1, 3]
_VELOCITY_OF_PENDULUM = [2]
_POSITIONS_OF_INVERTED_PENDULUM = [0, 1]
_VELOCITIES_OF_INVERTED_PENDULUM = [2, 3]


def register_tasks() -> None:
    """Register all tasks with Gymnasium; calling it twice is harmless."""
    for name, (env_id, agent) in _GYM.items():
        _register(f"RoboRenForce-Gym-{name}-PPO", GymEnvCfg(env_id=env_id), f"{_PPO}:{agent}")
    for name, (env_id, agent) in _ENVPOOL.items():
        _register(f"RoboRenForce-EnvPool-{name}-PPO", EnvPoolCfg(env_id=env_id), f"{_PPO}:{agent}")
    for name, (env_id, agent) in _GYM.items():
        _register_smooth(f"RoboRenForce-Gym-{name}", GymEnvCfg(env_id=env_id), agent)
    for name, (env_id, agent) in _ENVPOOL.items():
        _register_smooth(f"RoboRenForce-EnvPool-{name}", EnvPoolCfg(env_id=env_id), agent)
    _register_gail()
    _register_blocks()
    _register_model_based()
    for algorithm, agents in _OFF_POLICY.items():
        for kind, names in _CONTINUOUS.items():
            for name in names:
                env_cfg = GymEnvCfg(env_id=_GYM[name][0], num_envs=_NUM_ENVS[kind])
                _register(f"RoboRenForce-Gym-{name}-{algorithm}", env_cfg, agents.format(kind))
    _register_planning()
    for suffix, agent in (("PPO", "cartpole"), ("PPORNN", "cartpole_recurrent")):
        masked = GymEnvCfg(env_id="CartPole-v1", obs_mask=_VELOCITIES_OF_CARTPOLE)
        _register(f"RoboRenForce-Gym-CartPoleMasked-{suffix}", masked, f"{_PPO}:{agent}")
    for suffix, agent in (("SAC", "masked_sac"), ("SACSeq", "masked_sac_seq"), ("SACTrans", "masked_sac_trans")):
        masked = GymEnvCfg(env_id="Pendulum-v1", obs_mask=_VELOCITY_OF_PENDULUM, num_envs=10)
        _register(f"RoboRenForce-Gym-PendulumMasked-{suffix}", masked, f"RRF_gym_tasks.agents.sac_history:{agent}")
    _register_sensors()
    for task_id, (env_cfg, agent) in _chained().items():
        _register(task_id, env_cfg, f"RRF_gym_tasks.agents.{agent}")
    for task_id, (env_cfg, agent) in _distilled().items():
        _register(task_id, env_cfg, f"RRF_gym_tasks.agents.distill:{agent}")
    add_task_finder(find_task)


def _register_planning() -> None:
    """Register TD-MPC and TD-MPC2 for every task with continuous actions, and for DeepMind Control."""
    agents = "RRF_gym_tasks.agents.planning"
    for kind, names in _CONTINUOUS.items():
        for name in names:
            env_cfg = GymEnvCfg(env_id=_GYM[name][0], num_envs=_NUM_ENVS[kind])
            _register(f"RoboRenForce-Gym-{name}-TDMPC", env_cfg, f"{agents}:{kind}_tdmpc")
            kind2 = "falling" if name in _FALLING else kind
            _register(f"RoboRenForce-Gym-{name}-TDMPC2", env_cfg, f"{agents}:{kind2}_tdmpc2")
    for name, groups in _DMC.items():
        env_cfg = EnvPoolCfg(env_id=f"{name}-v1", num_envs=1, frame_skip=2)
        for algorithm in ("TDMPC", "TDMPC2"):
            _register(f"RoboRenForce-EnvPool-{name}-{algorithm}", env_cfg, partial(dmc_agent, algorithm, groups))


def dmc_agent(algorithm: str, groups: Sequence[str]) -> Any:
    """Return the configuration of `agents.planning` for a task of DeepMind Control."""
    return resolve(f"RRF_gym_tasks.agents.planning:dmc_{algorithm.lower()}")([*groups])


def _register_blocks() -> None:
    """Register SAPG and EPO for every PPO task."""
    for algorithm, num_blocks in _NUM_BLOCKS.items():
        groups = GroupVecCfg(num_blocks=num_blocks, observe_blocks=True)
        for adapter, cfg_class, names in (("Gym", GymEnvCfg, _GYM), ("EnvPool", EnvPoolCfg, _ENVPOOL)):
            for name, (env_id, ppo) in names.items():
                env_cfg = cfg_class(env_id=env_id, num_envs=4 * num_blocks, groups=groups)
                _register(f"RoboRenForce-{adapter}-{name}-{algorithm}", env_cfg, partial(block_agent, ppo, algorithm))


def _register_sensors() -> None:
    """Register the tasks with two-rate sensors, on a belief and without memory."""
    for name, sensors, num_envs, algorithm in (
        ("CartPole", CartPoleSensors, 16, "PPO"),
        ("Pendulum", PendulumSensors, 10, "SAC"),
    ):
        env_cfg = GymEnvCfg(env_id=_GYM[name][0], wrappers=[sensors], num_envs=num_envs)
        agent = f"RRF_gym_tasks.agents.belief:{name.lower()}"
        _register(f"RoboRenForce-Gym-{name}Sensors-{algorithm}", env_cfg, agent)
        _register(f"RoboRenForce-Gym-{name}Sensors-Belief{algorithm}", env_cfg, f"{agent}_belief")


def _register_model_based() -> None:
    """Register MBPO, and PPO and SAC in a trained dynamics model: `RoboRenForce-Imagined-<Env>-<Algorithm>`."""
    for name, agent in _MBPO.items():
        _register(
            f"RoboRenForce-Gym-{name}-MBPO", GymEnvCfg(env_id=_GYM[name][0], num_envs=1), f"{_MBPO_AGENTS}:{agent}"
        )
    for name, (env_id, agent) in _GYM.items():
        real = GymEnvCfg(env_id=env_id)
        imagined = ImaginationEnvCfg(real=real, num_envs=real.num_envs)
        _register(f"RoboRenForce-Imagined-{name}-PPO", imagined, f"{_PPO}:{agent}")
    for kind, names in _CONTINUOUS.items():
        for name in names:
            imagined = ImaginationEnvCfg(real=GymEnvCfg(env_id=_GYM[name][0]), num_envs=_NUM_ENVS[kind])
            _register(f"RoboRenForce-Imagined-{name}-SAC", imagined, _OFF_POLICY["SAC"].format(kind))


def _distilled() -> dict[str, tuple[GymEnvCfg | EnvPoolCfg, str]]:
    """Return the tasks whose student sees less than its teacher: id -> (environment, agent)."""
    masks = {
        "CartPole": (_VELOCITIES_OF_CARTPOLE, "cartpole_masked"),
        "Pendulum": (_VELOCITY_OF_PENDULUM, "pendulum_masked"),
        "InvertedPendulum": (_VELOCITIES_OF_INVERTED_PENDULUM, "inverted_pendulum_masked"),
    }
    tasks: dict[str, tuple[GymEnvCfg | EnvPoolCfg, str]] = {
        f"RoboRenForce-Gym-{name}Masked-Distill": (
            GymEnvCfg(env_id=_GYM[name][0], obs_mask=hidden, unmasked_group="full"),
            agent,
        )
        for name, (hidden, agent) in masks.items()
    }
    for name, (env_id, agent) in _ENVPOOL.items():
        if agent == "joystick":
            tasks[f"RoboRenForce-EnvPool-{name}-Distill"] = (EnvPoolCfg(env_id=env_id), agent)
    return tasks


def _chained() -> dict[str, tuple[GymEnvCfg, str]]:
    """Return the tasks that train through links of the wrapper chain: id -> (environment, agent)."""
    camera = MultiModalCfg(
        images={"camera": "image"},
        proprio=["policy"],
        instruction="Balance the pole.",
        chunk_size=2,
        flat_actions=True,
    )
    seen: dict[str, Any] = {"image_group": "image", "obs_mask": _POSITIONS_OF_INVERTED_PENDULUM, "multi_modal": camera}
    return {
        "RoboRenForce-Gym-CartPolePrivileged-PPORNN": (
            GymEnvCfg(
                env_id="CartPole-v1",
                obs_mask=_VELOCITIES_OF_CARTPOLE,
                dynamic=DynamicEnvCfg(observe=["dynamics"]),
            ),
            "ppo:cartpole_privileged",
        ),
        "RoboRenForce-Gym-PendulumGroups-PPO": (
            GymEnvCfg(env_id="Pendulum-v1", groups=GroupVecCfg(group_size=4)),
            "ppo:pendulum_groups",
        ),
        "RoboRenForce-Gym-InvertedPendulumPixels-PPO": (
            GymEnvCfg(env_id="InvertedPendulum-v5", num_envs=8, **seen),
            "pixels:pendulum_ppo",
        ),
        "RoboRenForce-Gym-InvertedPendulumPixels-SAC": (
            GymEnvCfg(env_id="InvertedPendulum-v5", num_envs=2, **seen),
            "pixels:pendulum_sac",
        ),
    }


def task_from_gym_id(env_id: str) -> Task:
    """Build a task for a Gymnasium id that has no registered one.

    Args:
        env_id: Id such as `LunarLander-v3`, or `my_package:MyEnv-v0`, which imports `my_package` first.

    Raises:
        UserError: There is no such environment, or its spaces need their own configuration.
    """
    find_spec(env_id)
    env_cfg = GymEnvCfg(env_id=env_id)
    env = make_env(env_cfg, pictures=False)
    layout = ObsLayout(env.observation_space, env_id)
    kind = "discrete" if isinstance(env.action_space, spaces.Discrete) else "continuous"
    env.close()
    flat = [name for name in layout.shapes if name not in layout.dtypes]
    if not flat:
        raise UserError(
            f"{env_id} observes images only, and the default policy has no network for them: register a task with the "
            f"agent {_PPO}:pixels, see docs/adding/environment.md."
        )
    agents = {name: resolve(f"{_PPO}:{name}") for name in ("runner", "feed_forward")}
    wide = sum(math.prod(layout.shapes[name]) for name in flat) > 50
    policy = agents["feed_forward"](kind, (256, 256) if wide else (128, 128))
    runner_cfg = agents["runner"](policy, 128, 500, {"entropy_coef": 0.005})
    if FLAT_GROUP not in layout.shapes:
        runner_cfg.obs_groups = {"actor": flat, "critic": flat}
    return Task(env_id, env_cfg, runner_cfg)


def find_task(task_id: str) -> Task | None:
    """Return `task_from_gym_id` for ids that Gymnasium knows, None for all others."""
    spec = gym.registry.get(task_id)
    if ":" in task_id or (spec is not None and not {ENV_KEY, RUNNER_KEY} & spec.kwargs.keys()):
        return task_from_gym_id(task_id)
    return None


def refuse_gym_make(**kwargs: Any) -> gym.Env[Any, Any]:
    """Refuse `gym.make`: our ids name a task, that is an environment and how to train on it."""
    env_cfg = kwargs.get(ENV_KEY)
    inner = env_cfg.env_id if isinstance(env_cfg, GymEnvCfg | EnvPoolCfg) else "the environment's own id"
    raise UserError(
        f"gymnasium.make can't build a RoboRenForce task: train it with `rrf train --task <id>`, build its "
        f"environments with load_task(<id>).env_cfg.build(), or make the bare environment by {inner!r}."
    )


def gail_agent(agent: str, name: str) -> Any:
    """Return the configuration of `agents.ppo` named `agent` with the reward of a discriminator."""
    from .agents.imitation import gail

    return gail(resolve(f"{_PPO}:{agent}")(), source=f"{name.lower()}/expert-v0")


def _register_gail() -> None:
    for name in _GAIL:
        env_id, agent = _GYM[name]
        _register(f"RoboRenForce-Gym-{name}-GAILPPO", GymEnvCfg(env_id=env_id), partial(gail_agent, agent, name))


def smooth_agent(agent: str, algorithm: str) -> Any:
    """Return the configuration of `agents.ppo` named `agent` with a regularizer of `_SMOOTH`."""
    from .agents.smooth import smooth

    return smooth(resolve(f"{_PPO}:{agent}")(), algorithm, agent)


def block_agent(agent: str, algorithm: str) -> Any:
    """Return the configuration of `agents.ppo` named `agent` as one of `_NUM_BLOCKS`."""
    from .agents.blocks import in_blocks

    return in_blocks(resolve(f"{_PPO}:{agent}")(), algorithm)


def _register_smooth(task: str, env_cfg: GymEnvCfg | EnvPoolCfg, agent: str) -> None:
    if task.rpartition("-")[2] not in _DISCRETE:
        for algorithm in _SMOOTH:
            _register(f"{task}-{algorithm}", env_cfg, partial(smooth_agent, agent, algorithm))


def _register(task_id: str, env_cfg: VecEnvCfg, agent: Any) -> None:
    if task_id not in gym.registry:
        gym.register(
            id=task_id,
            entry_point="RRF_gym_tasks.registration:refuse_gym_make",
            disable_env_checker=True,
            kwargs={ENV_KEY: env_cfg, RUNNER_KEY: agent},
        )
