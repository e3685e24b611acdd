"""Losses of the offline algorithms against plain re-derivations, a test for each way that implementations go wrong."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from offline_cases import GAMMA, batch, make, recorded, spec
from RoboRenForce import algorithms, components, networks
from RoboRenForce.buffer import DatasetError, PrioritizedReplayBufferCfg, ReplayBatch, ReplayBufferCfg
from torch import Tensor
from torch.distributions import Normal, TanhTransform, TransformedDistribution

pytestmark = pytest.mark.oracle


def q_of(critic: Any, found: ReplayBatch, action: Tensor | None = None) -> Tensor:
    """Values of both critics `(2, B)` in the states of `found`."""
    return critic(found.obs, found.action if action is None else action)


# --- behavior cloning ------------------------------------------------------------------------------------------------


def test_bc_of_a_deterministic_policy_is_the_squared_error_summed_over_actions() -> None:
    bc, found = make(algorithms.BCCfg()), batch()
    said = bc.actor(found.obs)[0].mode.detach()
    expected = sum(float((said[i] - found.action[i]).pow(2).sum()) for i in range(32)) / 32
    assert float(bc.policy_loss(found).detach()) == pytest.approx(expected, rel=1e-5)


def test_bc_of_a_normal_policy_is_the_negative_log_likelihood() -> None:
    policy = components.ActorPackCfg(actor_cfg=components.StateIndStdActorCfg(init_std=0.3, normalizer_cfg=None))
    bc, found = make(algorithms.BCCfg(), policy), batch()
    expected = -Normal(bc.actor(found.obs)[0].mode, 0.3).log_prob(found.action).sum(-1).mean()
    assert float(bc.policy_loss(found).detach()) == pytest.approx(float(expected.detach()), rel=1e-5)


# --- IQL -------------------------------------------------------------------------------------------------------------


RATE = 0.01


def iql(**options: Any) -> Any:
    return make(algorithms.IQLCfg(actor_final_learning_rate=1.0, **options))


def iql_by_hand(learner: Any, batches: list[ReplayBatch], *, late_value: bool = False) -> Any:
    """Gradient steps with torch's own Adam on a copy, part after part; `late_value` reads V(s') when V has moved."""
    nets = copy.deepcopy({"value": learner.value, "critic": learner.critic, "actor": learner.actor})
    target = copy.deepcopy(learner.target_critic)
    adam = {name: torch.optim.Adam(net.parameters(), lr=RATE) for name, net in nets.items()}

    def step(name: str, loss: Tensor) -> None:
        adam[name].zero_grad()
        loss.backward()
        adam[name].step()

    for found in batches:
        next_value = nets["value"](found.next_obs)[0].detach()
        advantage = torch.minimum(*q_of(target, found)).detach() - nets["value"](found.obs)[0]
        step("value", torch.mean(torch.abs(0.7 - (advantage < 0).float()) * advantage**2))
        if late_value:
            next_value = nets["value"](found.next_obs)[0].detach()
        wanted = found.reward + found.discount * next_value
        step("critic", sum(torch.mean((q - wanted) ** 2) for q in q_of(nets["critic"], found)) / 2)
        weight = torch.exp(3.0 * advantage.detach()).clamp(max=100.0)
        mean, std = nets["actor"](found.obs)[0].mode, nets["actor"].std.param.exp()
        step("actor", -torch.mean(weight * Normal(mean, std).log_prob(found.action).sum(-1)))
        for old, new in zip(target.parameters(), nets["critic"].parameters(), strict=True):
            old.data = 0.995 * old.data + 0.005 * new.data
    return {**nets, "target_critic": target}


def largest_difference(one: Any, other: Any) -> float:
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return max(float((a - b).abs().max().detach()) for a, b in pairs)


def test_iql_takes_the_steps_of_the_paper() -> None:
    """V(s') and the advantage are those before V learns, u takes the smaller target, the target follows at the end."""
    torch.set_default_dtype(torch.float64)
    try:
        learner, batches = iql(actor_learning_rate=RATE, critic_learning_rate=RATE), [batch() for _ in range(5)]
        with torch.no_grad():
            for tensor in learner.target_critic.parameters():
                tensor.add_(0.3 * torch.randn_like(tensor))
        expected, late = iql_by_hand(learner, batches), iql_by_hand(learner, batches, late_value=True)
        for found in batches:
            learner.train_step(found, update_actor=True)
    finally:
        torch.set_default_dtype(torch.float32)
    for name, network in expected.items():
        assert largest_difference(getattr(learner, name), network) < 1e-8, name
    assert largest_difference(expected["critic"], late["critic"]) > 1e-4  # the wrong order would show


def test_iql_bounds_its_weights() -> None:
    learner, found = iql(), batch(2)
    loss, metrics = learner.policy_loss(found, torch.tensor([2.0, -1.0]))
    nll = -learner.actor(found.obs)[0].log_prob(found.action)
    assert float(metrics["Policy/advantage_weight"]) == pytest.approx((100.0 + math.exp(-3.0)) / 2)
    assert float(loss.detach()) == pytest.approx(
        float((100.0 * nll[0] + math.exp(-3.0) * nll[1]).detach() / 2), rel=1e-5
    )


def test_the_bound_of_iqls_weights_is_the_one_that_was_set() -> None:
    learner, found = iql(beta=2.0, max_weight=5.0), batch()
    advantage = torch.linspace(-2.0, 2.0, 32)
    log_prob = learner.actor(found.obs)[0].log_prob(found.action)
    weight = torch.tensor([min(math.exp(2.0 * a), 5.0) for a in advantage.tolist()])
    assert (weight == 5.0).any() and (weight < 1.0).any()
    torch.testing.assert_close(learner.policy_loss(found, advantage)[0], -(weight * log_prob).mean())


def test_the_policy_of_iql_sends_no_gradient_into_the_values() -> None:
    learner, found = iql(), batch()
    _, advantage, _ = learner.critic_loss(found)
    loss, _ = learner.policy_loss(found, advantage)
    others = [*learner.critic.parameters(), *learner.value.parameters()]
    assert all(grad is None for grad in torch.autograd.grad(loss, others, allow_unused=True))


def test_the_learning_rate_of_iqls_actor_falls_on_a_cosine_and_that_of_its_critics_does_not() -> None:
    data = recorded()
    context = algorithms.RunContext(spec=spec(), device=torch.device("cpu"), data=data, max_updates=8)
    learner = algorithms.IQLCfg(batch_size=8).build(policy=components.ActorQVPackCfg(), context=context)
    rates = []
    for _ in range(8):
        learner.update()
        rates.append(float(learner.actor_optimizer.adam.lr))
    expected = [3e-4 * 0.5 * (1.0 + math.cos(math.pi * step / 8)) for step in range(8)]
    assert rates == pytest.approx(expected, rel=1e-5)
    assert float(learner.critic_optimizer.adam.lr) == pytest.approx(3e-4)


def test_going_on_online_iql_refuses_priorities_that_it_would_never_set() -> None:
    online = algorithms.RunContext(spec=spec(), device=torch.device("cpu"))
    policy = components.ActorQVPackCfg()
    uniform, prioritized = ReplayBufferCfg(capacity=64), PrioritizedReplayBufferCfg(capacity=64)
    assert len(algorithms.IQLCfg(replay=uniform).build(policy=policy, context=online).experience.buffer) == 0
    with pytest.raises(ValueError, match=r"IQL has no TD errors.*use replay=ReplayBufferCfg"):
        algorithms.IQLCfg(replay=prioritized).build(policy=policy, context=online)


def test_iql_insists_on_values() -> None:
    policy = components.ActorQVPackCfg(critic_cfg=components.QNetworkCfg(head_cfg=components.QuantileHeadCfg()))
    with pytest.raises(ValueError, match=r"IQL learns values.*QuantileHead.*ScalarHeadCfg"):
        make(algorithms.IQLCfg(), policy)
    policy = components.ActorQVPackCfg(critic_cfg=components.QNetworkCfg(backbone_cfg=networks.FlashNetCfg(width=8)))
    with pytest.raises(ValueError, match=r"batch normalization needs.*use MLPCfg"):
        make(algorithms.IQLCfg(), policy)


# --- CQL -------------------------------------------------------------------------------------------------------------


def squashed_normal(actor: Any, obs: Any) -> TransformedDistribution:
    said = actor(obs)[0]
    return TransformedDistribution(Normal(said.mean, said.std), TanhTransform(cache_size=1))


def test_the_conservative_term_by_hand() -> None:
    """All sampled actions are scored in s and corrected by the density of where they come from."""
    learner, found = make(algorithms.CQLCfg(num_actions=4, conservative_temperature=0.5)), batch(5)
    torch.manual_seed(3)
    actions, density = learner.critic_term.sample_actions(found)
    torch.manual_seed(3)
    term, metrics = learner.critic_term.gap(found)
    assert actions.shape == (12, 5, 2)
    here, there = squashed_normal(learner.actor, found.obs), squashed_normal(learner.actor, found.next_obs)
    assert torch.allclose(density[:4], torch.full((4, 5), 2 * math.log(0.5)))
    assert torch.allclose(density[4:8], here.log_prob(actions[4:8]).sum(-1).detach(), atol=1e-3)
    assert torch.allclose(density[8:], there.log_prob(actions[8:]).sum(-1).detach(), atol=1e-3)
    for member in range(2):
        total = 0.0
        for row in range(5):
            state = {"policy": found.obs["policy"][row : row + 1].expand(12, 3)}
            values = learner.critic(state, actions[:, row])[member].detach()
            soft = 0.5 * math.log(
                sum(math.exp(float(v - d) / 0.5) for v, d in zip(values, density[:, row], strict=True))
            )
            total += soft - float(q_of(learner.critic, found)[member, row].detach())
        assert float(term[member].detach()) == pytest.approx(total / 5, rel=1e-4)
    data, policy = (
        q_of(learner.critic, found),
        learner.critic({"policy": found.obs["policy"].expand(4, 5, 3)}, actions[4:8]),
    )
    assert float(metrics["Policy/q_gap"]) == pytest.approx(float((data.mean() - policy.mean()).detach()), rel=1e-4)
    uniform = learner.critic({"policy": found.obs["policy"].expand(4, 5, 3)}, actions[:4])
    gap = float((data.mean() - uniform.mean()).detach())
    assert float(metrics["Policy/q_gap_random"]) == pytest.approx(gap, rel=1e-4)


def test_the_sampled_actions_carry_no_gradient() -> None:
    learner, found = make(algorithms.CQLCfg()), batch()
    term, _ = learner.critic_term.gap(found)
    assert all(g is None for g in torch.autograd.grad(term.sum(), list(learner.actor.parameters()), allow_unused=True))


def test_the_soft_maximum_estimates_an_integral_over_all_actions() -> None:
    """With Q = -4 (a - 0.2)^2 the mean of exp(Q - log q) over all sources is the integral of exp Q over [-1, 1]."""
    learner, found = make(algorithms.CQLCfg(num_actions=20_000), actions=1), batch(1, actions=1)
    scale = math.sqrt(math.pi) / 4.0
    integral = scale * (math.erf(2.0 * 0.8) + math.erf(2.0 * 1.2))
    actions, density = learner.critic_term.sample_actions(found)
    weights = (-4.0 * (actions.squeeze(-1) - 0.2).square() - density).exp()
    for source in weights.split(20_000):
        assert float(source.mean()) == pytest.approx(integral, rel=0.03)


def test_cql_is_sac_with_the_weighted_term_of_every_critic_and_without_entropy_in_the_target() -> None:
    learner, found = make(algorithms.CQLCfg()), batch()
    torch.manual_seed(5)
    loss, _, _ = learner.critic_loss(found)
    torch.manual_seed(5)
    next_action, _ = learner.actor(found.next_obs)[0].rsample_with_log_prob()
    target = found.reward + found.discount * learner.target_critic(found.next_obs, next_action).amin(0)
    plain = (q_of(learner.critic, found) - target).square().mean(1).sum()
    term, _ = learner.critic_term.gap(found)
    assert float(loss.detach()) == pytest.approx(float((plain + 10.0 * term.sum()).detach()), rel=1e-5)


def test_importance_weights_of_a_replay_are_in_the_whole_loss_of_cqls_critics() -> None:
    learner, found = make(algorithms.CQLCfg()), batch()
    results = []
    for weight in (torch.ones(32), torch.full((32,), 0.25)):
        torch.manual_seed(5)
        loss, _, metrics = learner.critic_loss(replace(found, weight=weight))
        results.append((float(loss.detach()), float(metrics["Loss/conservative"])))
    assert results[1] == pytest.approx((results[0][0] / 4, results[0][1]), rel=1e-5)


def test_the_multiplier_grows_above_the_target_gap_and_shrinks_below() -> None:
    for target_gap, direction in ((-100.0, 1.0), (100.0, -1.0)):
        learner, found = make(algorithms.CQLCfg(target_gap=target_gap)), batch()
        before = float(learner.critic_term.multiplier().detach())
        metrics = learner.train_step(found, update_actor=True)
        term = learner.critic_term.multiplier.loss(metrics["Loss/conservative"])
        assert direction * (float(learner.critic_term.multiplier().detach()) - before) > 0.0
        expected = -float(learner.critic_term.multiplier().detach()) * (
            float(metrics["Loss/conservative"]) - target_gap
        )
        assert float(term.detach()) == pytest.approx(expected, rel=1e-5)
        assert float(learner.critic_term.weight()) == pytest.approx(
            10.0 * float(learner.critic_term.multiplier().detach()), rel=1e-5
        )
        assert {"multiplier", "multiplier_optimizer"} <= learner.parts().keys()


# --- TD3+BC and ReBRAC -----------------------------------------------------------------------------------------------


def test_td3_bc_by_hand() -> None:
    """The first critic alone; lambda is a constant to the gradient; squared errors are averaged over actions."""
    learner, found = make(algorithms.TD3BCCfg()), batch()
    loss, _ = learner.policy_loss(found)
    action = learner.actor(found.obs)[0].mode
    value = q_of(learner.critic, found, action)[0]
    scale = 2.5 / float(value.abs().mean().detach())
    expected = -scale * value.mean() + (action - found.action).pow(2).mean()
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)
    params = list(learner.actor.parameters())
    for one, other in zip(torch.autograd.grad(loss, params), torch.autograd.grad(expected, params), strict=True):
        assert torch.allclose(one, other, atol=1e-7)


@pytest.mark.parametrize("cfg", [algorithms.TD3BCCfg(), algorithms.ReBRACCfg()])
def test_the_scale_of_the_rewards_does_not_matter_to_the_policy(cfg: Any) -> None:
    learner, found = make(cfg), batch()
    params = list(learner.actor.parameters())
    before = torch.autograd.grad(learner.policy_loss(found)[0], params)
    with torch.no_grad():
        for tensor in list(learner.critic.parameters())[-2:]:
            tensor.mul_(1000.0)
    after = torch.autograd.grad(learner.policy_loss(found)[0], params)
    assert all(torch.allclose(one, other, rtol=1e-3, atol=1e-6) for one, other in zip(before, after, strict=True))


def test_rebrac_by_hand() -> None:
    cfg = algorithms.ReBRACCfg(actor_penalty=0.3, critic_penalty=0.7, target_noise=0.4, target_noise_clip=0.5)
    learner, found = make(cfg), batch()
    torch.manual_seed(1)
    loss, _, _ = learner.critic_loss(found)
    torch.manual_seed(1)
    target_mode = learner.target_actor(found.next_obs)[0].mode.detach()
    noise = (0.4 * torch.randn_like(target_mode)).clamp(-0.5, 0.5)
    next_action = (target_mode + noise).clamp(-1.0, 1.0)
    distance = (next_action - found.next_action).pow(2).sum(-1)  # of the noisy action, clipped to the box
    target = found.reward + found.discount * (
        torch.minimum(*learner.target_critic(found.next_obs, next_action)).detach() - 0.7 * distance
    )
    over = found.discount == 0.0
    assert over.any() and torch.equal(target[over], found.reward[over])  # no penalty behind a termination
    assert float(loss.detach()) == pytest.approx(
        float(sum((q - target).pow(2).mean() for q in q_of(learner.critic, found)).detach()), rel=1e-5
    )
    action = learner.actor(found.obs)[0].mode
    value = torch.minimum(*q_of(learner.critic, found, action))
    expected = 0.3 * (action - found.action).pow(2).sum(-1).mean() - value.mean() / value.abs().mean().detach()
    assert float(learner.policy_loss(found)[0].detach()) == pytest.approx(float(expected.detach()), rel=1e-5)


def spread(learner: Any) -> None:
    """Critics that disagree, values of both signs, and targets that are not what they follow."""
    with torch.no_grad():
        for network in (learner.critic, learner.target_critic, learner.target_actor):
            for parameter in network.parameters():
                parameter.add_(0.5 * torch.randn_like(parameter))


@pytest.mark.parametrize("target_actor", [True, False])
@pytest.mark.parametrize("aggregate", ["min", "mean", "own"])
def test_rebrac_with_critics_that_disagree(aggregate: Any, target_actor: bool) -> None:
    options = {"aggregate": aggregate, "target_actor": target_actor, "critic_penalty": 0.7, "target_noise": 0.0}
    learner, found = make(algorithms.ReBRACCfg(**options)), batch()
    spread(learner)
    action = (learner.target_actor if target_actor else learner.actor)(found.next_obs)[0].mode
    next_q = learner.target_critic(found.next_obs, action)
    next_q = {"min": next_q.amin(0), "mean": next_q.mean(0), "own": next_q}[aggregate]
    penalty = 0.7 * (action - found.next_action).square().sum(-1)
    target = (found.reward + found.discount * (next_q - penalty)).detach()
    expected = (q_of(learner.critic, found) - target).square().mean(1).sum()
    torch.testing.assert_close(learner.critic_loss(found)[0], expected)


@pytest.mark.parametrize("option", ["first", "min", "mean"])
@pytest.mark.parametrize("kind", [algorithms.TD3BCCfg, algorithms.ReBRACCfg])
def test_values_of_both_signs_have_the_scale_of_their_mean_size(kind: Any, option: Any) -> None:
    learner, found = make(kind(policy_value=option)), batch()
    spread(learner)
    action = learner.actor(found.obs)[0].mode

    def value() -> Tensor:
        q = q_of(learner.critic, found, action)
        return {"first": q[0], "min": q.amin(0), "mean": q.mean(0)}[option]

    with torch.no_grad():  # the bias of the output: values straddle 0
        list(learner.critic.parameters())[-1].sub_(value().mean())
    q = value()
    assert (q > 0).any() and (q < 0).any()
    distance = (action - found.action).square()
    loss = distance.mean() if kind is algorithms.TD3BCCfg else 0.001 * distance.sum(-1).mean()
    weight = 2.5 if kind is algorithms.TD3BCCfg else 1.0
    expected = loss - weight * q.mean() / q.abs().mean().detach()
    actual, parameters = learner.policy_loss(found)[0], list(learner.actor.parameters())
    torch.testing.assert_close(actual, expected)
    one, other = (torch.autograd.grad(x, parameters) for x in (actual, expected))
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-7)


def test_the_multiplier_has_no_bound_that_it_could_reach_early() -> None:
    cfg = algorithms.CQLCfg(target_gap=0.0, conservative_weight=3.0)
    learner = make(cfg)
    with torch.no_grad():
        learner.critic_term.multiplier.log_value.fill_(math.log(50.0))
    assert float(learner.critic_term.weight()) == pytest.approx(150.0, rel=1e-5)
    assert not learner.critic_term.weight().requires_grad


# --- data ------------------------------------------------------------------------------------------------------------


def test_only_terminations_end_the_bootstrap() -> None:
    data = recorded({10: True, 6: False, 4: False})
    learner = make(algorithms.IQLCfg(), data=data)
    discount = learner.experience.buffer.gather(torch.arange(len(data))).discount
    expected = torch.full((20,), GAMMA)
    expected[9] = 0.0
    assert torch.allclose(discount, expected)


def test_only_rebrac_leaves_out_steps_whose_next_action_nobody_knows() -> None:
    data = recorded({10: True, 6: False, 4: False})
    assert len(make(algorithms.TD3BCCfg(), data=data).experience.buffer) == 20
    rebrac = make(algorithms.ReBRACCfg(), data=data)
    assert len(rebrac.experience.buffer) == 18
    drawn = rebrac.experience.buffer.gather(torch.arange(9))
    assert torch.equal(drawn.next_action, data.action[1:10])


def test_rebrac_says_that_a_replay_is_not_enough() -> None:
    learner, found = make(algorithms.ReBRACCfg()), batch()
    found.next_action = None
    with pytest.raises(ValueError, match="ReBRAC needs the data's next actions"):
        learner.critic_loss(found)


def test_normalizers_know_the_whole_data_and_nothing_else() -> None:
    data = recorded()
    learner = make(algorithms.IQLCfg(), components.ActorQVPackCfg(), data)
    rows = data.obs["policy"].double()
    for network in (learner.actor, learner.critic, learner.value):
        assert torch.allclose(network.normalizer.moments.mean, rows.mean(0))
        assert torch.allclose(network.normalizer.moments.var, rows.var(0, unbiased=False))
    assert learner.target_critic.normalizer is learner.critic.normalizer
    for _ in range(3):
        learner.update()
    assert float(learner.actor.normalizer.moments.count) == len(data)


def test_data_of_another_robot_is_refused() -> None:
    with pytest.raises(DatasetError, match=r"'policy' is \(3,\) in the data and \(4,\) in the environment"):
        make(algorithms.IQLCfg(), data=recorded(), obs=4)


def test_recorded_rewards_are_scaled_by_their_own_setting() -> None:
    with pytest.raises(ValueError, match=r"use dataset\.reward_mode for recorded ones"):
        make(algorithms.CQLCfg(max_return=5.0))
