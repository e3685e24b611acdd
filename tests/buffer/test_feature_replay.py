"""The replay of chunks that keeps observations once, against episodes that are walked through one action at a time."""

from __future__ import annotations

import pytest
import torch
from RoboRenForce.buffer import ChunkReplayBufferCfg, FeatureReplayBufferCfg
from RoboRenForce.buffer.transition import Transition
from RoboRenForce.configclass import ConfigError
from RoboRenForce.envs import MultiModalCfg
from RoboRenForce.envs.scripted_env import ScriptedEnvCfg

CPU = torch.device("cpu")
GAMMA, CHUNK, ENVS, HORIZON = 0.9, 3, 2, 7
SCRIPT = [
    ["terminated@1", "time_out@7", "terminated@5", "terminated@3", "time_out@7", "terminated@2"],
    ["time_out@7", "terminated@4", "time_out@7", "terminated@6"],
]


def scripted(num_envs, script, seed):
    cfg = ScriptedEnvCfg(num_envs=num_envs, script=script, seed=seed, max_episode_length=HORIZON)
    return cfg.build()


def chunked(script=SCRIPT):
    return MultiModalCfg(keep=["policy"], instruction="go", chunk_size=CHUNK).build(scripted(ENVS, script, 1))


def actions(steps, dim):
    return torch.randn(steps, ENVS, CHUNK, dim, generator=torch.Generator().manual_seed(3))


def fill(buffer, env, chosen):
    obs = env.get_observations()
    for action in chosen:
        transition = Transition.of_step(obs, action, {}, env.step(action))
        buffer.add({name: transition.value_of(name) for name in buffer.schema.fields})
        obs = transition.reset_obs


def walked(chosen, n_step, steps):
    """First observation -> what `n_step` chunks from there are worth and where they end, action by action."""
    found = {}
    for row in range(ENVS):
        env, stream = scripted(1, SCRIPT[row : row + 1], 1 + row), []
        for t in range(steps):
            obs, rewards, done, extras = env.get_observations()["policy"][0], [], False, {}
            for k in range(CHUNK):
                _, reward, ended, extras = env.step(chosen[t, row, k].unsqueeze(0))
                rewards.append(float(reward))
                if done := bool(ended):
                    break
            stream.append((obs, rewards, done, bool(extras["terminated"]), extras["final_observations"]["policy"][0]))
        for t in range(steps - 1):
            reward, discount = 0.0, 1.0
            step = stream[t]
            for step in stream[t : min(t + n_step, steps - 1)]:
                for each in step[1]:
                    reward, discount = reward + discount * each, discount * GAMMA
                if step[2]:
                    break
            _, _, _, terminated, last = step
            found[tuple(stream[t][0].tolist())] = (reward, discount * (not terminated), last, t)
    return found


@pytest.mark.oracle
@pytest.mark.parametrize("n_step", [1, 2, 3])
@pytest.mark.parametrize("steps", [6, 23])  # the ring has room for nine
@pytest.mark.parametrize("kind", [ChunkReplayBufferCfg, FeatureReplayBufferCfg])
def test_chunks_are_worth_what_walking_through_them_gives(kind, steps, n_step) -> None:
    env = chunked()
    chosen = actions(steps, env.spec.action.dim)
    buffer = kind(capacity=9 * ENVS, n_step=n_step).build(spec=env.spec, gamma=GAMMA, batch_size=400, device=CPU)
    fill(buffer, env, chosen)
    expected, batch, seen = walked(chosen, n_step, steps), buffer.sample(), set()
    assert batch.valid is None or bool(batch.valid.all())
    for number, obs in enumerate(batch.obs["policy"].tolist()):
        if tuple(obs) not in expected:  # a replay that keeps successors has the newest step too
            assert kind is ChunkReplayBufferCfg
            continue
        reward, discount, last, t = expected[tuple(obs)]
        if kind is ChunkReplayBufferCfg and t + n_step >= steps:
            continue  # its window goes one step further
        seen.add(t)
        torch.testing.assert_close(float(batch.reward[number]), reward, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(float(batch.discount[number]), discount, rtol=1e-5, atol=1e-5)
        if discount:
            torch.testing.assert_close(batch.next_obs["policy"][number], last)
    assert seen >= set(range(max(steps - 9, 0), steps - n_step)), "some steps were never drawn"


def feature_replay(env, **options):
    cfg = FeatureReplayBufferCfg(**({"capacity": 9 * ENVS, "store": True} | options))
    return cfg.build(spec=env.spec, gamma=GAMMA, batch_size=200, device=CPU)


def test_an_interrupted_step_is_not_learned_from() -> None:
    env = chunked()
    buffer = feature_replay(env)
    fill(buffer, env, actions(5, env.spec.action.dim))
    newest = {tuple(row) for row in buffer.newest_steps(1)["obs/policy"][0].tolist()}
    buffer.restart()
    env.reset()
    fill(buffer, env, actions(2, env.spec.action.dim))
    batch = buffer.sample()
    for obs, valid in zip(batch.obs["policy"].tolist(), batch.valid.tolist(), strict=True):
        assert bool(valid) != (tuple(obs) in newest)


def test_a_lone_first_step_has_no_successor() -> None:
    env = chunked()
    buffer = feature_replay(env)
    fill(buffer, env, actions(1, env.spec.action.dim))
    assert not buffer.sample().valid.any()


def test_final_observations_that_did_not_fit_are_not_learned_from() -> None:
    """An environment that cuts episodes before its horizon needs more of them than the ring was made for."""
    early = [["time_out@2"], ["time_out@3"]]
    env = MultiModalCfg(keep=["policy"], instruction="go", chunk_size=CHUNK).build(scripted(ENVS, early, 1))
    buffer = feature_replay(env)
    fill(buffer, env, actions(9, env.spec.action.dim))
    batch = buffer.sample()
    lasting = (batch.discount - GAMMA**2).abs() < 1e-6  # environment 0, whose episodes have two steps
    numbers = batch.next_obs["policy"][:, 0]
    assert bool(batch.valid.any()) and not bool(batch.valid.all())
    learned = batch.valid.bool()
    torch.testing.assert_close(numbers[learned], batch.obs["policy"][learned][:, 0])  # of the same episode
    assert bool((batch.next_obs["policy"][learned & lasting][:, 1] == 2).all())


def test_contents_come_back() -> None:
    env = chunked()
    buffer, other = feature_replay(env), feature_replay(env)
    fill(buffer, env, actions(13, env.spec.action.dim))
    other.load_state_dict(buffer.state_dict())
    for replay in (buffer, other):
        torch.manual_seed(5)
        fill(replay, chunked(), actions(1, env.spec.action.dim))
    torch.manual_seed(6)
    first = buffer.sample()
    torch.manual_seed(6)
    second = other.sample()
    torch.testing.assert_close(first.next_obs["policy"], second.next_obs["policy"], rtol=0, atol=0)
    torch.testing.assert_close(first.reward, second.reward, rtol=0, atol=0)


def test_an_observation_is_stored_once() -> None:
    env = chunked()
    once, twice = feature_replay(env), ChunkReplayBufferCfg(capacity=9 * ENVS)
    twice = twice.build(spec=env.spec, gamma=GAMMA, batch_size=1, device=CPU)
    kept = [entry.name for entry in once._columns()]
    assert "obs/policy" in kept and "next_obs/policy" not in kept
    assert "next_obs/policy" in [entry.name for entry in twice._columns()]


def test_an_environment_without_chunks_is_refused() -> None:
    env = scripted(ENVS, SCRIPT, 1)
    with pytest.raises(ConfigError, match=r"multi_modal\.chunk_size"):
        ChunkReplayBufferCfg().build(spec=env.spec, gamma=GAMMA, batch_size=1, device=CPU)
