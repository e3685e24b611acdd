"""Dynamics models by themselves: units, bounds, heads, memory, and what the loss of a window is."""

from __future__ import annotations

import math

import pytest
import torch
from dynamics_cases import mlp_cfg, spec
from RoboRenForce.components import SystemDynamicsTransformerCfg
from RoboRenForce.components.system_dynamics import StateLayout, Steps, SystemDynamicsTransformer
from RoboRenForce.components.system_dynamics.gaussian import SoftBounds, Standardizer, gaussian_nll
from RoboRenForce.configclass import ConfigError
from RoboRenForce.networks import TransformerCfg

pytestmark = pytest.mark.oracle


def transformer_cfg(**options: object) -> SystemDynamicsTransformerCfg:
    trunk = TransformerCfg(dim=16, num_layers=2, num_heads=2, window=6)
    return SystemDynamicsTransformerCfg(**({"backbone_cfg": trunk, "history": 5, "forecast": 4} | options))


def window(length: int, rows: int) -> Steps:
    state = torch.randn(length + 1, rows, 4)
    action, reward = torch.randn(length, rows, 1), torch.randn(length, rows)
    return Steps(state[:-1], action, reward, torch.zeros(length, rows), state[1:])


def test_soft_bounds_hold_and_let_the_variance_come_back() -> None:
    bounds = SoftBounds(1, -10.0, 0.5)
    raw = torch.tensor([[-40.0], [-3.0], [40.0]], requires_grad=True)
    log_var = bounds(raw)
    high = 0.5 - math.log1p(math.exp(0.5 + 3.0))
    expected = -10.0 + math.log1p(math.exp(high + 10.0))
    torch.testing.assert_close(log_var.flatten(), torch.tensor([-10.0, expected, 0.5]), atol=1e-4, rtol=0)
    near = torch.tensor([[-12.0], [3.0]], requires_grad=True)
    (gradient,) = torch.autograd.grad(bounds(near).sum(), near)
    assert (gradient > 0.05).all()
    assert bounds.penalty().item() == 10.5


def test_the_likelihood_and_its_beta_weight() -> None:
    mean, target = torch.tensor([1.0]), torch.tensor([3.0])
    log_var = torch.tensor([math.log(4.0)], requires_grad=True)
    assert float(gaussian_nll(mean, log_var, target)) == pytest.approx(1.0 + math.log(4.0))
    weighted = gaussian_nll(mean, log_var, target, beta=0.5)
    assert float(weighted) == pytest.approx(2.0 * (1.0 + math.log(4.0)))
    (gradient,) = torch.autograd.grad(weighted, log_var)
    assert float(gradient) == pytest.approx(2.0 * (1.0 - 1.0))  # the weight itself carries none
    # The floor of the negative log-likelihood at a standard deviation of 0.1, per dimension.
    floor = 0.5 * (1.0 + math.log(0.01) + math.log(2 * math.pi))
    assert floor == pytest.approx(-0.883647, abs=1e-6)


def test_a_constant_column_keeps_its_scale() -> None:
    rows = torch.stack([torch.tensor([1.0, 3.0]), torch.tensor([7.0, 7.0])], 1)
    standardizer = Standardizer(2)
    standardizer.fit(rows)
    torch.testing.assert_close(standardizer(rows), torch.tensor([[-1.0, 0.0], [1.0, 0.0]]))
    torch.testing.assert_close(standardizer.inverse(standardizer(rows)), rows)


def test_columns_have_one_meaning_each() -> None:
    layout = StateLayout(spec(), ["policy"], {"policy": [3]}, {"policy": [0]})
    assert layout.predicted.tolist() == [1, 2] and layout.contacts.tolist() == [3]
    with pytest.raises(ConfigError, match=r"columns \[1\] of the state are contacts and held at once"):
        StateLayout(spec(), ["policy"], {"policy": [1]}, {"policy": [1]})
    with pytest.raises(ConfigError, match=r"policy.held.policy has the columns \[4\], expected 0 to 3"):
        StateLayout(spec(), ["policy"], {}, {"policy": [4]})
    with pytest.raises(ConfigError, match=r"policy.held names the group 'polcy'"):
        StateLayout(spec(), ["policy"], {}, {"polcy": [1]})


@pytest.mark.parametrize("cfg", [mlp_cfg, transformer_cfg])
def test_held_columns_stay_and_contacts_are_0_or_1(cfg) -> None:
    model = cfg(contacts={"policy": [3]}, held={"policy": [0]}, termination=True).build(spec=spec(), groups=["policy"])
    state, action, member = torch.randn(64, 4), torch.randn(64, 1), torch.zeros(64, dtype=torch.int64)
    imagined = model.imagine(state, action, model.memory(64), member)
    assert torch.equal(imagined.state[:, 0], state[:, 0])
    assert set(imagined.state[:, 3].tolist()) <= {0.0, 1.0}
    assert not torch.equal(imagined.state[:, 1], state[:, 1]) and imagined.terminated.dtype == torch.bool


def test_the_loss_sums_over_members_and_adds_every_head() -> None:
    torch.manual_seed(0)
    model = mlp_cfg(termination=True, contacts={"policy": [3]}).build(spec=spec(), groups=["policy"])
    steps = window(1, 7)
    contacts = steps.next_state.round().clamp(0, 1)
    parts = (steps.state, steps.action, steps.reward, torch.ones(1, 7), contacts)
    steps = Steps(*(x.squeeze(0).expand(3, *x.shape[1:]) for x in parts))
    loss, metrics = model.loss(steps)
    output = model.network.forward_members(model.standardized_inputs(steps.state, steps.action))
    mean, log_var = model.gaussian(output)
    target = torch.cat([steps.next_state[..., :3] - steps.state[..., :3], steps.reward.unsqueeze(-1)], -1)
    nll = ((mean - target) ** 2 / log_var.exp() + log_var).mean((1, 2)).sum()
    contact = -torch.where(steps.next_state[..., 3] > 0, output[..., 8].sigmoid(), 1 - output[..., 8].sigmoid()).log()
    terminated = -output[..., 9].sigmoid().log()
    penalty = 0.01 * (model.bounds.high - model.bounds.low).sum()
    torch.testing.assert_close(loss, nll + contact.mean(1).sum() + terminated.mean(1).sum() + penalty)
    assert set(metrics) == {"Loss/nll", "Loss/contacts", "Loss/termination"}


def test_members_learn_apart() -> None:
    model = mlp_cfg().build(spec=spec(), groups=["policy"])
    steps = window(3, 9)
    model.loss(steps)[0].backward()
    together = [layer.weight.grad.clone() for layer in model.network.layers if hasattr(layer, "weight")]
    model.zero_grad()
    changed = Steps(*(torch.cat([x[:1], 5.0 * x[1:]]) for x in vars(steps).values() if x is not None))
    model.loss(changed)[0].backward()
    for before, layer in zip(together, [x for x in model.network.layers if hasattr(x, "weight")], strict=True):
        assert torch.equal(before[0], layer.weight.grad[0]) and not torch.equal(before[1], layer.weight.grad[1])


def test_an_imagined_step_is_a_sample_of_the_chosen_elite() -> None:
    model = mlp_cfg().build(spec=spec(), groups=["policy"])
    model.elites.copy_(torch.tensor([2, 1]))
    state, action = torch.randn(1, 4).expand(20_000, 4), torch.zeros(20_000, 1)
    output, _ = model.outputs(model.standardized_inputs(state[:1], action[:1]), {})
    mean, log_var = model.gaussian(output)
    for place, member in ((0, 2), (1, 1)):
        imagined = model.imagine(state, action, {}, torch.full((20_000,), place))
        torch.testing.assert_close(imagined.state.mean(0), state[0] + mean[member, 0, :4], atol=0.05, rtol=0)
        torch.testing.assert_close(imagined.state.std(0), (0.5 * log_var[member, 0, :4]).exp(), atol=0.05, rtol=0)
    spread = mean[[2, 1], 0, :4].std(0, correction=0).sum()
    torch.testing.assert_close(imagined.disagreement, spread.expand(20_000))
    both = model.imagine(state[:1], action[:1], {}, torch.zeros(1, dtype=torch.int64), deterministic=True)
    torch.testing.assert_close(both.state[0], state[0] + mean[[2, 1], 0, :4].mean(0))


def test_step_by_step_equals_a_whole_sequence_and_history_ends_with_the_episode() -> None:
    model = transformer_cfg().build(spec=spec(), groups=["policy"])
    steps = window(5, 3)
    inputs = model.standardized_inputs(steps.state, steps.action)
    whole, _ = model.network(inputs, model.network.initial_state(3))
    memory = model.memory(3)
    for k in range(5):
        output, memory = model.outputs(inputs[k], memory)
        torch.testing.assert_close(output, model._members(whole[k]), atol=1e-5, rtol=1e-5)
    starts = torch.zeros(5, 3, dtype=torch.bool)
    starts[3] = True
    begins = torch.tensor([False, False, True])
    remembered = model.remember(steps.state, steps.action, starts, begins)["cache"]
    alone = model.remember(steps.state[3:], steps.action[3:], starts[3:], begins)["cache"]
    torch.testing.assert_close(remembered, alone, atol=1e-5, rtol=1e-5)
    assert not remembered[2].any() and remembered[0].any()


def test_after_its_history_a_window_is_read_from_predictions() -> None:
    """Recorded states after the history enter as targets alone; gradients flow through the predicted ones."""
    model: SystemDynamicsTransformer = transformer_cfg().build(spec=spec(), groups=["policy"])
    steps = window(model.cfg.length, 2)
    outputs = model.forecast(steps, deterministic=True)
    other = steps.state.clone()
    other[5:] += 3.0
    changed = Steps(other, steps.action, steps.reward, steps.terminated, steps.next_state)
    assert torch.equal(model.forecast(changed, deterministic=True), outputs)
    last = steps.action[4].clone().requires_grad_()
    actions = torch.cat([steps.action[:4], last.unsqueeze(0), steps.action[5:]])
    again = Steps(steps.state, actions, steps.reward, steps.terminated, steps.next_state)
    (gradient,) = torch.autograd.grad(model.forecast(again, deterministic=True)[:, -1].sum(), last)
    assert gradient.any()


def test_what_is_not_valid_enters_no_loss() -> None:
    model = transformer_cfg(bounds_weight=0.0, termination=True, num_members=2).build(spec=spec(), groups=["policy"])
    steps = window(model.cfg.length, 4)
    steps.valid = torch.ones_like(steps.reward)
    steps.valid[2:, 1] = 0.0
    torch.manual_seed(1)
    loss, _ = model.loss(steps)
    steps.next_state, steps.reward = steps.next_state.clone(), steps.reward.clone()
    steps.next_state[2:, 1] += 50.0
    steps.reward[2:, 1] -= 9.0
    torch.manual_seed(1)
    again, _ = model.loss(steps)
    assert torch.equal(loss, again)
