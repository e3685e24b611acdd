"""Advantages from scores of whole episodes, against closed forms."""

from __future__ import annotations

import pytest
import torch
from RoboRenForce.algorithms import functional
from torch import Tensor

pytestmark = pytest.mark.oracle

SCORES = torch.tensor([1.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0])


def test_a_group_of_eight_by_hand() -> None:
    # Two of eight succeed: mean 1/4, unbiased deviation sqrt(3/14).
    found = functional.group_advantage(SCORES)
    assert torch.allclose(found[[0, 1]], torch.tensor([1.620182, -0.540061]), atol=1e-5)
    found = functional.group_advantage(SCORES, scale="none")
    assert torch.allclose(found[[0, 1]], torch.tensor([0.75, -0.25]), atol=1e-6)


def test_groups_are_compared_with_themselves_only() -> None:
    scores = torch.tensor([[0.0, 1.0], [10.0, 11.0], [-1.0, 3.0]])
    found = functional.group_advantage(scores)
    assert torch.allclose(found[:, 1], torch.full((3,), 0.5**0.5), atol=1e-4)
    assert torch.allclose(found.sum(1), torch.zeros(3), atol=1e-6)


@pytest.mark.parametrize("value", [0.0, 1.0, 0.1, 1e8])
def test_equal_scores_have_exactly_no_advantage(value: float) -> None:
    scores = torch.full((3, 7), value)
    assert functional.group_advantage(scores).count_nonzero() == 0
    assert not functional.informative_groups(scores).any()


def test_a_group_is_useful_between_its_bounds() -> None:
    scores = torch.tensor([[0.0, 0.0, 0.0, 1.0], [1.0, 1.0, 1.0, 0.0], [0.0, 1.0, 0.0, 1.0], [1.0, 1.0, 1.0, 1.0]])
    assert functional.informative_groups(scores).tolist() == [True, True, True, False]
    assert functional.informative_groups(scores, 0.3, 0.7).tolist() == [False, False, True, False]
    returns = scores * 5.0 + torch.tensor([0.0, 0.1, 0.2, 0.3])
    assert functional.informative_groups(returns, 0.3, 0.7, rate=scores).tolist() == [False, False, True, False]


def test_global_normalization_counts_decisions_only() -> None:
    returns, mask = torch.tensor([[1.0, 5.0], [3.0, 99.0]]), torch.tensor([[True, True], [True, False]])
    found = functional.globally_normalized(returns, mask)
    assert torch.allclose(found, torch.tensor([[-1.0, 1.0], [0.0, 0.0]]), atol=1e-6)  # mean 3, deviation 2


def test_episode_weights_let_every_episode_count_alike() -> None:
    episode = torch.tensor([0, 1, 1, 1, 0])
    elements = torch.tensor([4, 4, 4, 2, 1])
    weight = functional.episode_weights(episode, elements, 3)  # the third episode has no decision
    share = torch.zeros(3).index_add(0, episode, weight * elements)
    assert torch.allclose(share, torch.tensor([7.5, 7.5, 0.0]))
    assert torch.allclose(share.sum(), elements.sum().float())


def brute_returns(reward: Tensor, done: Tensor, discount: Tensor, mask: Tensor) -> Tensor:
    found = torch.zeros_like(reward)
    for n in range(reward.shape[1]):
        for t in range(len(reward)):
            if not mask[t, n]:
                continue
            factor = 1.0
            for later in range(t, len(reward)):
                if mask[later, n]:
                    found[t, n] += factor * reward[later, n]
                    factor *= float(discount[later, n])
                    if done[later, n]:
                        break
    return found


def test_returns_skip_waiting_rows_and_stop_at_ends() -> None:
    reward, discount = torch.randn(12, 9), torch.rand(12, 9)
    done, mask = torch.rand(12, 9) < 0.2, torch.rand(12, 9) < 0.7
    done &= mask
    found = functional.discounted_returns(reward, done, discount, mask)
    assert torch.allclose(found, brute_returns(reward, done, discount, mask), atol=1e-5)
