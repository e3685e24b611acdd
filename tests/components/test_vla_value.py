"""The value head: shapes, a start at zero, float32 under autocast, and the gradient that the backbone gets or not."""

import pytest
import torch
from RoboRenForce.components.vla_value import ValueHeadCfg
from RoboRenForce.networks.vlm import Prefix

B, H, D, S = 5, 4, 16, 3


def _prefix(seed=0):
    generator = torch.Generator().manual_seed(seed)
    mask = torch.ones(B, 6, dtype=torch.bool)
    mask[::2, 4:] = False
    tokens, queries, state = (
        torch.randn(*size, generator=generator, requires_grad=True) for size in ((B, 6, D), (B, H, D), (B, S))
    )
    return Prefix(tokens, mask, torch.zeros_like(mask), state, queries)


def _head(**options):
    head = ValueHeadCfg(**options).build(width=D, state_dim=S, chunk_size=H)
    with torch.no_grad():
        torch.nn.init.normal_(head.network.output_layer.weight)
    return head


variants = pytest.mark.parametrize("features", ["pooled", "queries"])
levels = pytest.mark.parametrize("per_action", [False, True])


@variants
@levels
def test_values_have_one_number_per_chunk_or_per_action_and_start_at_zero(features, per_action):
    fresh = ValueHeadCfg(features=features, per_action=per_action).build(width=D, state_dim=S, chunk_size=H)
    value = fresh(_prefix())
    assert value.shape == ((B, H) if per_action else (B,)) and not value.any()
    assert _head(features=features, per_action=per_action)(_prefix()).unique().numel() == value.numel()


@variants
@levels
@pytest.mark.parametrize("detach", [True, False])
def test_the_gradient_reaches_the_backbone_only_if_it_is_not_detached(features, per_action, detach):
    prefix = _prefix()
    head = _head(features=features, per_action=per_action, detach=detach)
    head(prefix).sum().backward()
    read = prefix.tokens if features == "pooled" else prefix.queries
    assert (read.grad is None) == detach
    assert all(parameter.grad.any() for parameter in head.parameters())


@variants
def test_values_are_float32_to_all_digits_under_autocast_and_of_half_precision_features(features):
    head, prefix = _head(features=features), _prefix()
    exact = head(prefix)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(head(prefix), exact)
    half = prefix.map(lambda tensor: tensor.bfloat16() if tensor.is_floating_point() else tensor)
    assert head(half).dtype == torch.float32
    torch.testing.assert_close(head(half), exact, atol=0.1, rtol=0.1)


def test_padding_does_not_change_the_value():
    head, prefix = _head(), _prefix()
    exact = head(prefix)
    noisy = prefix.detach()
    noisy.tokens = torch.where(prefix.mask.unsqueeze(-1), noisy.tokens, 1e3)
    torch.testing.assert_close(head(noisy), exact)


def test_a_value_learns_returns():
    head, prefix = _head(), _prefix().detach()
    returns = torch.linspace(-3, 50, B)
    optimizer = torch.optim.Adam(head.parameters(), 3e-3)
    for _ in range(200):
        optimizer.zero_grad()
        (head(prefix) - returns).square().mean().backward()
        optimizer.step()
    torch.testing.assert_close(head(prefix), returns, atol=0.3, rtol=0.02)


def test_a_backbone_without_queries_is_named():
    prefix = _prefix()
    prefix.queries = None
    with pytest.raises(ValueError, match="got 0 action query tokens, expected 4"):
        _head(features="queries")(prefix)
