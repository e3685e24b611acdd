"""What holds for every head: masks, precision, repeatable draws, checkpoints, no read of the device while acting."""

import copy

import pytest
import torch
from head_cases import CASES, H, random_chunks, trained_looking
from prefixes import build, prefix_for
from RoboRenForce.components.action_heads import DiTHeadCfg, RegressionHeadCfg

every_head = pytest.mark.parametrize("name", CASES)


def _rng(seed=1):
    return torch.Generator().manual_seed(seed)


def _gradients(head, loss):
    head.zero_grad()
    loss.mean.backward()
    return {name: parameter.grad.clone() for name, parameter in head.named_parameters() if parameter.requires_grad}


@every_head
@pytest.mark.parametrize("poison", [1e6, float("nan")])
def test_steps_and_dimensions_that_are_not_valid_change_neither_losses_nor_gradients(name, poison):
    head, prefix = trained_looking(name)
    other, _ = trained_looking(name)
    other.load_state_dict(copy.deepcopy(head.state_dict()))
    with torch.no_grad():
        next(other.parameters()).add_(0.1)
    mask = torch.ones(6, H, 2, dtype=torch.bool)
    mask[0, 2:], mask[1, :, 1], mask[2] = False, False, False
    clean = random_chunks(6)
    poisoned = torch.where(mask, clean, poison)
    for function in (
        lambda actions: head.loss(prefix, actions, mask, generator=_rng()),
        lambda actions: head.divergence(prefix, other, prefix, actions, mask, generator=_rng()),
    ):
        expected, got = function(clean), function(poisoned)
        assert torch.equal(expected.total, got.total) and torch.equal(expected.count, got.count)
        assert expected.total.dtype == expected.count.dtype == torch.float32
        assert expected.total.abs() > 0
        expected, got = _gradients(head, expected), _gradients(head, got)
        assert all(torch.equal(expected[key], got[key]) for key in expected)


@every_head
def test_nothing_valid_is_a_loss_of_zero_without_gradient(name):
    head, prefix = trained_looking(name)
    loss = head.loss(prefix, random_chunks(6), torch.zeros(6, H, 2, dtype=torch.bool))
    assert loss.total == 0 and loss.mean == 0
    assert not any(gradient.any() for gradient in _gradients(head, loss).values())


@every_head
def test_every_parameter_that_is_trained_gets_a_gradient(name):
    head, prefix = trained_looking(name)  # DDP waits forever for one that gets none
    loss = head.loss(prefix, random_chunks(6), torch.ones(6, H, 2, dtype=torch.bool))
    loss.mean.backward()
    assert not [key for key, parameter in head.named_parameters() if parameter.requires_grad and parameter.grad is None]


@every_head
def test_actions_do_not_depend_on_padding_tokens_or_on_other_rows(name):
    head, prefix = trained_looking(name)
    noisy = copy.deepcopy(prefix)
    noisy.tokens[~prefix.mask] = 1e3
    for layer in noisy.layers:
        layer[~prefix.mask] = 1e3
    actions, _ = head.act(prefix, generator=_rng())
    assert actions.shape == (6, H, 2) and actions.dtype == torch.float32
    torch.testing.assert_close(head.act(noisy, generator=_rng())[0], actions)
    if not isinstance(head.cfg, (type(CASES["flow"]), type(CASES["diffusion"]))):  # their noise is drawn by row
        torch.testing.assert_close(head.act(prefix.rows(slice(2, 4)), generator=_rng())[0], actions[2:4])


@every_head
def test_draws_repeat_with_the_generator_and_differ_without(name):
    head, prefix = trained_looking(name)
    actions, mask = random_chunks(6), torch.ones(6, H, 2, dtype=torch.bool)
    first, second = (head.act(prefix, deterministic=False, generator=_rng())[0] for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(first, head.act(prefix, deterministic=False)[0])
    first, second = (head.loss(prefix, actions, mask, generator=_rng()).total for _ in range(2))
    assert torch.equal(first, second)


@every_head
def test_the_divergence_from_itself_is_zero_and_from_others_is_not(name):
    head, prefix = trained_looking(name)
    other, _ = trained_looking(name)
    other.load_state_dict(copy.deepcopy(head.state_dict()))
    actions, mask = random_chunks(6), torch.ones(6, H, 2, dtype=torch.bool)
    assert head.divergence(prefix, other, prefix, actions, mask).total.abs() < 1e-5
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(0.9)
    result = head.divergence(prefix, other, prefix, actions, mask)
    assert result.total > 1e-4
    result.mean.backward()
    assert all(parameter.grad is None for parameter in other.parameters())


@every_head
def test_a_state_dict_of_tensors_and_a_deep_copy_act_alike(name, tmp_path):
    head, prefix = trained_looking(name)
    torch.save(head.state_dict(), tmp_path / "head.pt")
    loaded = build(CASES[name])
    loaded.load_state_dict(torch.load(tmp_path / "head.pt", weights_only=True))
    expected = head.act(prefix, generator=_rng())[0]
    for other in (loaded, copy.deepcopy(head)):
        assert torch.equal(other.act(prefix, generator=_rng())[0], expected)


@every_head
def test_bf16_autocast_and_bf16_features_keep_losses_and_actions_in_float32(name):
    head, prefix = trained_looking(name)
    half = prefix.map(lambda tensor: tensor.bfloat16() if tensor.is_floating_point() else tensor)
    actions, mask = random_chunks(6), torch.ones(6, H, 2, dtype=torch.bool)
    exact = head.loss(prefix, actions, mask, generator=_rng())
    for features, autocast in ((half, False), (prefix, True), (half, True)):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = head.loss(features, actions, mask, generator=_rng())
            chosen, record = head.act(features, deterministic=False, generator=_rng())
        assert loss.total.dtype == chosen.dtype == torch.float32
        torch.testing.assert_close(loss.mean, exact.mean, rtol=0.05, atol=0.05)
        if record:
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                assert head.evaluate(features, record).log_prob.dtype == torch.float32


@every_head
def test_acting_and_learning_never_read_a_value_back_from_the_device(name):
    """On the meta device, where tensors have no values, any read of one raises."""
    head, prefix = trained_looking(name)
    head, prefix = head.to("meta"), prefix.map(lambda tensor: tensor.to("meta"))
    actions, mask = (torch.empty(6, H, 2, device="meta") for _ in range(2))
    for deterministic in (True, False):
        chosen, record = head.act(prefix, deterministic=deterministic)
        assert chosen.shape == (6, H, 2)
        if record:
            head.evaluate(prefix, record)
    if name != "fast":  # byte-pair encoding happens on the host
        head.loss(prefix, actions, mask.bool()).mean.backward()
        head.divergence(prefix, head, prefix, actions, mask.bool())


@pytest.mark.parametrize("cfg", [RegressionHeadCfg(chunk_size=H), CASES["flow"], CASES["flow-dit"]])
def test_a_robot_without_proprioception_is_served(cfg):
    head, prefix = build(cfg, state_dim=0), prefix_for(cfg, 3, state_dim=0)
    assert head.act(prefix)[0].shape == (3, H, 2)


def test_a_backbone_without_the_layers_that_a_head_reads_is_named():
    head = build(CASES["flow-layerwise"])
    with pytest.raises(ValueError, match="got the hidden states of 0 layers, expected 2"):
        head.act(prefix_for(DiTHeadCfg(), 2))
