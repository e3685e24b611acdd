"""The Gymnasium adapter: equal to Gymnasium's own vector environment, exact, and resumable bit for bit."""

from __future__ import annotations

import io
import os
import subprocess
import sys

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces

pytest.importorskip("mujoco")

from RoboRenForce.configclass import ConfigError
from RoboRenForce.envs import (
    DynamicEnvCfg,
    EnvContractError,
    GroupVecCfg,
    MultiModalCfg,
    check_vec_env,
)
from RoboRenForce.utils.checkpoint import as_plain
from RoboRenForce.utils.errors import UserError
from RRF_gym_tasks import rendering
from RRF_gym_tasks.gym_env import GymEnvCfg
from RRF_gym_tasks.spaces import UnsupportedSpaceError

pytestmark = pytest.mark.contract

CLASSIC = ["CartPole-v1", "Pendulum-v1", "Acrobot-v1", "MountainCarContinuous-v0"]
MUJOCO = ["InvertedPendulum-v5", "HalfCheetah-v5", "Hopper-v5", "Ant-v5"]


def build(env_id, num_envs=3, **options):
    return GymEnvCfg(env_id=env_id, num_envs=num_envs, **options).build()


def random_actions(env, generator):
    spec = env.spec.action
    if spec.kind == "discrete":
        return torch.randint(0, spec.dim, (env.num_envs,), generator=generator)
    return torch.rand(env.num_envs, spec.dim, generator=generator) * 2 - 1


class Counter(gym.Env):
    """Observes and returns its step count; the action is added to the reward. Hand computation needs nothing else."""

    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float64)
    action_space = spaces.Box(np.array([-2.0, 0.0], np.float32), np.array([2.0, 10.0], np.float32))

    def __init__(self, ends_after=None, observation=None):
        self.ends_after, self.kind = ends_after, observation
        spaces_of = {
            "discrete": spaces.Discrete(4, start=2),
            "dict": spaces.Dict({"policy": spaces.Box(-1, 1e3, (1,)), "phase": spaces.Discrete(3), "map": IMAGE}),
            "multi": spaces.MultiDiscrete([2, 2]),
            "nested": spaces.Dict({"outer": spaces.Dict({"inner": spaces.Box(-1, 1)})}),
        }
        self.observation_space = spaces_of.get(observation, self.observation_space)
        if observation == "actions":
            self.action_space = spaces.MultiBinary(3)

    def observe(self):
        if self.kind == "discrete":
            return 2 + self.count % 4
        if self.kind == "dict":
            return {"policy": [self.count], "phase": self.count % 3, "map": np.full((2, 2, 3), self.count, np.uint8)}
        return np.array([self.start, self.count])

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.start, self.count = int(self.np_random.integers(1000)), 0
        return self.observe(), {}

    def step(self, action):
        self.count += 1
        done = self.ends_after is not None and self.count >= self.ends_after
        info = {"is_success": self.count % 2 == 0, "reward_alive": 1.0, "reward_action": float(np.sum(action))}
        return self.observe(), 1.0 + float(np.sum(action)), done, False, info


IMAGE = spaces.Box(0, 255, (2, 2, 3), np.uint8)
gym.register("RRFTestCounter-v0", Counter, max_episode_steps=5)
gym.register("RRFTestEndless-v0", Counter)


class Unsaveable(Counter):
    """Keeps something that plain data can't hold."""

    def __init__(self):
        super().__init__()
        self.engine = object()


gym.register("RRFTestUnsaveable-v0", Unsaveable, max_episode_steps=5)


# --- the contract ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("env_id", [*CLASSIC, *MUJOCO, "RRFTestCounter-v0"])
def test_contract(env_id):
    env = build(env_id, num_envs=3, seed=1)
    assert check_vec_env(env, num_steps=30) == []
    env.close()
    env.close()


@pytest.mark.parametrize(
    "options",
    [
        {"obs_mask": [1, 3]},
        {"frame_skip": 5},
        {"max_episode_steps": 7},
        {"wrappers": [gym.wrappers.TimeAwareObservation]},
        {"wrappers": ["gymnasium.wrappers:FlattenObservation"], "frame_skip": 2},
        {"image_group": "camera", "image_size": [12, 16]},
    ],
    ids=str,
)
def test_contract_with_options(options):
    if "image_group" in options:
        pytest.importorskip("pygame")
    env = build("CartPole-v1", num_envs=2, **options)
    assert check_vec_env(env, num_steps=20) == []


def test_contract_of_the_whole_chain():
    env = build("HalfCheetah-v5", num_envs=5, max_episode_steps=20, reward_terms=["reward_forward", "reward_ctrl"])
    grouped = GroupVecCfg(group_size=2, num_eval_envs=1).build(DynamicEnvCfg().build(env))

    class Zeros:
        def __call__(self, obs):
            return torch.zeros(1, 6)

        def reset(self, dones=None):
            pass

    grouped.set_eval_policy(Zeros())
    chain = MultiModalCfg(proprio=["policy"], instruction="run", chunk_size=3).build(grouped)
    assert check_vec_env(chain, num_steps=20) == []
    assert grouped.env.dim_params["dynamic_dim"] == 18 and grouped.env.dim_params["rewards_dim"] == 2


# --- equality with Gymnasium -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("env_id", ["CartPole-v1", "MountainCarContinuous-v0", "Hopper-v5", "HalfCheetah-v5"])
def test_equals_gymnasium_same_step_vector_environment(env_id):
    limit, num_envs, seed = 25, 3, 11
    ours = build(env_id, num_envs=num_envs, seed=seed, max_episode_steps=limit, rescale_actions=False)
    theirs = gym.vector.SyncVectorEnv(
        [lambda: gym.make(env_id, max_episode_steps=limit)] * num_envs,
        autoreset_mode=gym.vector.AutoresetMode.SAME_STEP,
    )
    expected, _ = theirs.reset(seed=seed)
    np.testing.assert_array_equal(ours.get_observations()["policy"].numpy(), expected.astype(np.float32))

    generator, endings = torch.Generator().manual_seed(0), 0
    for _ in range(4 * limit):
        actions = random_actions(ours, generator)
        obs, rewards, dones, extras = ours.step(actions)
        expected, expected_rewards, terminated, truncated, infos = theirs.step(actions.numpy())
        np.testing.assert_array_equal(obs["policy"].numpy(), expected.astype(np.float32))
        np.testing.assert_array_equal(rewards.numpy(), expected_rewards.astype(np.float32))
        np.testing.assert_array_equal(extras["terminated"].numpy(), terminated)
        np.testing.assert_array_equal(extras["time_outs"].numpy(), truncated & ~terminated)
        for row in np.flatnonzero(terminated | truncated):
            final = extras["final_observations"]["policy"][row].numpy()
            np.testing.assert_array_equal(final, infos["final_obs"][row].astype(np.float32))
            endings += 1
    assert endings >= 9 and dones.dtype == torch.int64


# --- hand-computed episodes ------------------------------------------------------------------------------------------


def test_final_observation_success_and_both_endings_by_hand():
    env = build("RRFTestCounter-v0", num_envs=2, env_kwargs={"ends_after": 4}, seed=3)
    start = env.get_observations()["policy"][:, 0].clone()
    env.episode_length_buf = torch.tensor([0, 2])
    # Row 1 is three steps from its time limit of 5, row 0 four from its end. Action 0 means the middle: 0 and 5.
    for step in range(1, 5):
        obs, rewards, _, extras = env.step(torch.zeros(2, 2))
        assert rewards.tolist() == [6, 6]
        assert extras["terminated"].tolist() == [step == 4, False]
        assert extras["time_outs"].tolist() == [False, step == 3]
        if step == 3:
            assert extras["final_observations"]["policy"].tolist() == [[start[0], 3], [start[1], 3]]
            assert extras["success"].tolist()[1] is False  # 3 is odd
            assert obs["policy"][1, 1] == 0 and env.episode_length_buf.tolist() == [3, 0]
    assert extras["final_observations"]["policy"][0].tolist() == [start[0], 4] and extras["success"].tolist()[0] is True


def test_terminating_on_the_last_step_is_no_time_out():
    env = build("RRFTestCounter-v0", num_envs=1, env_kwargs={"ends_after": 5})
    for _ in range(5):
        _, _, dones, extras = env.step(torch.zeros(1, 2))
    assert dones.tolist() == [1] and extras["terminated"].tolist() == [True] and extras["time_outs"].tolist() == [False]


def test_actions_are_rescaled_and_clipped():
    env = build("RRFTestCounter-v0", num_envs=4)
    assert env.spec.action.low == (-1.0, -1.0) and env.spec.action.high == (1.0, 1.0)
    actions = torch.tensor([[-1.0, -1.0], [1.0, 1.0], [0.5, -0.5], [9.0, -9.0]])
    # Ranges -2..2 and 0..10: -2 + 0, 2 + 10, 1 + 2.5, 2 + 0; and 1 for being alive.
    assert env.step(actions)[1].tolist() == [-1, 13, 4.5, 3]
    raw = build("RRFTestCounter-v0", num_envs=4, rescale_actions=False)
    assert raw.spec.action.low == (-2.0, 0.0) and raw.spec.action.high == (2.0, 10.0)
    assert raw.step(actions)[1].tolist() == [0, 3, 1.5, 3]


def test_frame_skip_sums_rewards_and_stops_at_the_limit():
    env = build("RRFTestCounter-v0", num_envs=1, frame_skip=3)
    assert env.max_episode_length == 2  # 3 + 2 of the 5 steps
    obs, rewards, dones, _ = env.step(torch.zeros(1, 2))
    assert rewards.tolist() == [18] and obs["policy"][0, 1] == 3 and dones.tolist() == [0]
    _, rewards, dones, extras = env.step(torch.zeros(1, 2))
    assert rewards.tolist() == [12] and dones.tolist() == [1] and extras["time_outs"].tolist() == [True]
    assert extras["final_observations"]["policy"][0, 1] == 5


def test_frame_skip_with_wrappers_follows_the_settable_length():
    env = build("RRFTestCounter-v0", num_envs=1, frame_skip=2, wrappers=[gym.wrappers.TimeAwareObservation])
    assert env.max_episode_length == 3
    env.episode_length_buf = torch.tensor([2])
    _, rewards, dones, _ = env.step(torch.zeros(1, 2))
    assert rewards.tolist() == [6] and dones.tolist() == [1]  # one step is left of five


def test_reward_terms_come_from_info():
    env = build("RRFTestCounter-v0", num_envs=1, reward_terms=["reward_alive", "reward_action"])
    _, rewards, _, extras = env.step(torch.ones(1, 2))
    assert env.spec.reward_terms == ("reward_alive", "reward_action")
    assert extras["reward_terms"].tolist() == [[1, 12]] and rewards.tolist() == [13]


def test_reward_terms_are_summed_over_the_frames_of_a_step():
    env = build("RRFTestCounter-v0", num_envs=1, frame_skip=3, reward_terms=["reward_alive", "reward_action"])
    _, rewards, _, extras = env.step(torch.ones(1, 2))
    assert extras["reward_terms"].sum().item() == rewards.item()
    assert extras["reward_terms"].tolist() == [[3, 36]]


def test_without_a_registered_limit_episodes_go_on():
    env = build("RRFTestEndless-v0", num_envs=1)
    assert env.max_episode_length == 0
    for _ in range(50):
        dones = env.step(torch.zeros(1, 2))[2]
    assert dones.tolist() == [0] and env.episode_length_buf.tolist() == [50]


# --- spaces ----------------------------------------------------------------------------------------------------------


def test_discrete_observations_are_one_hot():
    env = build("RRFTestCounter-v0", num_envs=1, env_kwargs={"observation": "discrete"})
    seen = [env.get_observations()["policy"][0].tolist()]
    seen += [env.step(torch.zeros(1, 2))[0]["policy"][0].tolist() for _ in range(4)]
    assert seen == [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1], [1, 0, 0, 0]]


def test_dict_observations_are_one_group_per_key():
    env = build("RRFTestCounter-v0", num_envs=2, env_kwargs={"observation": "dict"})
    assert env.spec.obs_groups == {"policy": (1,), "phase": (3,), "map": (2, 2, 3)}
    assert env.spec.obs_dtypes == {"map": "uint8"}
    for _ in range(4):
        obs = env.step(torch.zeros(2, 2))[0]
    assert obs["policy"].tolist() == [[4], [4]] and obs["phase"].tolist() == [[0, 1, 0]] * 2
    assert obs["map"].dtype == torch.uint8 and obs["map"].unique().tolist() == [4]
    assert check_vec_env(env, num_steps=10) == []


@pytest.mark.parametrize(
    ("observation", "sentence"),
    [
        ("multi", r"MultiDiscrete.*Discrete, non-empty Box and Dict"),
        ("nested", r"'outer' of type Dict.*supported"),
        ("actions", r"action space MultiBinary\(3\).*Discrete and non-empty Box"),
    ],
)
def test_other_spaces_are_refused_by_name(observation, sentence):
    with pytest.raises(UnsupportedSpaceError, match=sentence):
        build("RRFTestCounter-v0", env_kwargs={"observation": observation})


def test_mask_hides_velocities():
    whole, masked = build("CartPole-v1", seed=5), build("CartPole-v1", seed=5, obs_mask=[1, 3])
    assert masked.spec.obs_groups == {"policy": (2,)}
    for _ in range(60):
        actions = torch.ones(3, dtype=torch.int64)
        expected, got = whole.step(actions), masked.step(actions)
        assert torch.equal(got[0]["policy"], expected[0]["policy"][:, [0, 2]])
        finals = [step[3]["final_observations"]["policy"] for step in (expected, got)]
        assert torch.equal(finals[1], finals[0][:, [0, 2]])
    with pytest.raises(UserError, match="indices from 0 to 3"):
        build("CartPole-v1", obs_mask=[4])
    with pytest.raises(UserError, match="leave at least one visible"):
        build("CartPole-v1", obs_mask=[0, 1, 2, 3])


# --- randomness ------------------------------------------------------------------------------------------------------


def test_environment_i_is_seeded_with_seed_plus_i():
    env = build("Pendulum-v1", num_envs=3, seed=20)
    for row in range(3):
        expected, _ = gym.make("Pendulum-v1").reset(seed=20 + row)
        np.testing.assert_array_equal(env.get_observations()["policy"][row].numpy(), expected)
    shifted, _ = env.reset(seed=21)
    again, _ = env.reset(seed=20)
    assert torch.equal(shifted["policy"][0], again["policy"][1])


def test_rows_given_one_seed_go_the_same_way():
    env = build("HalfCheetah-v5", num_envs=3)
    obs, _ = env.reset_rows(torch.tensor([0, 2]), [9, 9])
    assert torch.equal(obs["policy"][0], obs["policy"][2]) and not torch.equal(obs["policy"][0], obs["policy"][1])
    obs = env.step(torch.full((3, 6), 0.3))[0]
    assert torch.equal(obs["policy"][0], obs["policy"][2])


# --- exact resume ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("env_id", ["CartPole-v1", "Pendulum-v1", "Acrobot-v1", *MUJOCO, "Humanoid-v5", "Reacher-v5"])
def test_resume_is_bit_identical(env_id):
    env, resumed = build(env_id, num_envs=2, seed=1), build(env_id, num_envs=2, seed=77)
    generator = torch.Generator().manual_seed(0)
    for _ in range(13):
        env.step(random_actions(env, generator))
    if env.max_episode_length:
        env.episode_length_buf = env.episode_length_buf + (env.max_episode_length - 20)  # resets follow soon
    file = io.BytesIO()
    torch.save(as_plain(env.state_dict()), file)
    file.seek(0)
    resumed.load_state_dict(torch.load(file, weights_only=True))

    assert torch.equal(resumed.get_observations()["policy"], env.get_observations()["policy"])
    endings = 0
    for _ in range(30):
        actions = random_actions(env, generator)
        expected, got = env.step(actions), resumed.step(actions)
        assert torch.equal(expected[0]["policy"], got[0]["policy"]) and torch.equal(expected[1], got[1])
        assert torch.equal(expected[2], got[2]) and torch.equal(env.episode_length_buf, resumed.episode_length_buf)
        finals = [step[3]["final_observations"]["policy"] for step in (expected, got)]
        assert torch.equal(*finals)
        endings += int(expected[2].sum())
    assert endings >= 2
    for one, other in zip(env.envs, resumed.envs, strict=True):
        assert one.unwrapped.np_random.bit_generator.state == other.unwrapped.np_random.bit_generator.state


def test_state_of_wrappers_is_restored_too():
    options = {"wrappers": [gym.wrappers.TimeAwareObservation], "max_episode_steps": 9}
    env, resumed = build("CartPole-v1", **options), build("CartPole-v1", **options)
    for _ in range(4):
        env.step(torch.zeros(3, dtype=torch.int64))
    resumed.load_state_dict(env.state_dict())
    for _ in range(12):
        expected, got = env.step(torch.ones(3, dtype=torch.int64)), resumed.step(torch.ones(3, dtype=torch.int64))
        assert torch.equal(expected[0]["policy"], got[0]["policy"]) and torch.equal(expected[2], got[2])


def test_what_can_not_be_saved_says_so_by_an_empty_state():
    env = build("RRFTestUnsaveable-v0")
    assert env.state_dict() == {}
    env.load_state_dict({})
    assert env.get_observations().batch_size == (3,)


def test_state_of_another_number_of_environments_is_refused():
    with pytest.raises(UserError, match="--num_envs 3"):
        build("CartPole-v1", num_envs=2).load_state_dict(build("CartPole-v1", num_envs=3).state_dict())


def test_state_of_another_model_is_refused():
    with pytest.raises(UserError, match="another model"):
        build("Hopper-v5").load_state_dict(build("Walker2d-v5").state_dict())


# --- bad input -------------------------------------------------------------------------------------------------------


def test_unknown_id_names_the_nearest():
    with pytest.raises(UserError, match=r"no environment 'HalfCheeta-v5'.*HalfCheetah-v5"):
        build("HalfCheeta-v5")


def test_no_environments_is_a_configuration_error():
    with pytest.raises(ConfigError, match="num_envs"):
        build("CartPole-v1", num_envs=0)


def test_wrong_action_shape_is_named():
    with pytest.raises(ValueError, match=r"shape \(3, 5\), expected \(3, 6\)"):
        build("HalfCheetah-v5").step(torch.zeros(3, 5))


def test_absent_info_keys_are_named():
    with pytest.raises(UserError, match=r"\['reward_walk'\].*reward_forward"):
        build("HalfCheetah-v5", reward_terms=["reward_walk"])
    with pytest.raises(UserError, match="success_key is 'won'"):
        build("HalfCheetah-v5", success_key="won")


def test_a_broken_environment_is_found_by_the_checker():
    class Drifting(Counter):
        """Doesn't reset its counter."""

        def reset(self, *, seed=None, options=None):
            count = getattr(self, "count", 0)
            result = super().reset(seed=seed)
            self.count = count
            return self.observe(), result[1]

    gym.register("RRFTestDrifting-v0", Drifting, max_episode_steps=5)
    with pytest.raises(EnvContractError, match="two runs after reset"):
        check_vec_env(build("RRFTestDrifting-v0"))


# --- pictures --------------------------------------------------------------------------------------------------------


def test_mujoco_picture_has_the_asked_size_and_shows_the_state():
    env = build("HalfCheetah-v5", num_envs=1, render_size=[120, 160])
    try:
        first = env.render().copy()
    except UserError as error:
        pytest.skip(str(error))
    assert first.shape == (120, 160, 3) and first.dtype == np.uint8
    assert env.envs[0].unwrapped.model.vis.quality.shadowsize == 0
    for _ in range(20):
        env.step(torch.ones(1, 6))
    assert (env.render() != first).mean() > 0.01
    env.close()


def test_the_camera_follows_a_robot_that_runs_away():
    env = build("HalfCheetah-v5", num_envs=1, render_size=[120, 160])
    inner = env.envs[0].unwrapped
    try:
        here = _robot_columns(env.render())
    except UserError as error:
        pytest.skip(str(error))
    inner.data.qpos[0] += 16.0
    inner.set_state(inner.data.qpos, inner.data.qvel)
    assert abs(_robot_columns(env.render()) - here) < 5


def _robot_columns(picture: np.ndarray) -> float:
    """Mean column of the pixels that are neither floor nor sky: the robot is the only thing with a strong color."""
    colored = picture.max(2).astype(int) - picture.min(2) > 40
    assert colored.sum() > 50
    return float(np.nonzero(colored)[1].mean())


def test_image_group_has_exact_final_pictures():
    pytest.importorskip("pygame")
    env = build("CartPole-v1", num_envs=1, image_group="camera", image_size=[40, 60])
    assert env.spec.obs_groups["camera"] == (40, 60, 3)
    for _ in range(40):
        obs, _, dones, extras = env.step(torch.ones(1, dtype=torch.int64))
        if dones[0]:
            break
    # Pushed to the right until the pole fell: the last picture differs from the first one of the next episode.
    assert (extras["final_observations"]["camera"] != obs["camera"]).any()


def run_python(code, **environment):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment}
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)


def test_missing_gl_library_names_the_debian_packages():
    """MuJoCo simulates without OpenGL; only a picture needs it, and then the message says what to install."""
    if rendering.library_loads("osmesa"):
        pytest.skip("OSMesa is installed here")
    code = (
        "import os, torch\n"
        "from RRF_gym_tasks.gym_env import GymEnvCfg\n"
        "env = GymEnvCfg(env_id='Hopper-v5', num_envs=1).build()\n"
        "env.step(torch.zeros(1, 3))\n"
        "print('stepped')\n"
        "os.environ['MUJOCO_GL'] = os.environ['PYOPENGL_PLATFORM'] = 'osmesa'\n"
        "env.render()\n"
    )
    result = run_python(code, MUJOCO_GL="disabled")
    assert "stepped" in result.stdout
    assert "libegl1 and libgl1-mesa-dri" in result.stderr and "libosmesa6" in result.stderr


def test_chosen_gl_library_that_is_absent_is_named_before_training():
    if rendering.library_loads("osmesa"):
        pytest.skip("OSMesa is installed here")
    code = "from RRF_gym_tasks.gym_env import GymEnvCfg\nGymEnvCfg(env_id='Hopper-v5', num_envs=1).build()\n"
    result = run_python(code, MUJOCO_GL="osmesa", PYOPENGL_PLATFORM="")
    assert "MUJOCO_GL is 'osmesa'" in result.stderr and "unset MUJOCO_GL" in result.stderr


@pytest.mark.parametrize(
    ("display", "given", "libraries", "expected"),
    [
        ("", None, {"egl", "osmesa"}, "egl"),
        ("", None, {"osmesa"}, "osmesa"),
        ("", None, set(), None),
        ("", "glfw", {"egl"}, "glfw"),
        (":0", None, {"egl"}, None),
    ],
)
def test_gl_backend_is_chosen_where_there_is_no_display(monkeypatch, display, given, libraries, expected):
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(rendering, "library_loads", libraries.__contains__)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.setenv("DISPLAY", display)
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    if given:
        monkeypatch.setenv("MUJOCO_GL", given)
    rendering.choose_backends()
    assert os.environ.get("MUJOCO_GL") == expected


def test_environment_without_pictures_says_so():
    with pytest.raises(UserError, match=r"render modes are \[\]"):
        build("RRFTestCounter-v0").render()
    with pytest.raises(UserError, match="render=False"):
        build("CartPole-v1", render=False).render()
