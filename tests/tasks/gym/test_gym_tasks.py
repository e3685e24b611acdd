"""Every registered Gymnasium and EnvPool task builds, and ids that nobody registered get a default one."""

from __future__ import annotations

import subprocess
import sys

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces

pytest.importorskip("mujoco")

from RoboRenForce.algorithms import RunContext
from RoboRenForce.envs import resolve_obs_groups
from RoboRenForce.utils.errors import UserError
from RoboRenForce.utils.registry import list_tasks, load_task
from RRF_gym_tasks import task_from_gym_id

pytestmark = pytest.mark.contract

GYM_TASKS = list_tasks("RoboRenForce-Gym-")
ENVPOOL_TASKS = list_tasks("RoboRenForce-EnvPool-")
NAMES = [
    *("CartPole", "Pendulum", "Acrobot", "MountainCarContinuous", "InvertedPendulum", "InvertedDoublePendulum"),
    *("HalfCheetah", "Walker2d", "Hopper", "Ant", "Humanoid", "Swimmer", "Reacher", "Pusher", "CartPoleMasked"),
]


def act_once(task, num_envs=2):
    """Build environment and learner of a task; returns the learner's action and the step that it leads to."""
    blocks = task.env_cfg.groups and task.env_cfg.groups.num_blocks
    task.env_cfg.num_envs = blocks or num_envs
    task.validate()
    env = task.env_cfg.build()
    groups = resolve_obs_groups(env.spec, overrides=task.runner_cfg.obs_groups)
    cfg = task.runner_cfg
    context = RunContext(env.spec, env.device, cfg.num_steps_per_env, cfg.max_iterations, groups)
    learner = cfg.algorithm.build(policy=cfg.policy, context=context)
    action = learner.act(env.get_observations()).action
    step = env.step(action)
    env.close()
    return env.spec, action, step


def test_the_promised_tasks_are_registered():
    assert {f"RoboRenForce-Gym-{name}-PPO" for name in NAMES} <= set(GYM_TASKS)
    assert "RoboRenForce-Gym-CartPoleMasked-PPORNN" in GYM_TASKS
    for name, algorithm in (("CartPole", "PPO"), ("Pendulum", "SAC")):
        assert {f"RoboRenForce-Gym-{name}Sensors-{prefix}{algorithm}" for prefix in ("", "Belief")} <= set(GYM_TASKS)
    for suffix in ("SAPGPPO", "EPO"):
        assert {f"RoboRenForce-Gym-{name}-{suffix}" for name in NAMES[:-1]} <= set(GYM_TASKS)
        assert f"RoboRenForce-EnvPool-Go1Flat-{suffix}" in ENVPOOL_TASKS
    for suffix in ("SAC", "SACSeq", "SACTrans"):
        assert {f"RoboRenForce-Gym-{name}-{suffix}" for name in ("PendulumMasked", "Pendulum", "Ant")} <= set(GYM_TASKS)
    for suffix in ("TDMPC", "TDMPC2"):
        assert {f"RoboRenForce-Gym-{name}-{suffix}" for name in ("Pendulum", "HalfCheetah", "Humanoid")} <= set(
            GYM_TASKS
        )
        assert f"RoboRenForce-EnvPool-CartpoleSwingup-{suffix}" in ENVPOOL_TASKS
    assert {f"RoboRenForce-EnvPool-{name}-PPO" for name in ("Go1Flat", "Go1Rough", "G1Flat", "HalfCheetah")} <= set(
        ENVPOOL_TASKS
    )


@pytest.mark.parametrize("task_id", GYM_TASKS)
def test_gym_task_acts(task_id):
    spec, action, (_, rewards, _, _) = act_once(load_task(task_id), num_envs=4)
    assert action.shape == (spec.num_envs, *spec.action.shape) and rewards.shape == (spec.num_envs,)


@pytest.mark.sim_envpool
@pytest.mark.parametrize("task_id", ENVPOOL_TASKS)
def test_envpool_task_acts(task_id):
    pytest.importorskip("envpool")
    spec, action, (_, rewards, _, _) = act_once(load_task(task_id), num_envs=4)
    assert action.shape == (spec.num_envs, *spec.action.shape) and rewards.shape == (spec.num_envs,)
    if "Flat" in task_id or "Rough" in task_id:
        assert set(spec.obs_groups) - {"block"} == {"policy", "critic"}  # the critic sees more than the robot does


def test_masked_cartpole_sees_positions_only():
    assert act_once(load_task("RoboRenForce-Gym-CartPoleMasked-PPO"))[0].obs_groups == {"policy": (2,)}


@pytest.mark.parametrize("suffix", ["SAC", "SACSeq", "SACTrans"])
def test_masked_pendulum_sees_its_direction_only(suffix):
    assert act_once(load_task(f"RoboRenForce-Gym-PendulumMasked-{suffix}"))[0].obs_groups == {"policy": (2,)}


@pytest.mark.parametrize(("env_id", "kind"), [("MountainCar-v0", "discrete"), ("Hopper-v5", "continuous")])
def test_an_unregistered_gymnasium_id_gets_a_default_task(env_id, kind):
    task = load_task(env_id)
    spec, action, _ = act_once(task)
    assert task.id == env_id and spec.task == env_id and spec.action.kind == kind
    assert action.shape == ((2,) if kind == "discrete" else (2, 3))


class Goal(gym.Env):
    """A Dict of goal and image, as robot-arm tasks have it."""

    observation_space = spaces.Dict(
        {
            "observation": spaces.Box(-1, 1, (3,)),
            "desired_goal": spaces.Box(-1, 1, (2,)),
            "camera": spaces.Box(0, 255, (4, 4, 3), np.uint8),
        }
    )
    action_space = spaces.Box(-1, 1, (2,))

    def __init__(self, image_only=False):
        if image_only:
            self.observation_space = Goal.observation_space["camera"]

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return {name: space.low for name, space in self.observation_space.items()}, {}

    def step(self, action):
        return {name: space.high for name, space in self.observation_space.items()}, 0.0, False, False, {}


def test_a_dict_of_vectors_is_concatenated_and_images_are_left_out():
    gym.register("RRFTestGoal-v0", Goal, max_episode_steps=5)
    task = task_from_gym_id("RRFTestGoal-v0")
    assert task.runner_cfg.obs_groups["actor"] == ["desired_goal", "observation"]
    spec, action, _ = act_once(task)
    assert spec.obs_dim(task.runner_cfg.obs_groups["actor"]) == 5 and action.shape == (2, 2)


def test_images_alone_ask_for_a_configuration():
    gym.register("RRFTestImages-v0", Goal, max_episode_steps=5, kwargs={"image_only": True})
    with pytest.raises(UserError, match="images only"):
        task_from_gym_id("RRFTestImages-v0")


def test_an_id_with_a_module_imports_it(tmp_path, monkeypatch):
    lines = ["import gymnasium", "from gymnasium.envs.classic_control import PendulumEnv"]
    lines += ["gymnasium.register('FromModule-v0', PendulumEnv, max_episode_steps=9)"]
    (tmp_path / "rrf_test_module.py").write_text("\n".join(lines))
    monkeypatch.syspath_prepend(tmp_path)
    assert act_once(load_task("rrf_test_module:FromModule-v0"))[0].max_episode_length == 9
    with pytest.raises(UserError, match="module 'rrf_absent'"):
        task_from_gym_id("rrf_absent:FromModule-v0")


def test_gymnasium_make_of_a_task_says_what_to_do_instead():
    with pytest.raises(UserError, match=r"rrf train --task.*'HalfCheetah-v5'"):
        gym.make("RoboRenForce-Gym-HalfCheetah-PPO")


def test_configurations_import_no_simulator():
    code = (
        "import sys; from RoboRenForce.utils.registry import load_task, list_tasks\n"
        "for name in list_tasks('RoboRenForce-Gym') + list_tasks('RoboRenForce-EnvPool'): load_task(name).validate()\n"
        "print([name for name in ('mujoco', 'envpool', 'pygame', 'OpenGL') if name in sys.modules])\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_loaded_tasks_are_copies():
    first, second = load_task("RoboRenForce-Gym-Ant-PPO"), load_task("RoboRenForce-Gym-Ant-PPO")
    first.env_cfg.num_envs = 99
    first.runner_cfg.algorithm.gamma = 0.5
    assert second.env_cfg.num_envs == 16 and second.runner_cfg.algorithm.gamma == 0.99
    assert torch.tensor(second.env_cfg.seed).item() == 0
