"""`check_vec_env` accepts what is right and finds each planted violation of the contract."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from RoboRenForce.envs import (
    DynamicEnvCfg,
    EnvContractError,
    GroupVecCfg,
    MultiModalCfg,
    ScriptedEnv,
    ScriptedEnvCfg,
    VecEnvWrapper,
    check_vec_env,
)

pytestmark = pytest.mark.contract

ALL_EXTRAS = ["final_observations", "success", "reward_terms", "command", "dynamics"]
SCRIPT = [["terminated@3", "time_out@5"], ["time_out@4"], ["terminated@2"]]


def scripted(cls=ScriptedEnv, **options):
    return cls(ScriptedEnvCfg(**{"num_envs": 4, "script": SCRIPT, "extras": ALL_EXTRAS, **options}))


class Zeros:
    """An eval policy."""

    def __call__(self, obs):
        return torch.zeros(obs.batch_size[0], 2)

    def reset(self, dones=None):
        pass


def chain():
    env = GroupVecCfg(group_size=2, num_eval_envs=2).build(
        DynamicEnvCfg().build(scripted(num_envs=6, image_shape=[4, 4, 3]))
    )
    env.set_eval_policy(Zeros())
    return MultiModalCfg(images={"camera": "image"}, proprio=["policy"], instruction="go", chunk_size=3).build(env)


RIGHT = {
    "continuous": lambda: scripted(),
    "discrete": lambda: scripted(action_kind="discrete", action_dim=3),
    "unbounded": lambda: scripted(action_bound=None),
    "images": lambda: scripted(image_shape=[4, 4, 3]),
    "one environment": lambda: scripted(num_envs=1),
    "no horizon": lambda: scripted(max_episode_length=0),
    "no optional extras": lambda: scripted(extras=[]),
    "wrapper": lambda: VecEnvWrapper(scripted()),
    "dynamic": lambda: DynamicEnvCfg().build(scripted(extras=["final_observations"])),
    "blocks": lambda: GroupVecCfg(num_blocks=2, observe_blocks=True).build(scripted()),
    "groups": lambda: GroupVecCfg(group_size=2).build(scripted()),
    "chunks": lambda: MultiModalCfg(proprio=["policy"], instruction="go", chunk_size=4).build(scripted()),
    "whole chain": chain,
}


@pytest.mark.parametrize("name", RIGHT)
def test_right_environments_pass(name):
    assert check_vec_env(RIGHT[name]()) == []


class Changed(ScriptedEnv):
    """Lets a test alter what a step returns."""

    def step_rows(self, actions, active, *, draw=True):
        return self.change(*super().step_rows(actions, active))

    def change(self, obs, rewards, dones, extras):
        raise AssertionError("overridden below")


class DoubleReward(Changed):
    def change(self, obs, rewards, dones, extras):
        return obs, rewards.double(), dones, extras


class RewardColumn(Changed):
    def change(self, obs, rewards, dones, extras):
        return obs, rewards.unsqueeze(1), dones, extras


class BoolDones(Changed):
    def change(self, obs, rewards, dones, extras):
        return obs, rewards, dones.bool(), extras


class UndeclaredExtra(Changed):
    def change(self, obs, rewards, dones, extras):
        return obs, rewards, dones, {**extras, "episode": {}}


class MissingExtra(Changed):
    def change(self, obs, rewards, dones, extras):
        del extras["success"]
        return obs, rewards, dones, extras


class MissingGroup(Changed):
    def change(self, obs, rewards, dones, extras):
        return obs.select("policy"), rewards, dones, extras


class NotANumber(Changed):
    def change(self, obs, rewards, dones, extras):
        return obs, rewards / 0 * 0, dones, extras


class DoneWithoutReason(Changed):
    def change(self, obs, rewards, dones, extras):
        return obs, rewards, torch.ones_like(dones), extras


class TerminatedAndCut(Changed):
    def change(self, obs, rewards, dones, extras):
        return obs, rewards, dones, {**extras, "time_outs": extras["time_outs"] | extras["terminated"]}


class FinalIsFirst(Changed):
    """The classical mistake: the observation after the auto-reset passes for the last one."""

    def change(self, obs, rewards, dones, extras):
        return obs, rewards, dones, {**extras, "final_observations": obs.clone()}


class FinalIsStale(Changed):
    """The last observation but one."""

    def change(self, obs, rewards, dones, extras):
        final = extras["final_observations"].clone()
        final["policy"][dones.bool(), 1] -= 1
        return obs, rewards, dones, {**extras, "final_observations": final}


class FinalOnlyWhereDone(Changed):
    def change(self, obs, rewards, dones, extras):
        final = extras["final_observations"].clone()
        final["policy"][~dones.bool()] = 0
        return obs, rewards, dones, {**extras, "final_observations": final}


class SharedFlags(Changed):
    def change(self, obs, rewards, dones, extras):
        return obs, rewards, dones, {**extras, "success": extras["terminated"]}


class NoAutoReset(ScriptedEnv):
    """Goes on counting after the end."""

    def step_rows(self, actions, active, *, draw=True):
        result = super().step_rows(actions, active)
        self._length = self._length + result[2]
        return result


class ReusedObservations(Changed):
    def change(self, obs, rewards, dones, extras):
        if not hasattr(self, "kept"):
            self.kept = obs
        return self.kept.update_(obs), rewards, dones, extras


class SideEffect(ScriptedEnv):
    """Every look at the observations is one step of a history."""

    looks = 0

    def get_observations(self):
        self.looks += 1
        obs = super().get_observations()
        obs["policy"][:, 0] += self.looks
        return obs


class Unseeded(ScriptedEnv):
    def reset(self, *, seed=None):
        return super().reset(seed=int(torch.randint(10_000, ())))


class CountsResets(ScriptedEnv):
    """Goes on to the next episode if it is reset before it has moved."""

    moved = True

    def reset(self, *, seed=None):
        result = super().reset(seed=seed if self.moved else None)
        self.moved = False
        return result

    def step_rows(self, actions, active, *, draw=True):
        self.moved = True
        return super().step_rows(actions, active)


class ChangesActions(ScriptedEnv):
    def step_rows(self, actions, active, *, draw=True):
        return super().step_rows(actions.mul_(0.5), active)


class DoesNotClip(ScriptedEnv):
    def _action_value(self, actions):
        return actions.sum(dim=1)


class DeafToLength(ScriptedEnv):
    """Accepts the setter and ignores it."""

    @property
    def episode_length_buf(self):
        return self._length.clone()

    @episode_length_buf.setter
    def episode_length_buf(self, value):
        pass


class ForgetsState(ScriptedEnv):
    def load_state_dict(self, state):
        super().load_state_dict({**state, "episodes": torch.zeros_like(state["episodes"])})


class HoldsNothing(ScriptedEnv):
    def step_rows(self, actions, active, *, draw=True):
        return super().step_rows(actions, torch.ones_like(active))


class IgnoresSeeds(ScriptedEnv):
    def reset_rows(self, env_ids, seeds):
        return super().reset_rows(env_ids, [seed + row for row, seed in enumerate(seeds)])


VIOLATIONS = [
    (DoubleReward, "rewards has dtype torch.float64, expected torch.float32"),
    (RewardColumn, r"rewards has shape \(4, 1\), expected \(4,\)"),
    (BoolDones, "dones has dtype torch.bool"),
    (UndeclaredExtra, "'episode'.*declared are"),
    (MissingExtra, "keys.*declared are.*'success'"),
    (MissingGroup, r"step has the groups \['policy'\]"),
    (NotANumber, "rewards has values that aren't finite"),
    (DoneWithoutReason, r"dones isn't terminated \| time_outs"),
    (TerminatedAndCut, "terminated and time_outs at once"),
    (FinalIsFirst, "isn't the last observation.*first observation of the next episode"),
    (FinalIsStale, r"final_observations\['policy'\] isn't the last observation"),
    (FinalOnlyWhereDone, "differs from the observations in rows that aren't done"),
    (SharedFlags, "'terminated' and 'success' share their memory"),
    (NoAutoReset, "episode_length_buf isn't one more after a step and 0 after an episode ended"),
    (ReusedObservations, "overwritten by the very next step"),
    (SideEffect, "get_observations.. after reset returns another 'policy'"),
    (Unseeded, "two runs after reset.* differ"),
    (CountsResets, "without a step, starts elsewhere"),
    (ChangesActions, "changes the actions it is given"),
    (DoesNotClip, "aren't clipped"),
    (DeafToLength, "doesn't return what it was set to"),
    (ForgetsState, "goes on differently"),
    (HoldsNothing, "step_rows changes the observation of a row that is held"),
    (IgnoresSeeds, "rows given the same seed by reset_rows observe different 'policy'"),
]


@pytest.mark.parametrize(("cls", "sentence"), VIOLATIONS, ids=[cls.__name__ for cls, _ in VIOLATIONS])
def test_planted_violation_is_found(cls, sentence):
    with pytest.raises(EnvContractError, match=sentence):
        check_vec_env(scripted(cls))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"extras": ("final_observations", "rewards_raw")}, r"extras declares \['rewards_raw'\]"),
        ({"capabilities": ("teleport",)}, r"capabilities names \['teleport'\]"),
        ({"reward_terms": ()}, "if and only if spec.extras has 'reward_terms'"),
        ({"extra_dims": {}}, "spec.extra_dims doesn't give its width"),
        ({"obs_groups": {"policy": (7,), "critic": (4,)}}, r"group 'policy' has shape \(4, 3\), expected \(4, 7\)"),
        ({"obs_dtypes": {"policy": "uint8"}}, "group 'policy' has dtype torch.float32, expected torch.uint8"),
    ],
)
def test_untrue_spec_is_found(changes, sentence):
    env = scripted()
    env.spec = replace(env.spec, **changes)
    with pytest.raises(EnvContractError, match=sentence):
        check_vec_env(env)


def test_findings_come_together_and_once():
    class TwoMistakes(Changed):
        def change(self, obs, rewards, dones, extras):
            return obs, rewards.double(), dones.float(), extras

    findings = check_vec_env(scripted(TwoMistakes), raise_error=False)
    assert findings == [
        "rewards has dtype torch.float64, expected torch.float32",
        "dones has dtype torch.float32, expected torch.int64",
    ]
