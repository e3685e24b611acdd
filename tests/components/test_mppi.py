"""MPPI against the optimum of an LQR, and the parts of a plan one by one."""

from __future__ import annotations

import pytest
import torch
from RoboRenForce.components import MPPICfg, Plan, mppi
from RoboRenForce.components.mppi import shifted
from RoboRenForce.configclass import ConfigError
from torch import Tensor

pytestmark = pytest.mark.oracle

GAMMA, TERMINAL = 0.99, 1.374017


def lqr_value(start: Tensor, gamma: float = GAMMA) -> object:
    """Return values of s' = 1.1 s + 0.5 a with the cost s^2 + 0.1 a^2, which its Riccati solution continues."""

    def value(actions: Tensor) -> Tensor:
        state, total, discount = start.unsqueeze(1), torch.zeros(actions.shape[1:3]), 1.0
        for action in actions.squeeze(-1):
            total = total - discount * (state.square() + 0.1 * action.square())
            state = 1.1 * state + 0.5 * action
            discount *= gamma
        return total - discount * TERMINAL * state.square()

    return value


def test_the_plan_of_an_lqr_is_the_optimum_within_five_percent() -> None:
    torch.manual_seed(0)
    start = torch.tensor([0.3, -0.5]).repeat(25)
    plan = mppi(MPPICfg(num_policy_samples=0), torch.zeros(3, 50, 1), lqr_value(start))
    optimum = -1.700079 * start
    assert ((plan.mean[0, :, 0] - optimum).abs() <= 0.05 * optimum.abs()).all()
    assert ((plan.choose()[:, 0] - optimum).abs() <= 0.15).all()
    # The state of the second step is 0.25 times that of the first, and so is the action.
    assert (plan.mean[1, :, 0] - 0.249961 * optimum).abs().mean() <= 0.05
    # Without the discount the optimum is another one, so the bound above can fail.
    wrong = mppi(MPPICfg(num_policy_samples=0), torch.zeros(3, 50, 1), lqr_value(start, gamma=0.3))
    assert ((wrong.mean[0, :, 0] - optimum).abs() > 0.05 * optimum.abs()).float().mean() > 0.9


def test_environments_are_planned_apart() -> None:
    cfg = MPPICfg(num_policy_samples=0)
    torch.manual_seed(1)
    both = mppi(cfg, torch.zeros(3, 2, 1), lqr_value(torch.tensor([0.3, 0.3])))
    assert not torch.equal(both.mean[:, 0], both.mean[:, 1])  # each draws its own sequences
    torch.manual_seed(1)
    other = mppi(cfg, torch.zeros(3, 2, 1), lqr_value(torch.tensor([0.3, -0.5])))
    assert torch.equal(both.mean[:, 0], other.mean[:, 0])


def test_the_temperature_multiplies_the_values() -> None:
    proposals = torch.tensor([-0.5, 0.5]).view(1, 1, 2, 1)
    cfg = MPPICfg(horizon=1, iterations=1, num_samples=3, num_policy_samples=2, num_elites=2, temperature=2.0)
    plan = mppi(
        cfg,
        torch.zeros(1, 1, 1),
        lambda actions: torch.where(actions[0, :, :, 0].abs() == 0.5, actions[0, :, :, 0], -99.0),
        proposals=proposals,
    )
    weights = torch.tensor([[2.0 * 0.5, 2.0 * -0.5]]).softmax(-1)
    torch.testing.assert_close(plan.weights, weights)
    mean = (weights * torch.tensor([0.5, -0.5])).sum()
    torch.testing.assert_close(plan.mean.flatten(), mean.unsqueeze(0))
    std = (weights * (torch.tensor([0.5, -0.5]) - mean).square()).sum().sqrt()
    torch.testing.assert_close(plan.std.flatten(), std.unsqueeze(0))


def test_a_good_proposal_is_found_and_momentum_slows_the_mean() -> None:
    proposals = torch.full((2, 1, 4, 1), 0.987)
    cfg = MPPICfg(horizon=2, iterations=1, num_samples=32, num_policy_samples=4, num_elites=4)

    def value(actions: Tensor) -> Tensor:
        return -1000.0 * (actions - 0.987).abs().sum((0, -1))

    plan = mppi(cfg, torch.zeros(2, 1, 1), value, proposals=proposals)
    torch.testing.assert_close(plan.mean, torch.full((2, 1, 1), 0.987))
    torch.testing.assert_close(plan.std, torch.full((2, 1, 1), cfg.min_std))  # the floor
    slow = mppi(cfg.replace(momentum=0.1), torch.zeros(2, 1, 1), value, proposals=proposals)
    torch.testing.assert_close(slow.mean, torch.full((2, 1, 1), 0.9 * 0.987))


def test_masked_dimensions_stay_zero() -> None:
    mask = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    plan = mppi(MPPICfg(horizon=2, num_policy_samples=0), torch.zeros(2, 2, 2), lambda a: a.sum((0, -1)), mask=mask)
    assert not plan.mean[:, 0, 1].any() and not plan.std[:, 0, 1].any() and not plan.choose()[0, 1].any()
    assert (plan.mean[:, 1] > 0.5).all()


def test_sequences_for_which_the_model_diverges_are_never_chosen() -> None:
    def value(actions: Tensor) -> Tensor:
        first = actions[0, :, :, 0]
        bad = torch.full_like(first, torch.nan).masked_fill(first > 0.7, torch.inf)
        return torch.where(first > 0.3, bad, first - 100.0)

    plan = mppi(MPPICfg(num_policy_samples=0), torch.zeros(3, 4, 1), value)
    assert (plan.elites[0] <= 0.3).all() and plan.mean.isfinite().all()


def test_elites_are_drawn_by_their_weights() -> None:
    torch.manual_seed(0)
    weights = torch.tensor([0.7, 0.2, 0.1, 0.0]).expand(20_000, 4)
    elites = torch.arange(4.0).view(1, 1, 4, 1).expand(1, 20_000, 4, 1)
    drawn = Plan(elites, elites, elites, weights).choose().flatten()
    share = torch.stack([(drawn == index).float().mean() for index in range(4)])
    torch.testing.assert_close(share, weights[0], atol=0.01, rtol=0)
    assert share[3] == 0


def test_the_next_plan_starts_where_the_last_one_goes_on() -> None:
    mean = torch.arange(1.0, 7.0).view(3, 2, 1)
    assert shifted(mean, None).flatten().tolist() == [3.0, 4.0, 5.0, 6.0, 0.0, 0.0]
    assert shifted(mean, torch.tensor([False, True])).flatten().tolist() == [3.0, 0.0, 5.0, 0.0, 0.0, 0.0]


def test_numbers_of_sequences_that_do_not_fit_are_named() -> None:
    with pytest.raises(ConfigError, match="num_elites: 64 is more than num_samples=16"):
        MPPICfg(num_samples=16, num_policy_samples=0).validate()
    with pytest.raises(ConfigError, match="num_policy_samples: 24 leaves none of num_samples=24"):
        MPPICfg(num_samples=24, num_elites=8).validate()
