"""A runner checks what any `VecEnv` returns before anything is learned from it; it would broadcast or be cast."""

from __future__ import annotations

import pytest
import torch
from RoboRenForce.envs import EnvContractError, ScriptedEnv, ScriptedEnvCfg
from small_runs import counting_cfg
from tensordict import TensorDict

pytestmark = pytest.mark.contract

EXTRAS = ["final_observations", "success", "reward_terms"]


class Changed(ScriptedEnv):
    """Returns something else from step `wrong_from` on."""

    wrong_from = 1
    taken = 0

    def step(self, actions):
        self.taken += 1
        returned = super().step(actions)
        return returned if self.taken < self.wrong_from else self.change(*returned)


def regrouped(obs, **groups):
    return TensorDict({**dict(obs.items()), **groups}, obs.batch_size)


CHANGES = {
    "reward column": (lambda o, r, d, e: (o, r[:, None], d, e), r"rewards has shape \(4, 1\), expected \(4,\)"),
    "reward scalar": (lambda o, r, d, e: (o, r.sum(), d, e), r"rewards has shape \(\)"),
    "reward array": (lambda o, r, d, e: (o, r.numpy(), d, e), "rewards is ndarray, expected a tensor"),
    "reward double": (lambda o, r, d, e: (o, r.double(), d, e), "rewards has dtype torch.float64"),
    "dones bool": (lambda o, r, d, e: (o, r, d.bool(), e), "dones has dtype torch.bool"),
    "dones one": (lambda o, r, d, e: (o, r, d[:1], e), r"dones has shape \(1,\)"),
    "five": (lambda o, r, d, e: (o, r, d.bool(), d.bool(), e), "step doesn't return .obs, rewards, dones, extras."),
    "dict": (lambda o, r, d, e: (dict(o.items()), r, d, e), "step returns dict, expected a TensorDict"),
    "batch": (lambda o, r, d, e: (TensorDict(dict(o.items()), []), r, d, e), r"batch size \[\], expected \[4\]"),
    "narrow": (
        lambda o, r, d, e: (regrouped(o, policy=o["policy"][:, :1]), r, d, e),
        r"group 'policy' has shape \(4, 1\), expected \(4, 3\)",
    ),
    "cast": (lambda o, r, d, e: (regrouped(o, policy=o["policy"].int()), r, d, e), "'policy' has dtype torch.int32"),
    "group missing": (lambda o, r, d, e: (o.exclude("critic"), r, d, e), r"groups \['policy'\].*declares"),
    "group too many": (lambda o, r, d, e: (regrouped(o, more=d), r, d, e), r"groups \['critic', 'more', 'policy'\]"),
    "device": (lambda o, r, d, e: (o, r.to("meta"), d, e), "rewards is on meta, the environment on cpu"),
    "extras": (lambda o, r, d, e: (o, r, d, None), "extras is NoneType"),
    "extra missing": (lambda o, r, d, e: (o, r, d, {**e, "log": None}), "'log'. is NoneType, expected a dict"),
    "extra undeclared": (lambda o, r, d, e: (o, r, d, {**e, "episode": 1}), "keys .*'episode'.*declared are"),
    "terminated int": (
        lambda o, r, d, e: (o, r, d, {**e, "terminated": e["terminated"].long()}),
        r"extras\['terminated'\] has dtype torch.int64",
    ),
    "time_outs column": (
        lambda o, r, d, e: (o, r, d, {**e, "time_outs": e["time_outs"][:, None]}),
        r"extras\['time_outs'\] has shape \(4, 1\)",
    ),
    "success one": (lambda o, r, d, e: (o, r, d, {**e, "success": e["success"][:1]}), r"'success'\] has shape \(1,\)"),
    "terms": (
        lambda o, r, d, e: (o, r, d, {**e, "reward_terms": e["reward_terms"][:, :1]}),
        r"'reward_terms'\] has shape \(4, 1\), expected \(4, 2\)",
    ),
    "final": (
        lambda o, r, d, e: (o, r, d, {**e, "final_observations": o.exclude("policy")}),
        r"'final_observations'\] has the groups \['critic'\]",
    ),
}


def run(change, wrong_from=1):
    cls = type("Wrong", (Changed,), {"change": staticmethod(change), "wrong_from": wrong_from})
    return counting_cfg(num_steps_per_env=8).build(env=cls(ScriptedEnvCfg(num_envs=4, extras=EXTRAS)))


SILENT = ("reward scalar", "reward double", "dones bool", "dones one", "cast", "terminated int", "terms")
"""Changes that no copy into a buffer would refuse."""


@pytest.mark.parametrize(
    ("name", "wrong_from"), [*((name, step) for name in CHANGES for step in (1, 3)), *((name, 5) for name in SILENT)]
)
def test_a_wrong_step_is_named_before_anything_is_learned(name, wrong_from):
    """The first three steps are looked at, and after them the last one of each iteration."""
    change, sentence = CHANGES[name]
    runner = run(change, wrong_from)
    with pytest.raises(EnvContractError, match=f"Wrong breaks the VecEnv contract:\n.*{sentence}"):
        runner.learn(1)
    assert "update" not in runner.algorithm.calls


def test_the_first_observations_are_checked():
    class Narrow(ScriptedEnv):
        def get_observations(self):
            obs = super().get_observations()
            return regrouped(obs, policy=obs["policy"][:, :1])

    runner = counting_cfg().build(env=Narrow(ScriptedEnvCfg(num_envs=4)))
    with pytest.raises(EnvContractError, match=r"get_observations\(\): group 'policy' has shape \(4, 1\)"):
        runner.learn(1)
    assert runner.algorithm.calls == []


def test_after_the_first_steps_the_environment_is_called_directly():
    runner = counting_cfg(num_steps_per_env=4).build(env=ScriptedEnvCfg(num_envs=4).build())
    assert runner._step_env != runner.env.step
    runner.learn(1)
    assert runner._step_env == runner.env.step


def test_a_users_own_error_in_a_step_is_not_ours_to_word():
    def broken(*step):
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        run(broken).learn(1)


def test_every_tensor_is_compared_on_its_device():
    """The check reads nothing back: it works where there are no values at all."""
    from RoboRenForce.envs.structure import StructureCheck

    env = ScriptedEnvCfg(num_envs=4, extras=EXTRAS).build()
    obs, rewards, dones, extras = env.step(torch.zeros(4, 2))

    def empty(value):
        return value.to("meta") if isinstance(value, torch.Tensor | TensorDict) else value

    env.device = torch.device("meta")
    check = StructureCheck(env)
    check.step((empty(obs), empty(rewards), empty(dones), {name: empty(value) for name, value in extras.items()}))
    assert check.violations == []
