"""Clipped surrogate, clipped value loss and the learning-rate rule: values and gradients against hand arithmetic."""

import pytest
import torch
from RoboRenForce.algorithms.functional import clipped_surrogate, clipped_value_loss, value_loss
from RoboRenForce.components.lr_schedule import adapt_to_kl_, linear_

pytestmark = pytest.mark.oracle


def surrogate(ratio: float, advantage: float) -> tuple[float, float]:
    log_prob = torch.tensor([ratio], dtype=torch.float64).log().requires_grad_()
    loss = clipped_surrogate(log_prob, torch.zeros(1, dtype=torch.float64), torch.tensor([advantage]).double(), 0.2)
    loss.backward()
    return -loss.item(), log_prob.grad.item()


@pytest.mark.parametrize(
    ("ratio", "advantage", "objective", "has_gradient"),
    [
        (0.5, 1.0, 0.5, True),
        (0.9, 1.0, 0.9, True),
        (1.1, 1.0, 1.1, True),
        (1.5, 1.0, 1.2, False),  # enough of a good thing
        (0.5, -1.0, -0.8, False),  # the bad action is rare enough already
        (0.9, -1.0, -0.9, True),
        (1.1, -1.0, -1.1, True),
        (1.5, -1.0, -1.5, True),  # a bad action that became likelier always pulls back
    ],
)
def test_clipped_surrogate(ratio: float, advantage: float, objective: float, has_gradient: bool):
    value, gradient = surrogate(ratio, advantage)
    assert value == pytest.approx(objective)
    # d(-A r)/d log_prob = -A r where the clip is inactive, exactly 0 where it is active
    assert gradient == pytest.approx(-advantage * ratio if has_gradient else 0.0)


def test_surrogate_refuses_to_broadcast():
    column = torch.zeros(3, 1)
    with pytest.raises(ValueError, match=r"advantage \(3, 1\)"):
        clipped_surrogate(torch.zeros(3), torch.zeros(3), column, 0.2)


def test_clipped_value_loss_takes_the_larger_error():
    value = torch.tensor([1.0], dtype=torch.float64, requires_grad=True)
    old, target = torch.tensor([0.5]).double(), torch.tensor([0.9]).double()
    loss = clipped_value_loss(value, old, target, 0.2)  # max((1-.9)^2, (.7-.9)^2) = max(.01, .04)
    loss.backward()
    assert loss.item() == pytest.approx(0.04)
    assert value.grad.item() == 0.0  # the clipped branch does not depend on the value


def test_value_loss_has_no_factor_one_half():
    value = torch.tensor([1.0, 3.0], dtype=torch.float64, requires_grad=True)
    loss = value_loss(value, torch.tensor([0.0, 1.0]).double())
    loss.backward()
    assert loss.item() == pytest.approx(2.5)
    torch.testing.assert_close(value.grad, torch.tensor([1.0, 2.0]).double())


@pytest.mark.parametrize(
    ("kl", "before", "after"),
    [
        (0.021, 1e-3, 1e-3 / 1.5),
        (0.004, 1e-3, 1.5e-3),
        (0.0, 1e-3, 1e-3),  # nothing moved yet: no reason to speed up
        (0.012, 1e-3, 1e-3),
        (1.0, 1.2e-5, 1e-5),
        (1e-6, 9e-3, 1e-2),
    ],
)
def test_learning_rate_follows_the_kl(kl: float, before: float, after: float):
    lr = torch.tensor(before, dtype=torch.float64)
    adapt_to_kl_(lr, torch.tensor(kl), 0.01)
    assert lr.item() == pytest.approx(after, rel=1e-12)


def test_linear_schedule_reaches_its_end_and_stays():
    value = torch.zeros(())
    for iteration, expected in [(0, 1.0), (5, 0.5), (10, 0.0), (20, 0.0)]:
        linear_(value, 1.0, 0.0, torch.tensor(float(iteration)), 10)
        assert value.item() == pytest.approx(expected)
