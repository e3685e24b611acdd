"""GAE and time-out bootstraps against hand arithmetic, the double-sum definition and a fixed point."""

import pytest
import torch
from RoboRenForce.algorithms.functional import bootstrap_time_outs, gae, normalize_advantage

pytestmark = pytest.mark.oracle

REWARD = torch.tensor([[1.0], [0.0], [2.0]], dtype=torch.float64)
VALUE = torch.tensor([[0.5], [0.4], [0.3]], dtype=torch.float64)
LAST = torch.tensor([0.7], dtype=torch.float64)


def column(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64).unsqueeze(1)


def test_gae_without_ends():
    # delta_2 = 2 + .9*.7 - .3 = 2.33; delta_1 = .9*.3 - .4 = -.13; A_1 = -.13 + .72*2.33 = 1.5476;
    # delta_0 = .86, A_0 = 1.974272
    advantage, return_ = gae(REWARD, VALUE, torch.zeros_like(REWARD), LAST, gamma=0.9, lam=0.8)
    torch.testing.assert_close(advantage, column(1.974272, 1.5476, 2.33))
    torch.testing.assert_close(return_, advantage + VALUE)


def test_an_end_stops_bootstrap_and_trace():
    # A_1 = 0 - .4; A_0 = .86 + .72 * (-.4) = .572
    advantage, _ = gae(REWARD, VALUE, column(0, 1, 0), LAST, gamma=0.9, lam=0.8)
    torch.testing.assert_close(advantage, column(0.572, -0.4, 2.33))


def test_time_out_bootstraps_the_given_value():
    time_outs = column(0, 1, 0) != 0
    reward = bootstrap_time_outs(REWARD, time_outs, VALUE, gamma=0.9)  # rsl_rl's V(s_t): r_1 = 0 + .9 * .4
    torch.testing.assert_close(reward, column(1.0, 0.36, 2.0))
    assert REWARD[1, 0] == 0.0  # the logged reward is untouched
    advantage, _ = gae(reward, VALUE, time_outs, LAST, gamma=0.9, lam=0.8)
    assert advantage[1, 0].item() == pytest.approx(-0.04)


def test_gae_equals_the_double_sum():
    """A_t = sum_k (gamma lam)^k delta_{t+k} up to and including the first end."""
    torch.manual_seed(0)
    steps, envs, gamma, lam = 50, 64, 0.97, 0.9
    reward, value = torch.randn(2, steps, envs, dtype=torch.float64)
    done = (torch.rand(steps, envs) < 0.1).double()
    last = torch.randn(envs, dtype=torch.float64)
    advantage, _ = gae(reward, value, done, last, gamma=gamma, lam=lam)
    for n in range(0, envs, 7):
        for t in range(0, steps, 5):
            total, weight = 0.0, 1.0
            for k in range(t, steps):
                following = last[n] if k == steps - 1 else value[k + 1, n]
                total += weight * (reward[k, n] + gamma * (1 - done[k, n]) * following - value[k, n])
                weight *= gamma * lam
                if done[k, n]:
                    break
            assert advantage[t, n].item() == pytest.approx(float(total), abs=1e-12)


@pytest.mark.parametrize(("terminates", "fixed_point"), [(False, 1 / (1 - 0.97)), (True, None)])
def test_constant_reward_has_the_value_of_an_endless_future_under_time_outs(
    terminates: bool, fixed_point: float | None
):
    """With reward 1 and time-outs only, V = 1/(1-gamma) solves GAE's targets; true ends give (1-gamma^k)/(1-gamma)."""
    gamma, steps = 0.97, 10
    value = torch.zeros(
        steps + 1, 1, dtype=torch.float64
    )  # one entry per step of the episode, then the final observation
    reward = torch.ones(steps, 1, dtype=torch.float64)
    done = torch.zeros(steps, 1, dtype=torch.float64)
    done[-1] = 1
    for _ in range(3000):
        rewards = reward if terminates else bootstrap_time_outs(reward, done != 0, value[1:], gamma=gamma)
        _, target = gae(rewards, value[:-1], done, value[0], gamma=gamma, lam=0.95)
        value[:-1] = target
        value[-1] = value[-2]  # the final observation looks like the one before it
    if terminates:
        expected = torch.tensor([(1 - gamma**k) / (1 - gamma) for k in range(steps, 0, -1)], dtype=torch.float64)
        torch.testing.assert_close(value[:-1, 0], expected)
    else:
        torch.testing.assert_close(value, torch.full_like(value, fixed_point), rtol=1e-6, atol=1e-6)


def test_normalized_advantage_uses_the_unbiased_deviation():
    advantage = torch.tensor([[1.0, 2.0], [3.0, 6.0]], dtype=torch.float64)
    expected = (advantage - 3.0) / torch.tensor(14.0 / 3.0, dtype=torch.float64).sqrt()
    torch.testing.assert_close(normalize_advantage(advantage, eps=0.0), expected)
