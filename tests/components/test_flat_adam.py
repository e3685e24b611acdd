"""The optimizer step against torch's own Adam and clip_grad_norm_, and its refusal to apply a bad gradient."""

import copy

import pytest
import torch
from RoboRenForce.components.optimizer import FlatAdam, load_per_parameter_state, per_parameter_state
from torch import nn

pytestmark = pytest.mark.oracle


def two_parts() -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    return nn.Linear(3, 2).double(), nn.Linear(3, 1).double()


def loss_of(actor: nn.Module, critic: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return 100.0 * actor(x).square().mean() + critic(x).square().mean()


def test_equals_torch_adam_with_separate_clipping():
    actor, critic = two_parts()
    ref_actor, ref_critic = copy.deepcopy(actor), copy.deepcopy(critic)
    step = FlatAdam({"actor": actor.parameters(), "critic": critic.parameters()}, learning_rate=1e-2, max_grad_norm=1.0)
    reference = torch.optim.Adam([*ref_actor.parameters(), *ref_critic.parameters()], lr=float(step.lr))
    for _ in range(5):
        x = torch.randn(16, 3, dtype=torch.float64)
        step.backward(loss_of(actor, critic, x))
        norms = step.apply()
        reference.zero_grad()
        loss_of(ref_actor, ref_critic, x).backward()
        expected = nn.utils.clip_grad_norm_(ref_actor.parameters(), 1.0)
        nn.utils.clip_grad_norm_(ref_critic.parameters(), 1.0)
        reference.step()
        torch.testing.assert_close(norms["actor"], expected)
    for ours, theirs in zip(
        [*actor.parameters(), *critic.parameters()], [*ref_actor.parameters(), *ref_critic.parameters()], strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("rate", [1e-2, 0.3])
def test_decoupled_decay_moments_and_a_changing_rate_are_those_of_torch_adamw(rate: float):
    actor, critic = two_parts()
    ref = copy.deepcopy([actor, critic])
    options = {"betas": (0.7, 0.95), "eps": 1e-3, "weight_decay": 0.2}
    step = FlatAdam({"actor": actor.parameters(), "critic": critic.parameters()}, learning_rate=rate, **options)
    reference = torch.optim.AdamW([p for part in ref for p in part.parameters()], lr=float(step.lr), **options)
    for _ in range(6):
        x = torch.randn(16, 3, dtype=torch.float64)
        step.backward(loss_of(actor, critic, x))
        step.apply()
        reference.zero_grad()
        loss_of(*ref, x).backward()
        reference.step()
        step.lr.mul_(0.8)
        reference.param_groups[0]["lr"] *= 0.8
    for ours, theirs in zip(step.params, [p for part in ref for p in part.parameters()], strict=True):
        torch.testing.assert_close(ours.data, theirs.data, rtol=1e-10, atol=1e-12)


def test_a_bad_gradient_changes_nothing_and_is_counted():
    actor, critic = two_parts()
    step = FlatAdam({"actor": actor.parameters(), "critic": critic.parameters()}, learning_rate=1e-2, max_grad_norm=1.0)
    step.backward(loss_of(actor, critic, torch.ones(1, 3).double()))
    step.apply()
    weights, moments = copy.deepcopy([p.data for p in step.params]), step.state_dict()
    step.backward(loss_of(actor, critic, torch.full((1, 3), float("nan")).double()))
    step.apply()
    for now, then in zip(step.params, weights, strict=True):
        assert torch.equal(now.data, then)
    after = step.state_dict()
    assert torch.equal(after["step"], moments["step"])
    for name, values in moments["moments"].items():
        assert all(torch.equal(a, b) for a, b in zip(after["moments"][name], values, strict=True)), name
    assert step.skipped.item() == 1
    step.backward(loss_of(actor, critic, torch.ones(1, 3).double()))
    step.apply()
    assert not torch.equal(step.params[0].data, weights[0])  # and learning goes on


def test_the_learning_rate_tensor_is_obeyed_and_survives_a_checkpoint():
    actor, critic = two_parts()
    step = FlatAdam({"all": [*actor.parameters(), *critic.parameters()]}, learning_rate=1e-2)
    step.backward(loss_of(actor, critic, torch.ones(1, 3).double()))
    step.apply()
    step.lr.fill_(0.5)
    state = copy.deepcopy(step.state_dict())
    fresh_actor, fresh_critic = copy.deepcopy(actor), copy.deepcopy(critic)
    fresh = FlatAdam({"all": [*fresh_actor.parameters(), *fresh_critic.parameters()]}, learning_rate=1e-2)
    fresh.load_state_dict(state)
    for each, modules in ((step, (actor, critic)), (fresh, (fresh_actor, fresh_critic))):
        each.backward(loss_of(*modules, torch.ones(1, 3).double()))
        each.apply()
    assert fresh.lr.item() == 0.5
    for ours, theirs in zip(step.params, fresh.params, strict=True):
        assert torch.equal(ours, theirs)
    fresh.lr.zero_()
    frozen = [p.data.clone() for p in fresh.params]
    fresh.backward(loss_of(fresh_actor, fresh_critic, torch.ones(1, 3).double()))
    fresh.apply()
    assert all(torch.equal(a.data, b) for a, b in zip(fresh.params, frozen, strict=True))


def test_nothing_to_train_is_an_error():
    with pytest.raises(ValueError, match="frozen"):
        FlatAdam({"actor": nn.Linear(1, 1).requires_grad_(False).parameters()}, learning_rate=1e-3)


def test_state_converts_to_torch_adam_and_back():
    """A checkpoint for another library continues exactly as this optimizer would."""
    actor, critic = two_parts()
    step = FlatAdam({"actor": actor.parameters(), "critic": critic.parameters()}, learning_rate=1e-2)
    x = torch.ones(4, 3, dtype=torch.float64)
    step.backward(loss_of(actor, critic, x))
    step.apply()
    ref_actor, ref_critic = copy.deepcopy(actor), copy.deepcopy(critic)
    reference = torch.optim.Adam([*ref_actor.parameters(), *ref_critic.parameters()])
    reference.load_state_dict(per_parameter_state(step))
    reference.zero_grad()
    loss_of(ref_actor, ref_critic, x).backward()
    reference.step()
    again = FlatAdam({"actor": actor.parameters(), "critic": critic.parameters()}, learning_rate=1.0)
    load_per_parameter_state(again, copy.deepcopy(per_parameter_state(step)))
    again.backward(loss_of(actor, critic, x))
    again.apply()
    for ours, theirs in zip(again.params, [*ref_actor.parameters(), *ref_critic.parameters()], strict=True):
        torch.testing.assert_close(ours.data, theirs.data, rtol=1e-10, atol=1e-12)
