"""Smoothness of an evaluation: against actions whose change and spectrum are known."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from RoboRenForce import components, networks
from RoboRenForce.algorithms import ActorPolicy
from RoboRenForce.algorithms.history_policy import HistoryPolicy
from RoboRenForce.envs.obs_groups import PREVIOUS_ACTION
from RoboRenForce.envs.scripted_env import ScriptedEnv, ScriptedEnvCfg
from RoboRenForce.envs.spec import ActionSpec, EnvSpec
from RoboRenForce.runners.evaluation import evaluate
from RoboRenForce.runners.smoothness import SmoothnessMeter, spectrum
from small_runs import ZeroPolicy
from tensordict import TensorDict
from torch import Tensor

pytestmark = pytest.mark.oracle


@pytest.mark.parametrize("k", [1, 5, 32])
def test_the_spectrum_of_a_sine_is_its_amplitude_times_its_frequency(k: int) -> None:
    """One of 32 frequencies has the amplitude 0.7: Sm = 2 / 32 * 0.7 * k / 64."""
    t = torch.arange(64, dtype=torch.float64)
    signal = 0.3 + 0.7 * torch.cos(2 * math.pi * k * t / 64)
    found = spectrum(torch.stack([signal, signal], dim=-1).unsqueeze(1).expand(64, 3, 2))
    torch.testing.assert_close(found, torch.full((3,), 2 / 32 * 0.7 * k / 64, dtype=torch.float64))


class Alternating(ZeroPolicy):
    """Acts +2, -2, +2 ... in all environments, whatever ends."""

    def __init__(self) -> None:
        super().__init__((2,))
        self.sign = 1.0

    def forward(self, obs: TensorDict) -> Tensor:
        self.sign = -self.sign
        return torch.full((obs.batch_size[0], 2), 2.0 * self.sign)


def test_changes_are_those_of_executed_actions_within_episodes() -> None:
    """Actions are clipped to +-1, so every change is 2; first steps have none, and windows never cross an end."""
    env = ScriptedEnv(ScriptedEnvCfg(num_envs=2, script=[["time_out@9"], ["time_out@5"]]))
    assert env.spec.action.low == (-1.0, -1.0)
    found = evaluate(env, Alternating(), 4).smoothness
    assert found is not None and found.action_change == 2.0 and found.jacobian_norm is None
    meter = SmoothnessMeter(Alternating(), env.spec.action, 2, 8, env.device)
    for step in range(24):
        done = torch.tensor([step % 8 == 7, step == 10])
        meter.add(torch.full((2, 2), 1.0 - 2.0 * (step % 2)), done, torch.ones(2, dtype=torch.bool))
    # Row 0: three whole windows; row 1: the first, and the last, which began after its end at step 10.
    assert meter._sums[1].tolist() == [24 - 3 + 24 - 2, 3 + 2, 0]
    assert meter.result().spectrum == pytest.approx(2 / 4 * 1.0 * 0.5)


def test_episodes_that_do_not_count_are_left_out() -> None:
    env = ScriptedEnv(ScriptedEnvCfg(num_envs=2, script=[["time_out@3"], ["time_out@6"]]))
    meter = SmoothnessMeter(Alternating(), env.spec.action, 2, None, env.device)
    for counted in ([True, False], [True, False], [False, False]):
        meter.add(torch.ones(2, 2), torch.zeros(2), torch.tensor(counted))
    assert meter._sums[1].tolist() == [1, 0, 0]
    assert meter.result().spectrum is None


def actor_of(groups: tuple[str, ...], backbone: Any) -> Any:
    spec = EnvSpec("plane", 3, {"policy": (4,), PREVIOUS_ACTION: (2,)}, ActionSpec("continuous", 2), 100, ())
    cfg = components.TanhGaussianActorCfg(backbone_cfg=backbone, normalizer_cfg=None)
    torch.manual_seed(0)
    return cfg.build(spec=spec, groups=groups)


def numeric(policy: Any, obs: TensorDict, group: str) -> Tensor:
    """The squared norm by differences, with the policy's state as it is."""
    total = torch.zeros(3)
    for column in range(obs[group].shape[1]):
        actions = []
        for sign in (1.0, -1.0):
            moved = obs.clone()
            moved[group][:, column] += 1e-2 * sign
            actions.append(policy(moved))
        total += ((actions[0] - actions[1]) / 2e-2).square().sum(-1)
    return total


def test_the_slope_is_that_of_the_squashed_action_at_the_state_of_the_policy() -> None:
    obs = TensorDict({"policy": torch.randn(3, 4)}, [3])
    policy = ActorPolicy(actor_of(("policy",), networks.MLPCfg(hidden_features=[8], activations="Tanh")))
    torch.testing.assert_close(policy.jacobian_norm(obs), numeric(policy, obs, "policy").sqrt(), rtol=1e-3, atol=1e-4)

    policy = ActorPolicy(actor_of(("policy",), networks.RNNCfg(hidden_size=6)))
    policy(obs)
    state = policy._state.clone()
    found = policy.jacobian_norm(obs)
    assert torch.equal(policy._state, state), "measuring does not advance the policy"
    single = numeric(_At(policy, state), obs, "policy")
    torch.testing.assert_close(found, single.sqrt(), rtol=1e-3, atol=1e-4)
    policy.reset()
    assert not torch.allclose(policy.jacobian_norm(obs), found)


class _At:
    """A recurrent policy that is always in the same state."""

    def __init__(self, policy: Any, state: Tensor) -> None:
        self.actor, self.state = policy.actor, state

    def __call__(self, obs: TensorDict) -> Tensor:
        return self.actor(obs, self.state, None)[0].mode.detach()


def test_the_previous_action_is_an_observation_too() -> None:
    policy = HistoryPolicy(actor_of(("policy", PREVIOUS_ACTION), networks.MLPCfg(hidden_features=[8])))
    obs = TensorDict({"policy": torch.randn(3, 4)}, [3])
    both = TensorDict({"policy": obs["policy"], PREVIOUS_ACTION: torch.zeros(3, 2)}, [3])
    plain = ActorPolicy(policy.actor)
    expected = numeric(plain, both, "policy") + numeric(plain, both, PREVIOUS_ACTION)
    torch.testing.assert_close(policy.jacobian_norm(obs), expected.sqrt(), rtol=1e-2, atol=1e-3)
