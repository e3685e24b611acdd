"""SAC against closed forms and plain re-derivations.

The closed forms are those of the maximum-entropy LQR `s' = 1.1 s + 0.5 a`, cost `s^2 + 0.1 a^2`, gamma 0.99, alpha 0.2:
V(s) = -P s^2 + c with the P of the Riccati equation, optimal actions normal around -K s with variance
alpha / (2 (0.1 + gamma 0.5^2 P)).
"""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from RoboRenForce import algorithms, components, networks
from RoboRenForce.algorithms import RunContext
from RoboRenForce.buffer import ReplayBatch, ReplayBufferCfg
from RoboRenForce.envs.spec import ActionSpec, EnvSpec
from stepping import stepped
from tensordict import TensorDict
from torch import Tensor

pytestmark = pytest.mark.oracle

GAMMA, ALPHA, A, B, COST = 0.99, 0.2, 1.1, 0.5, 0.1
RANGE = 40.0
"""An action of 1 is a force of 40: so wide that the squashing does not matter near 0."""


def riccati() -> tuple[float, float, float]:
    """P and K of the LQR and the variance of its optimal maximum-entropy policy."""
    p = 1.0
    for _ in range(1000):
        p = 1.0 + GAMMA * A * A * p - (GAMMA * A * B * p) ** 2 / (COST + GAMMA * B * B * p)
    curvature = COST + GAMMA * B * B * p
    return p, GAMMA * A * B * p / curvature, ALPHA / (2.0 * curvature)


P, GAIN, VARIANCE = riccati()


class ExactQ(torch.nn.Module):
    """Q*(s, a) of the LQR up to its constant, twice, with the interface of a `QNetwork`."""

    is_recurrent = False

    def __init__(self, head: Any) -> None:
        super().__init__()
        self.head = head

    def features(self, obs: Any, start: Any = None, state: Any = None) -> tuple[Tensor, None]:
        return obs["policy"], None

    def outputs(self, features: Tensor, action: Tensor) -> Tensor:
        s, a = features[..., :1], RANGE * action
        q = -s.square() - COST * a.square() - GAMMA * P * (A * s + B * a).square()
        return torch.stack([q, q])


def spec(num_envs: int = 4, obs: int = 1, actions: int = 1) -> EnvSpec:
    action = ActionSpec("continuous", actions, low=(-1.0,) * actions, high=(1.0,) * actions)
    return EnvSpec("toy", num_envs, {"policy": (obs,)}, action, 100, ("final_observations",))


def make(policy_layers: list[int], spec: EnvSpec, num_q: int = 2, **options: Any) -> algorithms.SAC:
    mlp = networks.MLPCfg(hidden_features=policy_layers, activations="Tanh")
    policy = components.ActorQPackCfg(
        actor_cfg=components.TanhGaussianActorCfg(backbone_cfg=mlp, normalizer_cfg=None, init_std=0.05, min_std=1e-3),
        critic_cfg=components.QNetworkCfg(backbone_cfg=mlp, normalizer_cfg=None, num_q=num_q),
    )
    defaults: dict[str, Any] = {"replay": ReplayBufferCfg(capacity=64), "batch_size": 16, "learning_starts": 0}
    context = RunContext(spec=spec, device=torch.device("cpu"))
    return algorithms.SACCfg(**(defaults | options)).build(policy=policy, context=context)


def random_batch(size: int, obs: int = 3, actions: int = 2) -> ReplayBatch:
    done = torch.rand(size) < 0.3
    return ReplayBatch(
        obs={"policy": torch.randn(size, obs)},
        action=torch.rand(size, actions) * 2 - 1,
        reward=torch.randn(size),
        discount=GAMMA * (1.0 - done.float()),
        next_obs={"policy": torch.randn(size, obs)},
    )


def test_the_policy_converges_to_the_soft_lqr_optimum() -> None:
    assert pytest.approx(1.700079, abs=1e-5) == GAIN and pytest.approx(0.227237, abs=1e-5) == VARIANCE
    torch.manual_seed(0)
    temperature = components.TemperatureCfg(initial=ALPHA, learned=False)
    sac = make([], spec(), temperature=temperature, actor_learning_rate=3e-3)
    sac.critic = ExactQ(sac.critic.head)
    for step in range(3000):
        if step == 2500:
            sac.actor_critic.actor_optimizer.adam.lr.fill_(2e-4)
        states = torch.randn(256, 1)
        zeros = torch.zeros(256)
        sac.update_policy(
            ReplayBatch({"policy": states}, torch.zeros(256, 1), zeros, zeros, next_obs={"policy": states})
        )
    probe = torch.tensor([[-1.0], [1.0]])
    distribution, _ = sac.actor(TensorDict({"policy": probe}, batch_size=[2]))
    force = RANGE * distribution.mode.detach()
    assert float((force[0] - force[1]) / 2) == pytest.approx(GAIN, rel=0.03)
    # near 0 the squashing is the identity, so the std of the force is RANGE times the one before it
    at_rest, _ = sac.actor(TensorDict({"policy": torch.zeros(1, 1)}, batch_size=[1]))
    assert float(at_rest.std.detach()) * RANGE == pytest.approx(math.sqrt(VARIANCE), rel=0.06)


def test_the_optimal_value_is_a_fixed_point_of_the_target() -> None:
    """E[y] = r + gamma (E[Q*(s', a')] + alpha H), with the expectation of a quadratic under a normal worked out."""
    torch.manual_seed(0)
    sac = make([], spec(), temperature=components.TemperatureCfg(initial=ALPHA, learned=False))
    sac.critic = sac.target_critic = ExactQ(sac.critic.head)
    with torch.no_grad():  # the optimal policy, in the coordinates of the squashed one
        layer = sac.actor.backbone.output_layer
        layer.weight.zero_()
        layer.bias.zero_()
        layer.weight[0, 0] = -GAIN / RANGE
        sac.actor.std.init_log_std = sac.actor.std.center = math.log(math.sqrt(VARIANCE) / RANGE)
        sac.actor.std.log_bounds = (-20.0, 2.0)
    num = 400_000
    s, force = torch.full((num, 1), 0.7), torch.full((num, 1), -0.4)
    successor = A * s + B * force
    reward = -(s.square() + COST * force.square()).squeeze(-1)
    seen = []
    head = sac.critic.head
    plain = type(head).loss
    sac.critic.head.loss = lambda output, target, *rest: seen.append(target) or plain(head, output, target, *rest)
    batch = ReplayBatch({"policy": s}, force / RANGE, reward, torch.full((num,), GAMMA), next_obs={"policy": successor})
    sac.critic_loss(batch)
    # E over a' ~ N(-K s', VARIANCE) of Q*(s', a') - alpha log pi(a'|s'), by hand
    curvature = COST + GAMMA * B * B * P
    entropy_unit_box = 0.5 * math.log(2 * math.pi * math.e * VARIANCE) - math.log(RANGE)
    next_value = -P * successor[0, 0] ** 2 - curvature * VARIANCE + ALPHA * entropy_unit_box
    expected = float(reward[0] + GAMMA * next_value)
    assert float(seen[0].mean()) == pytest.approx(expected, abs=4e-3)


def test_losses_equal_a_plain_re_derivation() -> None:
    torch.manual_seed(0)
    sac = make([8], spec(obs=3, actions=2))
    batch = random_batch(32)
    torch.manual_seed(5)
    loss, _, _ = sac.critic_loss(batch)

    torch.manual_seed(5)
    next_distribution, _ = sac.actor(TensorDict(batch.next_obs, batch_size=[32]))
    next_action, next_log_prob = next_distribution.rsample_with_log_prob()
    q_next = sac.target_critic(batch.next_obs, next_action).min(0).values
    y = batch.reward + batch.discount * (q_next - sac.temperature() * next_log_prob)
    q = sac.critic(batch.obs, batch.action)
    expected = (q[0] - y).square().mean() + (q[1] - y).square().mean()
    torch.testing.assert_close(loss, expected)

    torch.manual_seed(6)
    loss, log_prob, _ = sac.policy_loss(batch)
    torch.manual_seed(6)
    distribution, _ = sac.actor(TensorDict(batch.obs, batch_size=[32]))
    action, expected_log_prob = distribution.rsample_with_log_prob()
    expected = (sac.temperature() * expected_log_prob - sac.critic(batch.obs, action).min(0).values).mean()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(log_prob, expected_log_prob.detach())


def test_importance_weights_shrink_the_critics_losses_and_touch_nothing_else() -> None:
    """Schaul et al. 2016, section 3.4: a mean over the batch, not over the weights, which would scale them up again."""
    torch.manual_seed(0)
    sac, batch = make([8], spec(obs=3, actions=2)), random_batch(32)
    batch.discount.zero_()
    weight = torch.rand(32)
    weighted = replace(batch, weight=weight)
    loss, errors, metrics = sac.critic_loss(weighted)
    square = (sac.critic(batch.obs, batch.action) - batch.reward).square()
    torch.testing.assert_close(loss, (weight * square.sum(0)).sum() / 32)
    torch.testing.assert_close(sac.critic_loss(replace(batch, weight=weight / 4))[0], loss / 4)
    _, plain_errors, plain_metrics = sac.critic_loss(batch)
    torch.testing.assert_close(errors, plain_errors)
    torch.testing.assert_close(metrics["Policy/q_value"], plain_metrics["Policy/q_value"])

    state, found = copy.deepcopy(sac.state_dict()), []
    for seen in (batch, weighted):
        sac.load_state_dict(copy.deepcopy(state))
        torch.manual_seed(6)
        metrics = sac.update_policy(seen)
        found.append([*metrics.values(), *sac.actor.parameters(), sac.temperature.log_alpha])
        found[-1] = [tensor.detach().clone() for tensor in found[-1]]
    for plain, other in zip(*found, strict=True):
        assert torch.equal(plain, other)


def test_terminations_do_not_bootstrap_and_the_entropy_is_discounted_too() -> None:
    torch.manual_seed(0)
    sac = make([8], spec(obs=3, actions=2))
    batch = random_batch(32)
    batch.discount.zero_()
    loss, _, _ = sac.critic_loss(batch)
    expected = (sac.critic(batch.obs, batch.action) - batch.reward).square().mean(1).sum()
    torch.testing.assert_close(loss, expected)


def test_the_policy_step_leaves_the_critics_alone_and_the_other_way_round() -> None:
    torch.manual_seed(0)
    sac = make([8], spec(obs=3, actions=2))
    critic, actor = ([p.clone() for p in net.parameters()] for net in (sac.critic, sac.actor))
    sac.update_policy(random_batch(32))
    assert all(torch.equal(a, b) for a, b in zip(critic, sac.critic.parameters(), strict=True))
    moved = [p.clone() for p in sac.actor.parameters()]
    assert any(not torch.equal(a, b) for a, b in zip(actor, moved, strict=True))
    sac.train_step(random_batch(32), update_actor=False)
    assert all(torch.equal(a, b) for a, b in zip(moved, sac.actor.parameters(), strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(critic, sac.critic.parameters(), strict=True))


def test_the_targets_follow_by_tau() -> None:
    torch.manual_seed(0)
    sac = make([8], spec(obs=3, actions=2), tau=0.25)
    before = [p.clone() for p in sac.target_critic.parameters()]
    sac.train_step(random_batch(32), update_actor=True)
    for old, new, online in zip(before, sac.target_critic.parameters(), sac.critic.parameters(), strict=True):
        torch.testing.assert_close(new, 0.75 * old + 0.25 * online)


@pytest.mark.parametrize("objective", ["log_alpha", "alpha"])
def test_the_temperature_rises_when_the_policy_is_too_certain(objective: Any) -> None:
    temperature = components.TemperatureCfg(objective=objective, initial=0.5).build(3)
    assert temperature.target_entropy == -3.0
    for entropy, sign in ((-5.0, -1.0), (2.0, 1.0)):
        (grad,) = torch.autograd.grad(temperature.loss(torch.tensor([-entropy])).mean(), temperature.log_alpha)
        # descending on log alpha: a negative gradient raises it
        factor = 0.5 if objective == "alpha" else 1.0
        assert (
            float(grad) == pytest.approx(factor * (entropy + 3.0), abs=1e-6) and math.copysign(1, float(grad)) == sign
        )


def test_warming_up_acts_uniformly_and_learns_nothing() -> None:
    torch.manual_seed(0)
    sac = make([8], spec(num_envs=512, obs=3, actions=2), learning_starts=1024, replay=ReplayBufferCfg(capacity=4096))
    obs = TensorDict({"policy": torch.randn(512, 3)}, batch_size=[512])
    actions = []
    for step in range(3):
        out = sac.act(obs)
        actions.append(out.action.clone())
        extras = {"terminated": torch.zeros(512, dtype=torch.bool), "final_observations": obs, "log": {}}
        sac.process_env_step(stepped(obs, out, obs, torch.zeros(512), torch.zeros(512).long(), extras))
        assert bool(sac.update()) == (step >= 1)
    for action in actions[:2]:
        assert float(action.abs().max()) <= 1.0
        assert float(action.mean()) == pytest.approx(0.0, abs=0.06)
        assert float(action.var()) == pytest.approx(1 / 3, abs=0.03)
    assert float(actions[2].var()) < 0.1  # the policy's init_std is 0.05


def test_the_policy_learns_at_its_turn_only() -> None:
    torch.manual_seed(0)
    sac = make([8], spec(obs=3, actions=2), policy_delay=3, gradient_steps=2)
    turns = []
    sac.train_step = lambda batch, update_actor: turns.append(update_actor) or {"x": torch.zeros(())}
    obs = TensorDict({"policy": torch.randn(4, 3)}, batch_size=[4])
    for _ in range(6):
        out = sac.act(obs)
        extras = {"terminated": torch.zeros(4, dtype=torch.bool), "final_observations": obs, "log": {}}
        sac.process_env_step(stepped(obs, out, obs, torch.zeros(4), torch.zeros(4).long(), extras))
        sac.update()
    assert turns == [False, False, True] * 4


def test_discrete_actions_and_missing_final_observations_are_refused() -> None:
    discrete = EnvSpec("toy", 4, {"policy": (3,)}, ActionSpec("discrete", 2), 100, ("final_observations",))
    with pytest.raises(ValueError, match=r"SAC needs continuous actions; 'toy' has discrete actions \[2\]"):
        make([8], discrete)
    unknown = EnvSpec("toy", 4, {"policy": (3,)}, ActionSpec("continuous", 2), 100)
    with pytest.raises(ValueError, match="needs final_observations"):
        make([8], unknown)


def test_dsac_insists_on_normal_returns() -> None:
    policy = components.ActorQPackCfg()
    context = RunContext(spec=spec(), device=torch.device("cpu"))
    with pytest.raises(ValueError, match="head_cfg builds a ScalarHead: use GaussianHeadCfg"):
        algorithms.DSACTCfg(replay=ReplayBufferCfg(capacity=64)).build(policy=policy, context=context)


def test_policies_of_other_algorithms_are_refused_when_built() -> None:
    context = RunContext(spec=spec(), device=torch.device("cpu"))
    fixed = components.ActorQPackCfg(actor_cfg=components.DeterministicActorCfg())
    with pytest.raises(ValueError, match="builds a DeterministicActor: use TanhGaussianActorCfg, or TD3Cfg"):
        algorithms.SACCfg().build(policy=fixed, context=context)
    with pytest.raises(
        ValueError, match="SAC learns the modules of an ActorQPackCfg, but policy is an ActorCriticPackCfg"
    ):
        algorithms.SACCfg().build(policy=components.ActorCriticPackCfg(), context=context)
    with pytest.raises(ValueError, match="IQL learns the modules of an ActorQVPackCfg, but policy is an ActorQPackCfg"):
        algorithms.IQLCfg().build(policy=components.ActorQPackCfg(), context=context)
    with pytest.raises(
        ValueError, match="PPO learns the modules of an ActorCriticPackCfg, but policy is an ActorQPackCfg"
    ):
        algorithms.PPOCfg().build(policy=components.ActorQPackCfg(), context=context)
