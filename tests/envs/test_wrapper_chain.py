"""The wrapper chain on the scripted environment; every expected number is worked out by hand in the test."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from RoboRenForce.configclass import ConfigError
from RoboRenForce.envs import (
    DynamicEnvCfg,
    GroupVecCfg,
    MultiModalCfg,
    ScriptedEnv,
    ScriptedEnvCfg,
    VecEnvWrapper,
    instruction_id,
    resolve_obs_groups,
)
from RoboRenForce.envs.spec import ActionSpec, EnvSpec
from tensordict import TensorDict

pytestmark = pytest.mark.contract

ALL_EXTRAS = ["final_observations", "success", "reward_terms", "command", "dynamics"]


def scripted(**options):
    return ScriptedEnvCfg(**options).build()


def halves(env):
    """Actions of 0.5 and 0.25 for every row of a two-dimensional environment: 0.75 per step."""
    return torch.tensor([[0.5, 0.25]]).expand(env.num_envs, 2)


def spec_with(groups):
    return EnvSpec("Fake", 1, {name: (2,) for name in groups}, ActionSpec("continuous", 1), 10)


# --- the scripted environment itself ---------------------------------------------------------------------------------


def test_scripted_episode_has_hand_computed_observations_and_endings():
    env = scripted(num_envs=2, script=[["terminated@2", "time_out@3"]], extras=ALL_EXTRAS)
    obs, _ = env.reset(seed=7)
    assert obs["policy"].tolist() == [[700, 0, 0], [800, 0, 0]]

    obs, rewards, dones, extras = env.step(halves(env))
    assert obs["policy"].tolist() == [[700, 1, 0.75], [800, 1, 0.75]]
    assert rewards.tolist() == [1.75, 1.75] and dones.tolist() == [0, 0]

    obs, rewards, dones, extras = env.step(halves(env))
    assert obs["policy"].tolist() == [[701, 0, 0], [801, 0, 0]]
    assert extras["final_observations"]["policy"].tolist() == [[700, 2, 1.5], [800, 2, 1.5]]
    assert extras["terminated"].tolist() == [True, True] and extras["time_outs"].tolist() == [False, False]
    assert extras["success"].tolist() == [True, True]

    for _ in range(2):
        env.step(halves(env))
    _, _, dones, extras = env.step(halves(env))
    assert extras["final_observations"]["policy"].tolist() == [[701, 3, 2.25], [801, 3, 2.25]]
    assert extras["terminated"].tolist() == [False, False] and extras["time_outs"].tolist() == [True, True]


def test_scripted_length_is_settable_and_brings_the_ending_forward():
    env = scripted(num_envs=2, script=[["time_out@5"]])
    env.episode_length_buf = torch.tensor([4, 0])
    _, _, dones, extras = env.step(halves(env))
    assert dones.tolist() == [1, 0] and extras["time_outs"].tolist() == [True, False]


def test_scripted_script_is_checked():
    with pytest.raises(ConfigError, match="'ends@4' is no ending; write terminated@<steps>"):
        scripted(script=[["ends@4"]])


# --- observation sets ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("groups", "overrides", "expected"),
    [
        (["policy"], None, {"actor": ["policy"], "critic": ["policy"]}),
        (["actor", "critic"], None, {"actor": ["actor"], "critic": ["critic"]}),
        (["policy", "critic", "extra"], None, {"actor": ["policy"], "critic": ["critic"]}),
        (["state"], {"actor": ["state"]}, {"actor": ["state"], "critic": ["state"]}),
        (
            ["policy", "map"],
            {"critic": ["policy", "map"], "rnd_state": ["map"]},
            {"actor": ["policy"], "critic": ["policy", "map"], "rnd_state": ["map"]},
        ),
    ],
)
def test_observation_sets_resolve(groups, overrides, expected):
    assert resolve_obs_groups(spec_with(groups), overrides=overrides) == expected


def test_unresolvable_observation_set_names_the_groups():
    with pytest.raises(ValueError, match=r"'actor'.*\['camera', 'state'\]"):
        resolve_obs_groups(spec_with(["state", "camera"]))
    with pytest.raises(ValueError, match="Did you mean 'policy'"):
        resolve_obs_groups(spec_with(["policy"]), overrides={"actor": ["polcy"]})
    with pytest.raises(ValueError, match="empty"):
        resolve_obs_groups(spec_with(["policy"]), overrides={"actor": []})


# --- spec ------------------------------------------------------------------------------------------------------------


def test_spec_survives_plain_data_with_every_field():
    env = MultiModalCfg(images={"camera": "image"}, proprio=["policy"], instruction="go", chunk_size=2).build(
        scripted(image_shape=[4, 4, 3], extras=ALL_EXTRAS)
    )
    assert EnvSpec.from_dict(env.spec.to_dict()) == env.spec
    assert env.spec.action.shape == (2, 2)


def test_spec_without_newer_fields_still_loads():
    data = scripted().spec.to_dict()
    for name in ("extra_dims", "capabilities"):
        del data[name]
    assert EnvSpec.from_dict(data).obs_groups == scripted().spec.obs_groups


# --- VecEnvWrapper ---------------------------------------------------------------------------------------------------


def test_base_wrapper_forwards_the_whole_contract():
    env = scripted(num_envs=3, extras=ALL_EXTRAS)
    wrapped = VecEnvWrapper(env)
    assert wrapped.unwrapped is env and wrapped.cfg is env.cfg
    assert (wrapped.num_envs, wrapped.num_actions, wrapped.max_episode_length) == (3, 2, 10)
    wrapped.reset(seed=1)
    wrapped.episode_length_buf = torch.tensor([2, 1, 0])
    assert env.episode_length_buf.tolist() == [2, 1, 0]
    state = wrapped.state_dict()
    first = wrapped.step(halves(env))[0]["policy"].clone()
    wrapped.load_state_dict(state)
    assert torch.equal(wrapped.step(halves(env))[0]["policy"], first)
    held = wrapped.step_rows(halves(env), torch.tensor([True, False, False]))
    assert held[1].tolist() == [1.75, 0, 0]
    assert wrapped.reset_rows(torch.tensor([1]), [5])[0]["policy"][1].tolist() == [500, 0, 0]
    assert wrapped.render().shape == (8, 8, 3)


# --- DynamicEnv ------------------------------------------------------------------------------------------------------


def test_dynamic_env_collects_what_the_inner_environment_offers():
    env = DynamicEnvCfg(require=["reward_terms", "command", "dynamics"]).build(
        scripted(num_envs=2, script=[["terminated@2"]])
    )
    assert env.spec.reward_terms == ("alive", "action")
    _, extras = env.reset(seed=3)
    assert extras["command"].tolist() == [[300], [400]] and "reward_terms" not in extras
    env.step(halves(env))
    _, rewards, dones, extras = env.step(halves(env))
    assert dones.tolist() == [1, 1]
    assert extras["reward_terms"].tolist() == [[1, 0.75], [1, 0.75]]
    assert torch.equal(extras["reward_terms"].sum(dim=1), rewards)
    # Commands and dynamics belong to the returned observation, which is the first of the next episode.
    assert extras["command"].tolist() == [[301], [401]] and extras["dynamics"].tolist() == [[0, 0], [0, 0]]


def test_dim_params_are_flat_integers():
    env = DynamicEnvCfg().build(scripted(image_shape=[4, 5, 3]))
    assert env.dim_params == {
        "policy_dim": 3,
        "critic_dim": 4,
        "image_dim": 60,
        "dynamic_dim": 2,
        "command_dim": 1,
        "action_dim": 2,
        "rewards_dim": 2,
    }


def test_dynamic_env_refuses_a_missing_channel():
    class Bare(VecEnvWrapper):
        """Hides what the scripted environment offers."""

    with pytest.raises(ValueError, match=r"\['command'\].*no channel"):
        DynamicEnvCfg(require=["command"]).build(Bare(scripted()))


# --- GroupVec --------------------------------------------------------------------------------------------------------


class ConstantPolicy:
    """Acts with one number and remembers what it was told to forget."""

    def __init__(self, value):
        self.value, self.resets = value, []

    def __call__(self, obs):
        return torch.full((obs.batch_size[0], 2), self.value)

    def reset(self, dones=None):
        self.resets.append(None if dones is None else dones.tolist())


def test_training_sees_the_training_rows_only():
    env = GroupVecCfg(num_eval_envs=2).build(scripted(num_envs=5, extras=ALL_EXTRAS))
    env.set_eval_policy(ConstantPolicy(0.0))
    obs, extras = env.reset(seed=0)
    assert env.num_envs == env.spec.num_envs == 3 and obs.batch_size == (3,) and extras["command"].shape == (3, 1)
    obs, rewards, dones, extras = env.step(halves(env))
    assert obs["policy"].shape == (3, 3) and rewards.shape == dones.shape == (3,)
    assert env.get_observations()["policy"].tolist() == [[0, 1, 0.75], [100, 1, 0.75], [200, 1, 0.75]]
    assert {name: len(extras[name]) for name in env.spec.extras} == dict.fromkeys(env.spec.extras, 3)
    assert env.eval_observations["policy"].tolist() == [[300, 1, 0], [400, 1, 0]]


def test_eval_rows_report_their_episode_returns():
    script = [["terminated@4"], ["terminated@2"], ["time_out@3"]]
    env = GroupVecCfg(num_eval_envs=2).build(scripted(num_envs=3, script=script, extras=["success"]))
    policy = ConstantPolicy(0.5)
    env.set_eval_policy(policy)
    env.reset(seed=0)
    logs = [env.step(halves(env))[3]["log"] for _ in range(3)]
    # Two actions of 0.5 make 2 per step: row 1 earns 4 in 2 steps and succeeds, row 2 earns 6 in 3 steps and is cut.
    assert torch.isnan(logs[0]["Eval/mean_return"])
    assert logs[1]["Eval/mean_return"] == 4 and logs[1]["Eval/success_rate"] == 1
    assert logs[2]["Eval/mean_return"] == 5 and logs[2]["Eval/mean_episode_length"] == 2.5
    assert env.eval_statistics.report() == {
        "Eval/mean_return": 5,
        "Eval/mean_episode_length": 2.5,
        "Eval/success_rate": 0.5,
        "Eval/num_episodes": 2,
    }
    assert policy.resets[-2:] == [[1, 0], [0, 1]]


def test_eval_window_keeps_the_newest_episodes():
    env = GroupVecCfg(num_eval_envs=1, eval_window=2).build(scripted(num_envs=2, script=[["terminated@1"]]))
    for value in (0.0, 1.0, 3.0):
        env.step(torch.zeros(1, 2), eval_actions=torch.tensor([[value / 4, value / 4]]))
    # Returns 1, 1.5 and 2.5 (1 for being alive); the window holds the last two.
    assert env.eval_statistics.report()["Eval/mean_return"] == 2.0


def test_a_new_eval_policy_is_not_judged_by_an_episode_it_did_not_begin():
    env = GroupVecCfg(num_eval_envs=1).build(scripted(num_envs=2, script=[["terminated@2"]]))
    env.set_eval_policy(ConstantPolicy(0.0))
    env.step(torch.zeros(1, 2))
    env.set_eval_policy(ConstantPolicy(1.0))
    for _ in range(3):
        _, _, _, extras = env.step(torch.zeros(1, 2))
    assert extras["log"]["Eval/mean_return"] == 6  # only the second episode: two steps of 1 + 2


def test_eval_rows_without_a_policy_are_an_error():
    env = GroupVecCfg(num_eval_envs=1).build(scripted(num_envs=2))
    with pytest.raises(RuntimeError, match="set_eval_policy"):
        env.step(torch.zeros(1, 2))


def test_training_rows_do_not_depend_on_eval_rows():
    alone = scripted(num_envs=2)
    split = GroupVecCfg(num_eval_envs=2).build(scripted(num_envs=4))
    split.set_eval_policy(ConstantPolicy(1.0))
    alone.reset(seed=0), split.reset(seed=0)
    for _ in range(12):
        expected, got = alone.step(halves(alone)), split.step(halves(split))
        assert torch.equal(expected[0]["policy"], got[0]["policy"]) and torch.equal(expected[1], got[1])
        assert torch.equal(expected[3]["final_observations"]["policy"], got[3]["final_observations"]["policy"])


def test_settable_length_touches_training_rows_only():
    inner = scripted(num_envs=3)
    env = GroupVecCfg(num_eval_envs=1).build(inner)
    env.episode_length_buf = torch.tensor([2, 1])
    assert inner.episode_length_buf.tolist() == [2, 1, 0] and env.episode_length_buf.tolist() == [2, 1]


def test_blocks_label_rows_and_show_how_far_they_are_from_the_leader():
    cfg = GroupVecCfg(num_blocks=3, observe_blocks=True, num_eval_envs=1)
    env = cfg.build(scripted(num_envs=7))
    env.set_eval_policy(ConstantPolicy(0.0))
    obs, extras = env.reset(seed=0)
    assert extras["group_id"].tolist() == [0, 0, 1, 1, 2, 2] and extras["group_id"].dtype == torch.int64
    assert obs["block"].flatten().tolist() == [2.0, 2.0, 1.0, 1.0, 0.0, 0.0]
    assert env.spec.num_blocks == 3 and env.spec.leader_rows == slice(4, 6)
    extras = env.step(halves(env))[3]
    assert extras["group_id"].tolist() == [0, 0, 1, 1, 2, 2]
    assert extras["final_observations"]["block"].shape == (6, 1)
    assert env.eval_observations["block"].tolist() == [[0.0]]  # the leader's


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"num_blocks": 3}, "num_blocks=3 must divide the 4"),
        ({"group_size": 3}, "group_size=3 must divide the 4"),
        ({"num_eval_envs": 4}, "at least one must be left"),
    ],
)
def test_group_sizes_must_fit(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        GroupVecCfg(**options).build(scripted(num_envs=4))


def test_blocks_and_groups_exclude_each_other():
    with pytest.raises(ConfigError, match="set one of them"):
        GroupVecCfg(num_blocks=2, group_size=2).build(scripted(num_envs=4))


class CannotHold(VecEnvWrapper):
    """The scripted environment without `step_rows`."""

    def __init__(self, env):
        super().__init__(env)
        self.spec = replace(env.spec, capabilities=("reset_rows",))

    def step_rows(self, actions, active, *, draw=True):
        raise AssertionError("not declared")


def test_group_members_start_together_from_the_same_state():
    script = [["terminated@2"], ["terminated@4"], ["time_out@3"]]
    inner = scripted(num_envs=3, script=script, extras=ALL_EXTRAS)
    env = GroupVecCfg(group_size=3, seed=10).build(inner)
    obs, extras = env.reset(seed=10)
    assert obs["policy"].tolist() == [[1000, 0, 0]] * 3 and extras["group_id"].tolist() == [0, 0, 0]

    steps = [env.step(halves(env)) for _ in range(5)]
    observed = [step[0]["policy"].tolist() for step in steps]
    assert observed[0] == [[1000, 1, 0.75]] * 3
    # Row 0 ends after 2 steps and already shows the start of round 1 (seed 11), where it waits for the others.
    assert observed[1] == [[1100, 0, 0], [1000, 2, 1.5], [1000, 2, 1.5]]
    assert observed[2] == [[1100, 0, 0], [1000, 3, 2.25], [1100, 0, 0]]
    assert observed[3] == [[1100, 0, 0]] * 3
    assert observed[4] == [[1100, 1, 0.75]] * 3
    assert [step[2].tolist() for step in steps] == [[0, 0, 0], [1, 0, 0], [0, 0, 1], [0, 1, 0], [0, 0, 0]]
    assert [step[3]["active"].tolist() for step in steps] == [
        [True, True, True],
        [True, True, True],
        [False, True, True],
        [False, True, False],
        [True, True, True],
    ]
    assert [step[1].tolist() for step in steps] == [
        [1.75, 1.75, 1.75],
        [1.75, 1.75, 1.75],
        [0, 1.75, 1.75],
        [0, 1.75, 0],
        [1.75, 1.75, 1.75],
    ]
    final = [step[3]["final_observations"]["policy"].tolist() for step in steps]
    assert final[1][0] == [1000, 2, 1.5] and final[2][2] == [1000, 3, 2.25] and final[3][1] == [1000, 4, 3]
    assert final[2][0] == final[3][0] == [1100, 0, 0]
    assert steps[1][3]["command"].tolist() == [[1100], [1000], [1000]]
    assert steps[3][3]["command"].tolist() == [[1100]] * 3
    assert steps[2][3]["reward_terms"].tolist() == [[0, 0], [1, 0.75], [1, 0.75]]
    assert env.episode_length_buf.tolist() == [1, 1, 1]


def test_groups_move_on_independently_with_seeds_of_their_own():
    script = [["terminated@1"], ["terminated@2"], ["terminated@3"], ["terminated@3"]]
    env = GroupVecCfg(group_size=2, seed=0).build(scripted(num_envs=4, script=script))
    obs, _ = env.reset(seed=0)
    starts = [obs["policy"][:, 0].tolist()]
    starts += [env.step(halves(env))[0]["policy"][:, 0].tolist() for _ in range(4)]
    # Seeds: group 0 has 0, 2, 4, ...; group 1 has 1, 3, 5, ...
    assert starts == [
        [0, 0, 100, 100],
        [200, 0, 100, 100],
        [200, 200, 100, 100],
        [400, 200, 300, 300],
        [400, 400, 300, 300],
    ]


def test_members_that_start_differently_are_refused():
    class Noisy(ScriptedEnv):
        def reset_rows(self, env_ids, seeds):
            obs, extras = super().reset_rows(env_ids, seeds)
            obs["policy"][:, 0] += torch.arange(self.num_envs)
            return obs, extras

    noisy = Noisy(ScriptedEnvCfg(num_envs=4))
    with pytest.raises(RuntimeError, match=r"group 0 don't start alike.*'policy'"):
        GroupVecCfg(group_size=2).build(noisy)
    assert GroupVecCfg(group_size=2, check_same_start=False).build(noisy).num_envs == 4


def test_groups_need_to_reset_and_to_hold_rows():
    inner = VecEnvWrapper(scripted(num_envs=4))
    inner.spec = replace(inner.spec, capabilities=())
    with pytest.raises(ValueError, match="'reset_rows'"):
        GroupVecCfg(group_size=2).build(inner)
    with pytest.raises(ValueError, match="'step_rows'"):
        GroupVecCfg(group_size=2).build(CannotHold(scripted(num_envs=4)))


def test_group_vec_resumes_exactly():
    def build():
        inner = scripted(num_envs=5, script=[["terminated@2"], ["terminated@5"], ["time_out@3"]], extras=ALL_EXTRAS)
        env = GroupVecCfg(group_size=2, num_eval_envs=1).build(inner)
        env.set_eval_policy(ConstantPolicy(0.25))
        env.reset(seed=4)
        return env

    env, other = build(), build()
    for _ in range(3):
        env.step(halves(env))
    other.load_state_dict(env.state_dict())
    assert torch.equal(other.get_observations()["policy"], env.get_observations()["policy"])
    for _ in range(8):
        expected, got = env.step(halves(env)), other.step(halves(env))
        assert torch.equal(expected[0]["policy"], got[0]["policy"]) and torch.equal(expected[1], got[1])
        assert torch.equal(expected[3]["active"], got[3]["active"])
    assert env.eval_statistics.report() == other.eval_statistics.report()


# --- MultiModal ------------------------------------------------------------------------------------------------------


def multi_modal(env, **options):
    defaults = {"images": {"camera": "image"}, "proprio": ["policy"], "instruction": "pick the cube"}
    return MultiModalCfg(**{**defaults, **options}).build(env)


def test_multi_modal_observations():
    env = multi_modal(scripted(num_envs=2, image_shape=[4, 6, 3]), proprio=["policy", "critic"], keep=["critic"])
    obs, extras = env.reset(seed=2)
    assert {name: tuple(tensor.shape) for name, tensor in obs.items()} == {
        "camera": (2, 4, 6, 3),
        "proprio": (2, 7),
        "critic": (2, 4),
        "instruction_id": (2, 1),
    }
    assert obs["camera"].dtype == torch.uint8 and extras["instruction"] == ["pick the cube"] * 2
    obs, _, _, extras = env.step(halves(env))
    assert obs["camera"].unique().tolist() == [1]  # brightness is the step count
    assert obs["proprio"][0].tolist() == [200, 1, 0.75, 200, 1, 0.75, 0]
    assert extras["instruction"] == env.instructions == ["pick the cube"] * 2


def test_one_instruction_per_environment_and_their_ids():
    env = multi_modal(scripted(num_envs=3, image_shape=[2, 2, 3]), instruction=["go left", "go right", "go left"])
    left, right = instruction_id("go left"), instruction_id("go right")
    assert env.get_observations()["instruction_id"].flatten().tolist() == [left, right, left]
    assert env.instruction_table == {left: "go left", right: "go right"}


class Speaking(VecEnvWrapper):
    """Names the task of every episode after its start."""

    def __init__(self, env):
        super().__init__(env)
        self.spec = replace(env.spec, extras=(*env.spec.extras, "instruction"))

    def texts(self, obs):
        return {"instruction": [f"task {int(start)}" for start in obs["policy"][:, 0]]}

    def reset(self, *, seed=None):
        obs, extras = self.env.reset(seed=seed)
        return obs, {**extras, **self.texts(obs)}

    def step_rows(self, actions, active, *, draw=True):
        obs, rewards, dones, extras = self.env.step_rows(actions, active, draw=draw)
        return obs, rewards, dones, {**extras, **self.texts(obs)}

    def step(self, actions):
        return self.step_rows(actions, torch.ones(self.num_envs, dtype=torch.bool))


def test_instructions_of_the_environment_change_with_the_episode():
    inner = Speaking(scripted(num_envs=2, script=[["terminated@1"], ["terminated@3"]]))
    env = MultiModalCfg(proprio=["policy"], chunk_size=2).build(inner)
    _, extras = env.reset(seed=1)
    assert extras["instruction"] == ["task 100", "task 200"]
    obs, _, dones, extras = env.step(torch.zeros(2, 2, 2))
    assert dones.tolist() == [1, 0] and extras["instruction"] == ["task 101", "task 200"]
    texts = [env.instruction_table[row] for row in obs["instruction_id"].flatten().tolist()]
    finals = [env.instruction_table[row] for row in extras["final_observations"]["instruction_id"].flatten().tolist()]
    assert texts == ["task 101", "task 200"] and finals == ["task 100", "task 200"]


def test_chunk_stops_exactly_where_the_episode_ends():
    inner = scripted(num_envs=3, script=[["terminated@2"], ["time_out@3"], ["terminated@9"]], extras=ALL_EXTRAS)
    env = MultiModalCfg(proprio=["policy"], instruction="go", chunk_size=4).build(inner)
    env.reset(seed=1)
    # Both action dimensions are equal, so a step adds twice the number.
    actions = torch.tensor([0.1, 0.2, 0.3, 0.4]).view(1, 4, 1).expand(3, 4, 2)
    obs, rewards, dones, extras = env.step(actions)
    assert dones.tolist() == [1, 1, 0] and extras["executed_steps"].tolist() == [2, 3, 4]
    torch.testing.assert_close(
        extras["chunk_rewards"], torch.tensor([[1.2, 1.4, 0, 0], [1.2, 1.4, 1.6, 0], [1.2, 1.4, 1.6, 1.8]])
    )
    torch.testing.assert_close(rewards, torch.tensor([2.6, 4.2, 6.0]))
    torch.testing.assert_close(
        obs["proprio"],
        torch.tensor([[101.0, 0, 0], [201, 0, 0], [300, 4, 2.0]]),
        msg="an action leaked into the next episode",
    )
    torch.testing.assert_close(
        extras["final_observations"]["proprio"], torch.tensor([[100.0, 2, 0.6], [200, 3, 1.2], [300, 4, 2.0]])
    )
    assert extras["terminated"].tolist() == [True, False, False] and extras["time_outs"].tolist() == [
        False,
        True,
        False,
    ]
    assert extras["success"].tolist() == [True, False, False]
    torch.testing.assert_close(extras["reward_terms"], torch.tensor([[2.0, 0.6], [3, 1.2], [4, 2.0]]))
    assert extras["command"].flatten().tolist() == [101, 201, 300]
    assert env.episode_length_buf.tolist() == [0, 0, 4]


def test_chunks_equal_single_steps_of_the_inner_environment():
    script = [["terminated@3", "time_out@4"], ["time_out@5"]]
    chunked = MultiModalCfg(proprio=["policy"], instruction="go", chunk_size=1).build(
        scripted(num_envs=4, script=script)
    )
    plain = MultiModalCfg(proprio=["policy"], instruction="go").build(scripted(num_envs=4, script=script))
    chunked.reset(seed=0), plain.reset(seed=0)
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        actions = torch.rand(4, 2, generator=generator)
        expected, got = plain.step(actions), chunked.step(actions.unsqueeze(1))
        assert torch.equal(expected[0]["proprio"], got[0]["proprio"]) and torch.equal(expected[1], got[1])
        assert torch.equal(expected[2], got[2])
        finals = [step[3]["final_observations"]["proprio"] for step in (expected, got)]
        assert torch.equal(*finals)


def test_chunk_of_an_environment_that_reuses_its_tensors():
    class Reusing(ScriptedEnv):
        """Hands out the same flag and final tensors at every step, as the contract allows."""

        def step_rows(self, actions, active, *, draw=True):
            obs, rewards, dones, extras = super().step_rows(actions, active)
            if not hasattr(self, "kept"):
                self.kept = {name: extras[name] for name in ("terminated", "time_outs", "final_observations")}
                return obs, rewards, dones, extras
            for name, kept in self.kept.items():
                kept.copy_(extras[name])
            return obs, rewards, dones, {**extras, **self.kept}

    script = [["terminated@1"], ["time_out@2"]]
    env = MultiModalCfg(proprio=["policy"], instruction="go", chunk_size=3).build(
        Reusing(ScriptedEnvCfg(num_envs=2, script=script))
    )
    env.reset(seed=1)
    for _ in range(2):
        _, _, dones, extras = env.step(torch.zeros(2, 3, 2))
        assert dones.tolist() == [1, 1] and extras["terminated"].tolist() == [True, False]
        assert extras["final_observations"]["proprio"][:, 1].tolist() == [1, 2]


def test_chunks_need_an_environment_that_can_hold_rows():
    with pytest.raises(ValueError, match="'step_rows'"):
        MultiModalCfg(proprio=["policy"], instruction="go", chunk_size=2).build(CannotHold(scripted()))
    assert MultiModalCfg(proprio=["policy"], instruction="go", chunk_size=1).build(CannotHold(scripted())).num_envs == 4


def test_discrete_chunks():
    inner = scripted(num_envs=1, action_kind="discrete", action_dim=3, script=[["terminated@2"]])
    env = MultiModalCfg(proprio=["policy"], instruction="go", chunk_size=3).build(inner)
    env.reset(seed=1)
    _, rewards, _, extras = env.step(torch.tensor([[2, 1, 2]]))
    assert rewards.tolist() == [5.0] and extras["executed_steps"].tolist() == [2]
    assert extras["final_observations"]["proprio"].tolist() == [[100, 2, 3]]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"images": {"camera": "policy"}}, "uint8 with three axes"),
        ({"proprio": ["joints"]}, r"'joints'.*'critic'"),
        ({"instruction": None}, "gives no instructions"),
        ({"instruction": ["one"]}, "1 texts for 2 environments"),
    ],
)
def test_multi_modal_options_are_checked(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        multi_modal(scripted(num_envs=2, image_shape=[2, 2, 3]), **options)


def test_whole_chain_with_groups_and_chunks():
    """Group of two, chunks of two: row 0 ends inside chunk 1 and waits through chunk 2 for row 1."""
    inner = scripted(num_envs=3, script=[["terminated@1"], ["terminated@4"]], extras=ALL_EXTRAS)
    grouped = GroupVecCfg(group_size=2, num_eval_envs=1).build(DynamicEnvCfg().build(inner))
    grouped.set_eval_policy(ConstantPolicy(0.0))
    env = MultiModalCfg(proprio=["policy"], instruction="go", chunk_size=2).build(grouped)
    env.reset(seed=5)
    actions = torch.full((2, 2, 2), 0.5)
    obs, rewards, dones, extras = env.step(actions)
    assert obs["proprio"].tolist() == [[600, 0, 0], [500, 2, 2]] and rewards.tolist() == [2, 4]
    assert extras["executed_steps"].tolist() == [1, 2] and extras["active"].tolist() == [True, True]
    obs, rewards, dones, extras = env.step(actions)
    assert obs["proprio"].tolist() == [[600, 0, 0], [600, 0, 0]] and rewards.tolist() == [0, 4]
    assert dones.tolist() == [0, 1] and extras["executed_steps"].tolist() == [0, 2]
    assert extras["active"].tolist() == [False, True]
    obs, rewards, dones, extras = env.step(actions)
    assert rewards.tolist() == [2, 4] and obs["proprio"].tolist() == [[700, 0, 0], [600, 2, 2]]


def test_multi_modal_resumes_exactly():
    env = multi_modal(scripted(num_envs=2, image_shape=[2, 2, 3]), chunk_size=2)
    other = multi_modal(scripted(num_envs=2, image_shape=[2, 2, 3]), chunk_size=2)
    env.step(torch.zeros(2, 2, 2))
    other.load_state_dict(env.state_dict())
    for _ in range(4):
        expected, got = env.step(torch.ones(2, 2, 2)), other.step(torch.ones(2, 2, 2))
        assert (
            isinstance(got[0], TensorDict) and bool((expected[0] == got[0]).all()) and torch.equal(expected[1], got[1])
        )
