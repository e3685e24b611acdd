"""The regression head: shapes, the normal distribution on top, and the pull to a reference in closed form."""

import pytest
import torch
from prefixes import build, prefix_for
from RoboRenForce.components.action_heads import RegressionHeadCfg
from RoboRenForce.networks import MLPCfg
from torch.distributions import Normal, kl_divergence


@pytest.mark.parametrize("features", ["queries", "pooled"])
def test_it_predicts_a_chunk_and_its_records_give_the_log_probability_again(features):
    cfg = RegressionHeadCfg(features=features, chunk_size=4, std=0.3)
    head, prefix = build(cfg), prefix_for(cfg, 6)
    mean, record = head.act(prefix)
    assert mean.shape == (6, 4, 2) and record == {}
    actions, record = head.act(prefix, deterministic=False, generator=torch.Generator().manual_seed(1))
    again, _ = head.act(prefix, deterministic=False, generator=torch.Generator().manual_seed(1))
    assert torch.equal(actions, again)
    evaluation = head.evaluate(prefix, record)
    torch.testing.assert_close(evaluation.log_prob, Normal(mean, 0.3).log_prob(actions))
    torch.testing.assert_close(evaluation.entropy, Normal(mean, 0.3).entropy())


@pytest.mark.parametrize(
    ("loss", "expected"),
    [("l1", lambda e: e.abs()), ("l2", lambda e: e**2), ("nll", lambda e: -Normal(0.0, 0.1).log_prob(e))],
)
def test_the_loss_is_the_mean_over_valid_elements(loss, expected):
    cfg = RegressionHeadCfg(loss=loss, chunk_size=3)
    head, prefix = build(cfg), prefix_for(cfg, 4)
    actions, mask = torch.randn(4, 3, 2), torch.rand(4, 3, 2) < 0.5
    result = head.loss(prefix, actions, mask)
    torch.testing.assert_close(result.mean, expected(head.act(prefix)[0] - actions)[mask].mean())
    assert result.count == mask.sum()


def test_the_divergence_is_the_kl_of_the_normal_distributions_and_zero_at_equality():
    cfg = RegressionHeadCfg(chunk_size=3, std=0.2)
    head, other, prefix = build(cfg), build(cfg.replace(std=0.5)), prefix_for(cfg, 4)
    mask = torch.ones(4, 3, 2, dtype=torch.bool)
    actions = torch.zeros(4, 3, 2)
    exact = kl_divergence(Normal(head.mean(prefix), 0.2), Normal(other.mean(prefix), 0.5))
    torch.testing.assert_close(head.divergence(prefix, other, prefix, actions, mask).total, exact.sum())
    assert head.divergence(prefix, head, prefix, actions, mask).total.abs() < 1e-6


@pytest.mark.parametrize("beta", [0.0, 0.1, 1.0])
def test_fine_tuning_with_a_kl_term_settles_between_demonstrations_and_reference(beta):
    """Minimum of (mu - y)^2 / 2 sigma^2 + beta (mu - mu_ref)^2 / 2 sigma^2 (algorithms.md 6.2)."""
    cfg = RegressionHeadCfg(features="pooled", chunk_size=1, loss="nll", network=MLPCfg(hidden_features=[]))
    head, reference, prefix = build(cfg), build(cfg), prefix_for(cfg, 1)
    demonstrated = torch.tensor([0.8, -0.4]).view(1, 1, 2).repeat(2, 1, 1) + torch.tensor([0.1, -0.1]).view(2, 1, 1)
    both, mask = prefix.repeat(2), torch.ones(2, 1, 2, dtype=torch.bool)
    optimizer = torch.optim.LBFGS(head.network.parameters(), max_iter=100, tolerance_grad=1e-9, tolerance_change=0)

    def closure():
        optimizer.zero_grad()
        loss = head.loss(both, demonstrated, mask).mean
        loss = loss + beta * head.divergence(both, reference, both, demonstrated, mask).mean
        loss.backward()
        return loss

    optimizer.step(closure)
    expected = (demonstrated.mean(0, keepdim=True) + beta * reference.mean(prefix)) / (1 + beta)
    torch.testing.assert_close(head.mean(prefix), expected, atol=1e-4, rtol=0)


def test_a_backbone_without_queries_and_a_reference_of_another_kind_are_named():
    cfg = RegressionHeadCfg(chunk_size=3)
    with pytest.raises(ValueError, match=r"got 0 action query tokens, expected 3"):
        build(cfg).act(prefix_for(RegressionHeadCfg(features="pooled"), 2))
