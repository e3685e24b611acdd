"""The value head: shapes, a start at zero, float32 under autocast, and the gradient that the backbone gets or not."""

import openpi_cases
import pytest
import torch
from RoboRenForce.components.action_heads import RegressionHeadCfg
from RoboRenForce.components.vla_value import ValueHeadCfg
from RoboRenForce.configclass import ConfigError
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


def _judged(variant, **options):
    """A pi policy and a value that reads its expert."""
    policy, cfg = openpi_cases.small_policy(variant), ValueHeadCfg(features="expert", **options)
    value = cfg.build(width=cfg.width(64, policy.head), state_dim=openpi_cases.DIMS, chunk_size=openpi_cases.CHUNK)
    openpi_cases.fill(value)
    return policy, value


both = pytest.mark.parametrize("variant", ["pi0", "pi05"])


@both
def test_the_expert_is_read_at_one_fixed_chunk_before_its_output(variant):
    policy, value = _judged(variant)
    prefix, expert = policy.backbone(openpi_cases.inputs()), policy.head.network
    features = expert.features(prefix)
    assert features.shape == (3, openpi_cases.CHUNK, 32)
    zero = torch.zeros(3, openpi_cases.CHUNK, openpi_cases.DIMS)
    torch.testing.assert_close(-expert.action_out_proj(features), expert.predict(zero, torch.zeros(3), prefix))
    torch.testing.assert_close(
        value(prefix, policy.head),
        value.network(torch.cat([value.norm(features.mean(1)), prefix.state], 1)).squeeze(1),
    )


@both
def test_a_value_of_the_expert_depends_on_the_observation_and_on_nothing_that_is_drawn(variant):
    policy, value = _judged(variant)

    def judged(**changes):
        seen = openpi_cases.inputs()
        for name, tensor in changes.items():
            setattr(seen, name, tensor)
        features = policy.head.network.features(policy.backbone(seen)).mean(1)
        return value(policy.backbone(seen), policy.head), features

    seen = openpi_cases.inputs()
    (first, features), (again, _) = judged(), judged()
    assert torch.equal(first, again) and first.unique().numel() == 3
    changes = {"images": 255 - seen.images, "text_ids": seen.text_ids.flip(1)}
    if variant == "pi0":  # here pi0.5 has no state in its prompt: the value itself reads it
        changes["state"] = -seen.state
    for name, changed in changes.items():
        other, different = judged(**{name: changed})
        assert ((features - different).abs().amax(1) > 1e-3).all() and ((first - other).abs() > 1e-6).all(), name
    assert ((first - judged(state=-seen.state)[0]).abs() > 1e-6).all()


@both
@pytest.mark.parametrize("detach", [True, False])
@levels
def test_the_gradient_of_a_value_reaches_the_expert_and_what_it_attends_to(variant, detach, per_action):
    policy, value = _judged(variant, detach=detach, per_action=per_action)
    found = value(policy.backbone(openpi_cases.inputs()), policy.head)
    assert found.shape == ((3, openpi_cases.CHUNK) if per_action else (3,))
    found.sum().backward()
    reached = {name for name, p in policy.named_parameters() if p.grad is not None and p.grad.any()}
    assert all(parameter.grad.any() for parameter in value.parameters())
    if detach:
        assert not reached
    else:
        expert = {name for name, _ in policy.named_parameters() if name.startswith("head.network.gemma.")}
        silent = {name for name in expert - reached if not name.endswith("bias")}
        assert expert and not silent
        assert any(name.startswith("backbone.vision.") for name in reached)
    policy.zero_grad()
    value(policy.backbone(openpi_cases.inputs()), policy.head, detached=True).sum().backward()
    assert all(p.grad is None for p in policy.parameters())


def test_a_head_without_an_expert_is_refused():
    head = RegressionHeadCfg(chunk_size=H).build(width=D, state_dim=S, action_dim=2)
    with pytest.raises(ConfigError, match="RegressionHead has no action expert: take a policy of the pi family"):
        ValueHeadCfg(features="expert").width(D, head)
