"""The EnvPool adapter: the same contract, in spite of EnvPool's reset at the next step."""

from __future__ import annotations

import numpy as np
import pytest
import torch

pytest.importorskip("envpool")

from RoboRenForce.configclass import ConfigError
from RoboRenForce.envs import DynamicEnvCfg, GroupVecCfg, MultiModalCfg, check_vec_env
from RoboRenForce.utils.errors import UserError
from RRF_gym_tasks.envpool_env import EnvPoolCfg
from RRF_gym_tasks.gym_env import GymEnvCfg

pytestmark = [pytest.mark.contract, pytest.mark.sim_envpool]

GO1 = "Go1JoystickFlatTerrain-v1"


def build(env_id, num_envs=3, **options):
    return EnvPoolCfg(env_id=env_id, num_envs=num_envs, num_threads=1, **options).build()


@pytest.mark.parametrize("env_id", ["CartPole-v1", "Pendulum-v1", "Hopper-v5", "HalfCheetah-v5", "FrozenLake-v1"])
def test_contract(env_id):
    env = build(env_id, seed=2)
    assert check_vec_env(env, num_steps=40) == []
    env.close()
    env.close()


def test_contract_of_a_robot_with_privileged_observations():
    env = DynamicEnvCfg(require=["command"]).build(build(GO1, num_envs=1))
    assert env.spec.obs_groups == {"policy": (48,), "critic": (123,)}
    assert (env.spec.action.dim, env.max_episode_length, env.spec.step_dt) == (12, 1000, 0.02)
    assert check_vec_env(env, num_steps=20) == []
    # The joystick command is the part of the observation that the robot is asked to follow.
    obs, _, _, extras = env.step(torch.zeros(1, 12))
    torch.testing.assert_close(extras["command"], obs["policy"][:, -3:])


def test_contract_of_the_chain():
    grouped = GroupVecCfg(num_blocks=2, observe_blocks=True).build(DynamicEnvCfg().build(build("Ant-v5", 4)))
    env = MultiModalCfg(proprio=["policy", "block"], instruction="run", chunk_size=3).build(grouped)
    assert check_vec_env(env, num_steps=20) == []


def raw_pool(env_id, num_envs, seed):
    import envpool

    return envpool.make(env_id, env_type="gymnasium", num_envs=num_envs, num_threads=1, seed=seed)


def test_equals_the_raw_pool_without_its_dummy_transitions():
    """Row by row, the raw pool is run with its next-step resets; skipping those steps must give our sequence."""
    num_envs, steps = 3, 150
    ours = build("Hopper-v5", num_envs, seed=5)
    pool = raw_pool("Hopper-v5", num_envs, seed=5)
    actions = np.random.default_rng(0).uniform(-1, 1, (steps, num_envs, 3)).astype(np.float32)

    expected = [[] for _ in range(num_envs)]  # per row: (observation after the step, reward, terminated, first of next)
    pool.reset()
    taken = np.zeros(num_envs, int)
    ended = np.zeros(num_envs, bool)
    while min(len(row) for row in expected) < steps:
        batch = np.stack([actions[min(taken[row], steps - 1), row] for row in range(num_envs)])
        obs, rewards, terminated, _, _ = pool.step(batch.astype(np.float64))
        for row in range(num_envs):
            if ended[row]:  # the dummy: its observation is the first of the new episode
                expected[row][-1][3] = obs[row]
                ended[row] = False
            else:
                expected[row].append([obs[row], rewards[row], terminated[row], None])
                taken[row] += 1
                ended[row] = terminated[row]

    endings = 0
    for step in range(steps - 1):
        obs, rewards, dones, extras = ours.step(torch.from_numpy(actions[step]))
        for row in range(num_envs):
            last, reward, terminated, first = expected[row][step]
            final = extras["final_observations"]["policy"][row].numpy()
            np.testing.assert_array_equal(final, last.astype(np.float32))
            assert bool(dones[row]) == bool(terminated) and rewards[row].item() == np.float32(reward)
            if terminated:
                np.testing.assert_array_equal(obs["policy"][row].numpy(), first.astype(np.float32))
                endings += 1
    assert endings >= 6


def test_frames_of_a_step_are_summed_within_the_limit():
    """EnvPool's own frame_skip returns the last frame's reward only."""
    ours = build("CartpoleSwingup-v1", num_envs=2, frame_skip=2, max_episode_steps=5, seed=3)
    pool = raw_pool("CartpoleSwingup-v1", 2, seed=3)
    pool.reset()
    assert ours.max_episode_length == 3 and ours.spec.obs_groups == {"position": (3,), "velocity": (2,)}
    for frames, ended in ((2, 0), (2, 0), (1, 1)):
        frame = [pool.step(np.full((2, 1), 0.5)) for _ in range(frames)]
        _, reward, dones, extras = ours.step(torch.full((2, 1), 0.5))
        np.testing.assert_allclose(reward.numpy(), sum(returned[1] for returned in frame), rtol=1e-6)
        final = extras["final_observations"]["position"].numpy()
        np.testing.assert_array_equal(final, frame[-1][0]["position"].astype(np.float32))
        assert dones.tolist() == [ended, ended] == extras["time_outs"].long().tolist()
    assert check_vec_env(build("CartpoleSwingup-v1", num_envs=2, frame_skip=2), num_steps=6) == []
    with pytest.raises(ConfigError, match="frame_skip has a field of its own"):
        build("CartpoleSwingup-v1", env_kwargs={"frame_skip": 2})


def test_a_robot_that_falls_takes_no_further_frame():
    ours, single = (build("Hopper-v5", num_envs=4, frame_skip=skip, seed=3) for skip in (3, 1))
    actions = torch.ones(4, 3)
    total, alive = torch.zeros(4), torch.ones(4, dtype=torch.bool)
    found = torch.zeros(4)
    for _ in range(60):
        _, reward, dones, _ = single.step(actions)
        total += reward * alive
        alive &= dones == 0
    assert not alive.any()
    alive[:] = True
    for _ in range(20):
        _, reward, dones, _ = ours.step(actions)
        found += reward * alive
        alive &= dones == 0
    torch.testing.assert_close(found, total)


def test_time_limit_is_ours_to_move():
    env = build("HalfCheetah-v5", num_envs=3)
    env.episode_length_buf = torch.tensor([999, 998, 0])
    _, _, dones, extras = env.step(torch.zeros(3, 6))
    assert dones.tolist() == [1, 0, 0] and extras["time_outs"].tolist() == [True, False, False]
    _, _, dones, _ = env.step(torch.zeros(3, 6))
    assert dones.tolist() == [0, 1, 0] and env.episode_length_buf.tolist() == [1, 0, 2]
    short = build("HalfCheetah-v5", num_envs=1, max_episode_steps=2)
    assert [int(short.step(torch.zeros(1, 6))[2]) for _ in range(4)] == [0, 1, 0, 1]


def test_actions_are_rescaled_to_the_range_of_the_robot():
    """Humanoid's torques lie in [-0.4, 0.4]: a unit action costs the control cost of 0.4 in each of 17 motors."""
    env = build("Humanoid-v5", num_envs=1, reward_terms=["reward_quadctrl"])
    extras = env.step(torch.ones(1, 17))[3]
    assert extras["reward_terms"].item() == pytest.approx(-0.1 * 17 * 0.4**2, rel=1e-5)
    beyond = env.step(torch.full((1, 17), 7.0))[3]
    assert beyond["reward_terms"].item() == pytest.approx(-0.1 * 17 * 0.4**2, rel=1e-5)


def test_same_seed_same_run_after_use():
    env = build("CartPole-v1", seed=4)
    first = env.get_observations()["policy"].clone()
    untouched, _ = env.reset(seed=4)
    assert torch.equal(untouched["policy"], first)
    env.step(torch.ones(3, dtype=torch.int64))
    again, _ = env.reset(seed=4)
    assert torch.equal(again["policy"], first)
    unseeded, _ = env.reset()
    assert not torch.equal(unseeded["policy"], first)


def test_state_can_not_be_saved():
    assert build("CartPole-v1").state_dict() == {}


def test_success_is_declared_where_info_has_it():
    env = build("FetchReach-v4", num_envs=2)
    assert "success" in env.spec.extras
    extras = env.step(torch.zeros(2, 4))[3]
    assert extras["success"].dtype == torch.bool and extras["success"].tolist() == [False, False]


def test_picture_is_drawn_by_gymnasium_in_the_same_state():
    env = build("HalfCheetah-v5", num_envs=2, render_size=[96, 128])
    try:
        first = env.render().copy()
    except UserError as error:
        pytest.skip(str(error))
    assert first.shape == (96, 128, 3)
    for _ in range(15):
        env.step(torch.ones(2, 6))
    assert (env.render() != first).any()
    drawn = env._artist.unwrapped.data
    np.testing.assert_allclose(drawn.qpos[1:], env.get_observations()["policy"][0, :8], rtol=1e-6)
    np.testing.assert_allclose(drawn.qvel, env.get_observations()["policy"][0, 8:], rtol=1e-6)


def test_picture_of_other_tasks_is_refused_with_a_sentence():
    with pytest.raises(UserError, match="EnvPool can't make pictures of CartPole-v1"):
        build("CartPole-v1").render()
    with pytest.raises(UserError, match="render=False"):
        build("HalfCheetah-v5", render=False).render()


def test_bad_input():
    with pytest.raises(UserError, match=r"no environment 'Go1Joystick'.*Go1Joystick"):
        build("Go1Joystick")
    with pytest.raises(UserError, match=r"env_kwargs doesn't fit HalfCheetah-v5.*gravity"):
        build("HalfCheetah-v5", env_kwargs={"gravity": 1.0})
    with pytest.raises(ConfigError, match="set that instead"):
        build("HalfCheetah-v5", env_kwargs={"seed": 1})
    with pytest.raises(ConfigError, match=r"env_kwargs doesn't fit HalfCheetah-v5.*no\.xml"):
        build("HalfCheetah-v5", env_kwargs={"xml_file": "/no.xml"})
    with pytest.raises(ConfigError, match="batch_size is this adapter's to choose"):
        build("HalfCheetah-v5", env_kwargs={"batch_size": 1})
    with pytest.raises(UserError, match="indices from 0 to 16"):
        build("HalfCheetah-v5", obs_mask=[-1])
    with pytest.raises(UserError, match=r"\['reward_walk'\].*reward_run"):
        build("HalfCheetah-v5", reward_terms=["reward_walk"])


@pytest.mark.parametrize("env_id", ["CartPole-v1", "HalfCheetah-v5", "Ant-v5"])
def test_same_spaces_as_gymnasium(env_id):
    ours, theirs = build(env_id, num_envs=1).spec, GymEnvCfg(env_id=env_id, num_envs=1).build().spec
    assert ours.differences(theirs) == [] and ours.max_episode_length == theirs.max_episode_length
