"""What comes from a Gymnasium environment is checked: small environments that are wrong in one place each."""

from __future__ import annotations

import functools
import itertools
import traceback

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from RoboRenForce.configclass import ConfigError
from RoboRenForce.envs import EnvContractError, GroupVecCfg, MultiModalCfg, check_vec_env
from RoboRenForce.runners.evaluation import evaluate
from RoboRenForce.utils.errors import MissingPackageError, UnknownTaskError, UserError
from RRF_gym_tasks import GymEnvCfg
from RRF_gym_tasks.returned_values import CHECKED_STEPS
from RRF_gym_tasks.spaces import ActionMap, ObsLayout
from small_runs import ZeroPolicy

pytestmark = pytest.mark.contract

_count = itertools.count()


class Right(gym.Env):
    """Observes its step count and terminates after `length` steps; subclasses are wrong in one place."""

    observation_space = spaces.Box(-np.inf, np.inf, (4,))
    action_space = spaces.Box(-1, 1, (2,))
    length = 6

    def observe(self):
        return np.full(4, self.count, np.float64)

    def info(self):
        return {}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.count = 0
        return self.observe(), {}

    def step(self, action):
        self.count += 1
        return self.observe(), 1.0, self.count >= self.length, False, self.info()


def registered(cls=Right, *, max_episode_steps=20, **attributes):
    """The id of a new environment: `cls` with other attributes."""
    name = f"RRFBorder{next(_count)}-v0"
    gym.register(name, type(cls.__name__, (cls,), attributes), max_episode_steps=max_episode_steps)
    return name


def build(cls=Right, num_envs=3, options=None, **attributes):
    env_id = cls if isinstance(cls, str) else registered(cls, **attributes)
    return GymEnvCfg(env_id=env_id, num_envs=num_envs, **(options or {})).build()


def roll(env, steps):
    for _ in range(steps):
        result = env.step(torch.zeros(env.num_envs, *env.spec.action.shape))
    return result


# --- observations ----------------------------------------------------------------------------------------------------

IMAGE = spaces.Box(0, 255, (4, 5, 3), np.uint8)
UNIT_IMAGE = spaces.Box(0.0, 1.0, (4, 5, 3))
LATER = spaces.Discrete(3, start=2)
BELOW_ZERO = spaces.Discrete(3, start=-4)
PARTS = spaces.Dict({"a": spaces.Box(-1, 1, (2,)), "b": LATER})

WRONG_OBSERVATIONS = [
    (spaces.Box(-1, 1, (4,)), np.zeros(1), r"shape \(1,\) and type float64, expected Box.*\(4,\)"),
    (spaces.Box(-1, 1, (4,)), np.zeros((4, 1)), r"shape \(4, 1\)"),
    (spaces.Box(-1, 1, (4,)), 0.0, r"as 0.0 \(float\)"),
    (spaces.Box(-1, 1, (1,)), np.float32(0), r"expected Box.*\(1,\)"),
    (spaces.Box(-1, 1, (2, 3)), np.zeros(3), r"shape \(3,\)"),
    (spaces.Box(-1, 1, (2, 3)), np.zeros((1, 3)), r"shape \(1, 3\)"),
    (spaces.Box(-1, 1, (2,)), None, "observation as None"),
    (spaces.Box(-1, 1, (2,)), "ab", "observation as 'ab'"),
    (spaces.Box(-1, 1, (2,)), [[1.0], [1.0, 2.0]], "form no array"),
    (spaces.Box(-1, 1, (2,)), {"a": np.zeros(2)}, r"a dict with the keys \['a'\], expected Box"),
    (spaces.Box(0, 9, (2,), np.int64), np.zeros(2), "as floats .* expected integers"),
    (spaces.Box(0, 9, (2,), np.int64), np.array([3, 10]), "values from 3 to 10"),
    (IMAGE, np.full((4, 5, 3), 0.5), "as floats"),
    (IMAGE, np.full((4, 5, 3), 256), "values from 256 to 256"),
    (IMAGE, np.full((4, 5, 3), -1), "values from -1"),
    (IMAGE, np.zeros((3, 4, 5), np.uint8), r"shape \(3, 4, 5\)"),
    (UNIT_IMAGE, np.full((4, 5, 3), 200, np.uint8), "values from 200 to 200"),
    (UNIT_IMAGE, np.full((4, 5, 3), 200.0), "values from 200.0"),
    (LATER, 1, "values from 1 to 1, expected values of Discrete"),
    (LATER, 5, "values from 5"),
    (LATER, 2.0, "as floats"),
    (LATER, np.array([2]), r"shape \(1,\)"),
    (BELOW_ZERO, 0, "values from 0"),
    (PARTS, np.zeros(5), r"expected a dict with the keys \['a', 'b'\]"),
    (PARTS, {"a": np.zeros(2)}, r"keys \['a'\], expected a dict"),
    (PARTS, {"a": np.zeros(2), "b": 2, "c": 0}, r"keys \['a', 'b', 'c'\]"),
    (PARTS, {"a": np.zeros(1), "b": 2}, r"observation 'a' of shape \(1,\)"),
    (PARTS, {"a": np.zeros(2), "b": 1}, "observation 'b' with values from 1"),
]


def right_observation(space):
    return {"a": np.zeros(2), "b": 2} if space is PARTS else space.sample()


@pytest.mark.parametrize("when", ["reset", "step"])
@pytest.mark.parametrize(("space", "wrong", "sentence"), WRONG_OBSERVATIONS)
def test_wrong_observation_is_named(space, wrong, sentence, when):
    def observe(self):
        return wrong if when == "reset" or self.count == 3 else right_observation(space)

    env_id = registered(observation_space=space, observe=observe)
    with pytest.raises(EnvContractError, match=f"{env_id}: {when} returned.*{sentence}.*declare what is returned"):
        build(env_id)


@pytest.mark.parametrize("when", ["reset", "step"])
def test_the_last_copy_is_checked_too(when):
    """No copy is checked in place of another: the mistake is in the one with the highest seed."""

    class Last(Right):
        def reset(self, *, seed=None, options=None):
            self.last = seed == 2
            return super().reset(seed=seed)

        def observe(self):
            return np.zeros(1 if self.last and self.count == (0 if when == "reset" else 2) else 4)

    with pytest.raises(EnvContractError, match=rf"{when} returned the observation of shape \(1,\)"):
        roll(build(Last, success_key=None), 2)


@pytest.mark.parametrize(
    ("space", "obs"),
    [
        (spaces.Box(-1, 1, (2,)), np.array([1.5, -40.0])),
        (spaces.Box(-1, 1, (2,)), [1, 0]),
        (spaces.Box(-1, 1, (2,)), (0.5, 0.5)),
        (spaces.Box(-1, 1, ()), 0.25),
        (spaces.Box(0, 9, (2,), np.int64), np.array([9, 0], np.int8)),
        (spaces.Box(0, 1, (2,), np.int8), np.array([True, False])),
        (IMAGE, np.full((4, 5, 3), 255, np.int64)),
        (UNIT_IMAGE, np.full((4, 5, 3), 1.01)),
        (spaces.Box(-np.inf, np.inf, (4, 5, 3)), np.full((4, 5, 3), 1e4)),
        (LATER, np.int64(4)),
        (BELOW_ZERO, np.array(-2)),
    ],
)
def test_what_is_only_sloppy_is_taken(space, obs):
    env = build(observation_space=space, observe=lambda self: obs)
    expected = np.asarray(obs, np.float32).reshape(-1)
    if isinstance(space, spaces.Discrete):
        expected = np.eye(3, dtype=np.float32)[int(obs) - int(space.start)]
    for seen in (env.get_observations(), roll(env, 3)[0]):
        np.testing.assert_array_equal(seen["policy"][2].numpy().reshape(-1), expected)


@pytest.mark.parametrize(
    ("space", "right", "wrong"),
    [
        (spaces.Box(-1, 1, (4,)), np.zeros(4), np.zeros(1)),
        (spaces.Box(-1, 1, (2, 3)), np.zeros((2, 3)), np.zeros(3)),
        (LATER, 2, 1),
        (LATER, 2, 5),
        (spaces.Dict({"a": spaces.Box(-1, 1, (2,))}), {"a": np.zeros(2)}, {"a": np.zeros(1)}),
    ],
)
def test_shapes_never_broadcast_also_after_the_first_steps(space, right, wrong):
    def observe(self):
        return wrong if self.count == CHECKED_STEPS + 5 else right

    # Without a success key: looking for it plays a spare copy for longer than the first steps.
    endless = {"length": 10_000, "max_episode_steps": None, "options": {"success_key": None}}
    env = build(observation_space=space, observe=observe, num_envs=2, **endless)
    roll(env, CHECKED_STEPS + 4)
    with pytest.raises(EnvContractError, match="expected one of"):
        roll(env, 1)


def test_after_the_first_steps_nothing_stands_between():
    for frame_skip in (1, 2):
        env = build(options={"frame_skip": frame_skip})
        assert env._single_steps[0] != env.envs[0].step
        roll(env, CHECKED_STEPS)
        assert env._single_steps == [inner.step for inner in env.envs]


def test_copies_with_different_spaces_are_refused():
    def init(self):
        self.observation_space = spaces.Box(-1, 1, (4,)) if next(_count) % 2 else spaces.Box(-1, 1, (5,))

    with pytest.raises(EnvContractError, match="two copies have the observation_space"):
        build(__init__=init, num_envs=4)


# --- what reset and step return --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "returned", "sentence"),
    [
        (2, lambda obs: obs, "only the observation as in the old Gym, expected .observation, info."),
        (4, lambda obs: obs, "only the observation as in the old Gym"),
        (2, lambda obs: tuple(obs), "only the observation as in the old Gym"),
        (2, lambda obs: (obs, None), "as a tuple of 2 .ndarray, NoneType."),
        (2, lambda obs: (obs, {}, 1), "as a tuple of 3"),
        (2, lambda obs: None, "as None"),
    ],
)
@pytest.mark.parametrize("wrapped", [False, True])
def test_wrong_reset_is_named(size, returned, sentence, wrapped):
    def reset(self, *, seed=None, options=None):
        self.count = 0
        return returned(np.zeros(size))

    env_id = registered(observation_space=spaces.Box(-1, 1, (size,)), reset=reset)
    options = {"wrappers": [gym.wrappers.RecordEpisodeStatistics]} if wrapped else {}
    with pytest.raises(EnvContractError, match=f"{env_id}: reset returned .*{sentence}"):
        build(env_id, options=options)


WRONG_STEPS = [
    (lambda obs: (obs, 0.0, False, {}), r"4 values as in the old Gym \(observation, reward, done, info\), expected"),
    (lambda obs: (obs, 0.0, False), "as a tuple of 3"),
    (lambda obs: obs, r"shape \(4,\) and type float64, expected \(observation, reward"),
    (lambda obs: None, "as None"),
    (lambda obs: (obs, np.zeros(1), False, False, {}), r"the reward of shape \(1,\) and type float64, expected one"),
    (lambda obs: (obs, [1.0], False, False, {}), r"the reward of shape \(1,\)"),
    (lambda obs: (obs, None, False, False, {}), "the reward as None"),
    (lambda obs: (obs, "1", False, False, {}), "the reward as '1'"),
    (lambda obs: (obs, 0.0, 0, False, {}), r"terminated as 0 \(int\), expected a bool"),
    (lambda obs: (obs, 0.0, None, False, {}), "terminated as None"),
    (lambda obs: (obs, 0.0, False, np.array([False]), {}), r"truncated of shape \(1,\)"),
    (lambda obs: (obs, 0.0, False, {}, False), "truncated as a dict"),
    (lambda obs: (obs, 0.0, False, False, None), "info as None, expected a dict"),
]


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("success_key", ["auto", None])
@pytest.mark.parametrize(("returned", "sentence"), WRONG_STEPS)
def test_wrong_step_is_named(returned, sentence, success_key, wrapped):
    """With a success key a spare copy is stepped before training; below wrappers the mistake is the environment's."""
    env_id = registered(step=lambda self, action: returned(np.zeros(4)))
    wrappers = [gym.wrappers.RecordEpisodeStatistics] if wrapped else []
    with pytest.raises(EnvContractError, match=f"{env_id}: step returned .*{sentence}"):
        roll(build(env_id, options={"success_key": success_key, "wrappers": wrappers}), 1)


@pytest.mark.parametrize("reward", [1, np.float32(1), np.array(1.0), True])
@pytest.mark.parametrize("flag", [np.bool_(False), np.array(False)])
def test_other_scalars_are_taken(reward, flag):
    env = build(step=lambda self, action: (np.zeros(4), reward, flag, flag, {}))
    assert roll(env, 2)[1].tolist() == [1, 1, 1]


def test_a_wrapper_that_returns_the_wrong_thing_is_told_from_the_environment():
    class Column(gym.RewardWrapper):
        def reward(self, reward):
            return np.array([reward])

    with pytest.raises(EnvContractError, match=r"with its wrappers: step returned the reward of shape \(1,\)"):
        build(options={"wrappers": [Column]})


def test_check_vec_env_lists_what_the_adapter_finds():
    env = build(observe=lambda self: np.zeros(4 if self.count < 4 else 1), options={"success_key": None})
    (finding,) = check_vec_env(env, raise_error=False)
    assert "step returned the observation of shape (1,)" in finding


# --- whose error it is -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["__init__", "reset", "step"])
@pytest.mark.parametrize("kind", [ValueError, TypeError, KeyError, RuntimeError, AttributeError, AssertionError])
def test_the_users_own_exception_keeps_its_traceback(place, kind):
    def broken(self, *args, **kwargs):
        raise kind("mine")

    with pytest.raises(kind, match="mine") as caught:
        roll(build(**{place: broken}), 1)
    assert not isinstance(caught.value, UserError)
    causes = [caught.value, *([caught.value.__cause__] if caught.value.__cause__ else [])]
    assert any(frame.name == "broken" for cause in causes for frame in traceback.extract_tb(cause.__traceback__))


def test_the_console_shows_the_traceback_of_the_users_own_error(tmp_path, monkeypatch):
    from RoboRenForce.cli import main

    def broken(self, *, seed=None, options=None):
        raise ValueError("mine")

    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="mine"):
        main(["train", "--task", registered(reset=broken), "--num_envs", "1"])


class NeedsArgument(Right):
    def __init__(self, size):
        pass


class Options(Right):
    def __init__(self, size=3, *, speed=1.0):
        if speed == "wrong":
            raise TypeError("speed must be a number")


class Forwards(Right):
    """Takes anything and tells by its base what that doesn't take."""

    def __init__(self, **kwargs):
        self.base(**kwargs)

    def base(self, size=3):
        pass


def vector_only():
    name = f"RRFBorder{next(_count)}-v0"
    gym.register(name, vector_entry_point=lambda **kwargs: None)
    return name


def with_entry_point(entry_point):
    name = f"RRFBorder{next(_count)}-v0"
    gym.register(name, entry_point)
    return name


WRONG_CONSTRUCTORS = {
    "missing": (lambda: registered(NeedsArgument), {}, ConfigError, "missing a required argument: 'size'"),
    "unknown": (lambda: registered(Options), {"env_kwargs": {"sped": 2}}, ConfigError, r"'sped'.*speed=1.0"),
    "forwarded": (lambda: registered(Forwards), {"env_kwargs": {"sped": 2}}, ConfigError, "env_kwargs.*'sped'"),
    "blank": (lambda: registered(Options), {"env_kwargs": {"a b": 2}}, ConfigError, "'a b'"),
    "of gymnasium": (lambda: "CartPole-v1", {"env_kwargs": {"gravity": 1}}, ConfigError, "'gravity'"),
    "mujoco": (lambda: "Hopper-v5", {"env_kwargs": {"gravity": 1}}, ConfigError, "'gravity'"),
    "file": (lambda: "Hopper-v5", {"env_kwargs": {"xml_file": "/no.xml"}}, ConfigError, "OSError.*no.xml"),
    "value": (lambda: "FrozenLake-v1", {"env_kwargs": {"map_name": "9x9"}}, ConfigError, "KeyError.*9x9"),
    "vector": (vector_only, {}, UserError, "without an entry point for single"),
    "task": (lambda: "RoboRenForce-Gym-CartPole-PPO", {}, UserError, "CartPole-v1"),
    "no attribute": (lambda: with_entry_point("math:NoSuchEnv"), {}, UserError, "'math' has no 'NoSuchEnv'"),
    "no module": (lambda: with_entry_point("rrf_no_such:Env"), {}, MissingPackageError, "needs the package"),
    "no environment": (lambda: with_entry_point(lambda: 3), {}, UserError, "must inherit from"),
    "named module": (lambda: "rrf_no_such:Env-v0", {}, UnknownTaskError, "names the module"),
    "malformed": (lambda: "a b-v", {}, UnknownTaskError, "no environment"),
    "observation space": (lambda: registered(observation_space=None), {}, EnvContractError, "observation_space=None"),
    "action space": (lambda: registered(action_space=[1]), {}, EnvContractError, "action_space="),
    "old reset": (
        lambda: registered(reset=lambda self: (np.zeros(4), {})),
        {},
        EnvContractError,
        "reset doesn't take seed",
    ),
    "no options": (
        lambda: registered(reset=lambda self, seed=None: (np.zeros(4), {})),
        {"reset_options": {"a": 1}},
        EnvContractError,
        "reset doesn't take options",
    ),
    "own field": (registered, {"env_kwargs": {"max_episode_steps": 3}}, ConfigError, "the field of that name"),
    "id": (registered, {"env_kwargs": {"id": "x"}}, ConfigError, "the field env_id"),
    "wrapper's arguments": (registered, {"wrappers": [gym.wrappers.TimeLimit]}, ConfigError, "TimeLimit.*max_episode"),
    "wrapper's fit": (
        lambda: "CartPole-v1",
        {"wrappers": [gym.wrappers.ClipAction]},
        ConfigError,
        "ClipAction doesn't fit around CartPole-v1",
    ),
    "wrapper returns": (registered, {"wrappers": [lambda env: None]}, ConfigError, "returned NoneType"),
}


@pytest.mark.parametrize("case", WRONG_CONSTRUCTORS)
def test_a_constructor_that_does_not_fit_is_a_sentence(case):
    make_id, options, kind, sentence = WRONG_CONSTRUCTORS[case]
    with pytest.raises(kind, match=sentence):
        build(make_id(), num_envs=1, options=options)


def test_a_type_error_inside_the_constructor_stays_the_users():
    with pytest.raises(TypeError, match="speed must be a number") as caught:
        build(registered(Options), options={"env_kwargs": {"speed": "wrong"}})
    assert not isinstance(caught.value, UserError)


# --- wrappers --------------------------------------------------------------------------------------------------------


class OwnNormalizer(gym.ObservationWrapper):
    """Running mean in plain attributes."""

    def __init__(self, env):
        super().__init__(env)
        self.mean, self.n = np.zeros(4), 0

    def observation(self, observation):
        self.n += 1
        self.mean = self.mean + (observation + 1 - self.mean) / self.n
        return observation - self.mean


class OwnStatistics:
    def __init__(self):
        self.total = torch.zeros(4)

    def __call__(self, observation):
        self.total = self.total + torch.as_tensor(observation) + 1
        return observation - self.total.numpy()


class InClass(gym.ObservationWrapper):
    mean = np.zeros(4)

    def observation(self, observation):
        self.mean[:] = 0.9 * self.mean + observation + 1
        return observation - self.mean


class OwnRewardScale(gym.RewardWrapper):
    largest = 1.0

    def reward(self, reward):
        self.largest = self.largest * 1.5 + abs(reward)
        return reward / self.largest


class NormalizesLate(gym.ObservationWrapper):
    """Passes a hundred observations on before it uses their mean."""

    def __init__(self, env):
        super().__init__(env)
        self.mean, self.n = np.zeros(4), 0

    def observation(self, observation):
        self.n += 1
        self.mean = self.mean + (observation + 1 - self.mean) / self.n
        return observation - self.mean if self.n > 100 else observation


class Curriculum(gym.ObservationWrapper):
    """Makes observations smaller after so many steps of all episodes together."""

    def __init__(self, env, after):
        super().__init__(env)
        self.after, self.steps = after, 0

    def observation(self, observation):
        self.steps += 1
        return observation * 0.5 if self.steps > self.after else observation


def with_object(env):
    return gym.wrappers.TransformObservation(env, OwnStatistics(), env.observation_space)


def with_closure(env):
    statistics = OwnStatistics()
    return gym.wrappers.TransformObservation(env, lambda obs: statistics(obs), env.observation_space)


@pytest.mark.parametrize(
    ("wrapper", "sentence"),
    [
        ("gymnasium.wrappers:NormalizeObservation", "NormalizeObservation.*changes observations.*normalizer_cfg"),
        ("gymnasium.wrappers:NormalizeReward", "NormalizeReward.*changes rewards.*algorithm.normalize_reward=true"),
        (OwnNormalizer, "OwnNormalizer.*changes observations.*'mean'"),
        (InClass, "InClass.*'mean'"),
        (NormalizesLate, "NormalizesLate.*changes observations.*'mean'"),
        (functools.partial(Curriculum, after=100), "Curriculum.*'steps'"),
        (OwnRewardScale, "OwnRewardScale.*changes rewards.*'largest'"),
        (with_object, "TransformObservation.*'func'"),
        (with_closure, "TransformObservation.*'func'"),
        (functools.partial(gym.wrappers.NormalizeReward, gamma=0.9), "NormalizeReward"),
    ],
)
@pytest.mark.parametrize("outside", [[], [gym.wrappers.RecordEpisodeStatistics]])
def test_a_wrapper_that_learns_over_episodes_is_refused(wrapper, sentence, outside):
    with pytest.raises(UserError, match=sentence):
        build(options={"wrappers": [wrapper, *outside]})


class Noise(gym.ObservationWrapper):
    """Random, but nothing that is learned."""

    def __init__(self, env):
        super().__init__(env)
        self.generator = np.random.default_rng()

    def observation(self, observation):
        return observation + self.generator.normal(size=4)


class RemembersAction(gym.ActionWrapper):
    last = 0.0

    def action(self, action):
        self.last = float(action[0])
        return action


def frozen_normalizer(env):
    env = gym.wrappers.NormalizeObservation(env)
    env.update_running_mean = False
    return env


@pytest.mark.parametrize(
    "wrapper",
    [
        Noise,
        RemembersAction,
        frozen_normalizer,
        gym.wrappers.TimeAwareObservation,
        gym.wrappers.RecordEpisodeStatistics,
        functools.partial(gym.wrappers.FrameStackObservation, stack_size=2),
        functools.partial(gym.wrappers.ClipReward, min_reward=0.0, max_reward=0.5),
    ],
)
def test_wrappers_that_learn_nothing_are_taken(wrapper):
    assert build(options={"wrappers": [wrapper]}).num_envs == 3


def test_a_wrapper_that_has_changed_nothing_yet_but_counts_over_episodes_is_named(caplog):
    build(options={"wrappers": [gym.wrappers.RecordEpisodeStatistics, functools.partial(Curriculum, after=100_000)]})
    (sentence,) = caplog.messages
    assert "Curriculum" in sentence and "keeps 'steps' from one episode to the next" in sentence


class EveryOther(gym.Wrapper):
    """Two steps of the environment per step, ten times their reward; begins every episode with a step of its own."""

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed, options=options)
        obs, _, _, _, info = self.env.step(np.zeros(2))
        return obs, info

    def step(self, action):
        total = 0.0
        for _ in range(2):
            obs, reward, terminated, truncated, info = self.env.step(action)
            total += reward
            if terminated or truncated:
                break
        return obs, 10 * total, terminated, truncated, info


REWARD_WRAPPERS = [
    EveryOther,
    functools.partial(gym.wrappers.TransformReward, func=lambda reward: -reward),
    functools.partial(gym.wrappers.ClipReward, min_reward=0.0, max_reward=0.1),
]


@pytest.mark.parametrize("wrapper", REWARD_WRAPPERS)
def test_returns_of_an_evaluation_are_raw(wrapper):
    env = build(length=7, max_episode_steps=None, options={"wrappers": [wrapper]})
    expected = 6.0 if wrapper is EveryOther else 7.0
    result = evaluate(env, ZeroPolicy((2,)), 6, seed=0)
    assert result.returns == [expected] * 6
    assert roll(env, 1)[1].tolist() != roll(env, 1)[3]["raw_rewards"].tolist()
    assert check_vec_env(env, num_steps=20) == []


def test_raw_rewards_go_through_the_whole_chain():
    env = build(num_envs=5, length=7, options={"wrappers": [EveryOther]})
    grouped = GroupVecCfg(group_size=2, num_eval_envs=1).build(env)
    grouped.set_eval_policy(ZeroPolicy((2,)))
    chain = MultiModalCfg(proprio=["policy"], instruction="run", chunk_size=3).build(grouped)
    assert check_vec_env(chain, num_steps=20) == []
    chain.reset(seed=0)
    extras = chain.step(torch.zeros(4, 3, 2))[3]
    assert extras["raw_rewards"].tolist() == [6] * 4 and extras["chunk_rewards"].sum(1).tolist() == [60] * 4
    assert extras["log"]["Eval/mean_return"].item() == 6


def test_without_wrappers_there_are_no_raw_rewards():
    assert "raw_rewards" not in build().spec.extras


def test_a_state_with_other_wrappers_is_refused():
    env_id = registered()
    saved = build(env_id, options={"wrappers": [gym.wrappers.TimeAwareObservation]}).state_dict()
    with pytest.raises(UserError, match="resume with the wrappers"):
        build(env_id).load_state_dict(saved)


# --- info ------------------------------------------------------------------------------------------------------------


def at_the_end(key):
    return lambda self: {key: self.start % 2 == 0} if self.count >= self.length else {"x": 0}


class Seeded(Right):
    def reset(self, *, seed=None, options=None):
        self.start = int(seed or 0)
        return super().reset(seed=seed)


@pytest.mark.parametrize("key", ["is_success", "success"])
@pytest.mark.parametrize("length", [1, 6, 150])
@pytest.mark.parametrize("named", [False, True])
def test_success_in_the_last_info_only(key, length, named):
    options = {"success_key": key} if named else {}
    env = build(Seeded, length=length, max_episode_steps=None, info=at_the_end(key), options=options)
    assert "success" in env.spec.extras
    assert roll(env, length)[3]["success"].tolist() == [True, False, True]


def test_a_named_key_that_no_short_episode_shows_is_taken():
    """Nothing is concluded from the beginning of an episode that goes on."""
    options = {"success_key": "won"}
    env = build(Seeded, length=1500, max_episode_steps=None, info=at_the_end("won"), num_envs=1, options=options)
    assert roll(env, 1500)[3]["success"].tolist() == [True]


def test_no_key_where_an_episode_is_cut_means_no_success():
    """Only a terminating episode tells; row 1 is cut before it can."""
    env = build(Seeded, info=at_the_end("is_success"), max_episode_steps=10)
    env.episode_length_buf = torch.tensor([0, 8, 0])
    extras = roll(env, 2)[3]
    assert extras["time_outs"].tolist() == [False, True, False] and extras["success"].tolist() == [False] * 3


def test_no_key_where_it_was_at_every_step_is_a_sentence():
    """Here the absence says nothing: the key is there while the episode goes on."""

    def info(self):
        return {"is_success": True} if self.count != self.length else {}

    env_id = registered(info=info, length=4)
    with pytest.raises(EnvContractError, match=r"terminated without 'is_success' in its info, which has \[\]"):
        roll(build(env_id), 4)
    cut = registered(info=info, length=4, step=lambda self, action: truncating(self))
    with pytest.raises(EnvContractError, match="was cut without 'is_success'"):
        roll(build(cut), 4)


def truncating(self):
    self.count += 1
    return self.observe(), 1.0, False, self.count >= self.length, self.info()


def test_a_key_only_where_it_succeeded():
    def info(self):
        return {"won": True} if self.start % 2 == 0 and self.count >= self.length else {}

    class Odd(Seeded):
        """The spare copy of seed 1 doesn't succeed."""

    options = {"success_key": "won", "seed": 1}
    with pytest.raises(UserError, match="success_key_optional=true"):
        build(Odd, info=info, options=options)
    env = build(Odd, info=info, options={**options, "success_key_optional": True})
    assert roll(env, 6)[3]["success"].tolist() == [False, True, False]


def test_a_key_that_appears_later_is_told_once(caplog):
    def info(self):
        return {"is_success": True} if self.start != 1 and self.count >= self.length else {}

    env = build(Seeded, info=info, options={"seed": 1})
    assert "success" not in env.spec.extras
    roll(env, 30)
    assert [record.getMessage() for record in caplog.records if "env.success_key=is_success" in record.getMessage()]
    assert len(caplog.records) == 1


def test_reward_terms_have_to_be_there_at_every_step():
    env_id = registered(info=lambda self: {"a": 1.0, **({"b": 2.0} if self.count < 3 else {})})
    with pytest.raises(UserError, match=r"names \['b'\].*\['a'\] at every step"):
        build(env_id, options={"reward_terms": ["a", "b"]})
    later = registered(info=lambda self: {"a": 1.0} if self.count < 300 else {}, length=400, max_episode_steps=None)
    env = build(later, options={"reward_terms": ["a"]})
    roll(env, 299)
    with pytest.raises(EnvContractError, match="info lacks 'a'"):
        roll(env, 1)


# --- reset options, pictures, start ----------------------------------------------------------------------------------


def test_reset_options_reach_every_reset():
    class Asks(Right):
        observation_space = spaces.Box(-np.inf, np.inf, (1,))

        def reset(self, *, seed=None, options=None):
            self.target = options["goal"]["x"]
            options["goal"]["x"] = -1  # what a reset does to them stays in it
            return super().reset(seed=seed)

        def observe(self):
            return [self.target]

    options = {"reset_options": {"goal": {"x": 7.0}}}
    for wrappers in ([], [gym.wrappers.RecordEpisodeStatistics]):
        env = build(Asks, options={**options, "wrappers": wrappers})
        assert roll(env, 13)[0]["policy"].tolist() == [[7.0]] * 3
        assert env.reset(seed=3)[0]["policy"].tolist() == [[7.0]] * 3
        assert env.reset_rows(torch.tensor([1]), [5])[0]["policy"].tolist() == [[7.0]] * 3


class NoRenderMode(Right):
    metadata = {"render_modes": ["rgb_array"]}

    def __init__(self, size=1):
        self.size = size


class RenderModeInBase(NoRenderMode):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)


@pytest.mark.parametrize("cls", [NoRenderMode, RenderModeInBase])
def test_a_constructor_without_render_mode_builds_without_pictures(cls):
    env = build(cls, options={"env_kwargs": {"size": 2}})
    assert roll(env, 2)[1].tolist() == [1, 1, 1] and env.envs[0].unwrapped.size == 2
    with pytest.raises(UserError, match="its constructor doesn't take render_mode"):
        env.render()


def test_a_mujoco_constructor_without_a_picture_size_is_not_given_one():
    hopper = pytest.importorskip("gymnasium.envs.mujoco.hopper_v5").HopperEnv

    class Own(hopper):
        def __init__(self, render_mode=None):
            super().__init__(render_mode=render_mode)

    env = build(with_entry_point(Own), num_envs=1)
    assert env.envs[0].render_mode == "rgb_array"


@pytest.mark.parametrize("start", [-4, 0, 3])
def test_discrete_actions_begin_at_start(start):
    given = []

    def step(self, action):
        given.append(action)
        return np.zeros(4), 0.0, False, False, {}

    env = build(action_space=spaces.Discrete(3, start=start), step=step, options={"success_key": None})
    env.step(torch.tensor([0, 1, 2]))
    assert given == [start, start + 1, start + 2]
    assert ActionMap(spaces.Discrete(3, start=start), "x", True).to_simulator(torch.tensor([2, 0])) == [
        start + 2,
        start,
    ]


@pytest.mark.parametrize("start", [-4, 0, 3])
def test_discrete_observations_begin_at_start_alone_in_a_dict_and_in_batches(start):
    values = [start, start + 2, start + 1]
    expected = np.eye(3, dtype=np.float32)[[0, 2, 1]]
    space = spaces.Discrete(3, start=start)
    for layout, value_of, name in (
        (ObsLayout(space, "x"), lambda value: value, "policy"),
        (ObsLayout(spaces.Dict({"phase": space}), "x"), lambda value: {"phase": value}, "phase"),
    ):
        single, batch = layout.buffers(3), layout.buffers(3)
        single[name][:], batch[name][:] = 7, 7  # nothing of before stays
        write = layout.writer(single)
        for row, value in enumerate(values):
            write(row, value_of(value))
        layout.write_rows(batch, np.arange(3), value_of(np.array(values)))
        np.testing.assert_array_equal(single[name], expected)
        np.testing.assert_array_equal(batch[name], expected)
        for wrong in (start - 1, start + 3):
            with pytest.raises(EnvContractError, match="Discrete"):
                layout.write_rows(batch, np.arange(1), value_of(np.array([wrong])))


@pytest.mark.parametrize("mask", [[-1], [0, -4], [4], [0, 1, 2, 3]])
def test_indices_that_hide_nothing_of_the_observation_are_refused(mask):
    with pytest.raises(UserError, match="indices from 0 to 3"):
        build(options={"obs_mask": mask})
