"""Chunks: masks, discounts, levels and clipped terms, against loops and closed forms."""

from __future__ import annotations

import pytest
import torch
from RoboRenForce.algorithms import functional

pytestmark = pytest.mark.oracle


def test_rewards_and_discounts_of_a_chunk_that_ends_early() -> None:
    rewards, executed = torch.tensor([[1.0, 2.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0]]), torch.tensor([2, 4])
    assert torch.allclose(functional.chunk_reward(rewards, 0.5), torch.tensor([2.0, 1.875]))
    assert torch.allclose(functional.chunk_discount(executed, 0.5), torch.tensor([0.25, 0.0625]))
    assert functional.executed_mask(executed, 4).sum(1).tolist() == [2, 4]


@pytest.mark.parametrize(
    ("level", "expected", "width"), [("token", [1.0, 2.0, 3.0, 4.0, 0.0, 0.0], 6), ("action", [3.0, 7.0, 0.0], 3)]
)
def test_levels_leave_out_what_was_not_executed(level: functional.Level, expected: list[float], width: int) -> None:
    values = torch.tensor([[[1.0, 2.0], [3.0, 4.0], [torch.nan, torch.inf]]])
    mask = functional.executed_mask(torch.tensor([2]), 3)
    found, elements = functional.at_level(values, mask, level)
    assert found.tolist() == [expected] and found.shape == elements.shape == (1, width)
    assert (found[~elements] == 0).all() and elements.sum() == (4 if level == "token" else 2)
    chunk, counted = functional.at_level(values, mask, "chunk")
    assert chunk.tolist() == [[10.0]] and counted.tolist() == [[True]]


def test_advantages_of_actions_meet_their_own_ratios() -> None:
    advantage = torch.tensor([[1.0, 2.0]])  # two of three actions are executed
    assert functional.advantage_at_level(advantage, (1, 3, 2), "action").tolist() == [[1, 2, 0]]
    assert functional.advantage_at_level(advantage, (1, 3, 2), "token").tolist() == [[1, 1, 2, 2, 0, 0]]
    assert functional.advantage_at_level(torch.tensor([3.0]), (1, 3, 2), "chunk").tolist() == [[3]]
    with pytest.raises(ValueError, match="ratios of actions or tokens"):
        functional.advantage_at_level(advantage, (1, 3, 2), "chunk")


def test_relative_rewards_pay_a_lasting_success_once() -> None:
    before = torch.zeros(1)
    first, before = functional.relative_rewards(torch.tensor([[0.0, 1.0, 1.0]]), torch.tensor([3]), before)
    second, before = functional.relative_rewards(torch.tensor([[1.0, 0.0, 9.0]]), torch.tensor([2]), before)
    assert first.tolist() == [[0, 1, 0]] and second.tolist() == [[0, -1, 0]] and before.tolist() == [0]


def terms(advantage: float, ratio: float, **options: float) -> tuple[float, float]:
    log_ratio = torch.tensor(ratio, dtype=torch.float64).log().requires_grad_()
    loss, _, cut = functional.surrogate_terms(
        log_ratio,
        torch.zeros_like(log_ratio),
        torch.full_like(log_ratio, advantage).detach(),
        clip_low=0.2,
        clip_high=0.28,
        **options,
    )
    loss.backward()
    assert log_ratio.grad is not None and (log_ratio.grad == 0) == bool(cut)  # the clip is where the gradient ends
    return round(loss.item(), 9), cut.item()


def test_asymmetric_clip() -> None:
    assert terms(1.0, 1.5) == (-1.28, 1) and terms(1.0, 1.25) == (-1.25, 0) and terms(1.0, 0.5) == (-0.5, 0)
    assert terms(-1.0, 0.5) == (0.8, 1) and terms(-1.0, 0.9) == (0.9, 0) and terms(-1.0, 1.5) == (1.5, 0)


def test_dual_clip_bounds_the_loss_of_bad_actions() -> None:
    assert terms(-1.0, 5.0, dual_clip=3.0) == (3, 1) and terms(-1.0, 2.0, dual_clip=3.0) == (2, 0)
    assert terms(1.0, 5.0, dual_clip=3.0) == (-1.28, 1)  # good ones are bounded by the clip already


def test_the_estimated_kl_is_unbiased_and_never_negative() -> None:
    old, new = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.2, 0.5, 0.3])
    estimate = functional.approximate_kl((new / old).log())
    assert (estimate >= 0).all()
    assert torch.allclose((old * estimate).sum(), torch.tensor(0.223805), atol=1e-6)


def test_value_terms() -> None:
    one = torch.ones(1)
    loss, cut = functional.value_terms(one, 0.5 * one, 0.9 * one, clip=0.2)
    assert torch.allclose(loss, torch.tensor([0.02])) and cut.item() == 1  # (0.5 + 0.2 - 0.9)^2 / 2
    loss, cut = functional.value_terms(13.0 * one, one, one, huber=2.0)
    assert loss.item() == 2.0 * (12.0 - 1.0) and cut.item() == 0


def test_gae_with_a_discount_per_step_is_gae_over_the_executed_actions() -> None:
    """With trace decay 1 it does not matter whether a chunk is one long step or several short ones."""
    gamma, steps, rows, width = 0.9, 6, 50, 3
    executed = torch.randint(1, width + 1, (steps, rows))
    mask = functional.executed_mask(executed, width)
    rewards = torch.randn(steps, rows, width) * mask
    done, value, last = torch.rand(steps, rows) < 0.2, torch.randn(steps, rows), torch.randn(rows)
    chunked, _ = functional.gae(
        functional.chunk_reward(rewards, gamma), value, done, last, gamma=gamma ** executed.float(), lam=1.0
    )
    found = torch.zeros(steps, rows)
    for n in range(rows):
        for t in range(steps):
            factor, ended = 1.0, False
            for later in range(t, steps):
                for action in range(int(executed[later, n])):
                    found[t, n] += factor * rewards[later, n, action]
                    factor *= gamma
                if done[later, n]:
                    ended = True
                    break
            found[t, n] += -value[t, n] + (0.0 if ended else factor * last[n])
    assert torch.allclose(chunked, found, atol=1e-4)
