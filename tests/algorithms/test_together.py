"""Options together, against plain re-derivations: each alone may be right and their order wrong.

Fixtures are asymmetric on purpose: rewards and advantages of both signs, episodes of unequal length that terminate and
time out, critics with parameters of their own, a policy that has moved since it acted.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from RoboRenForce import algorithms, components, networks
from RoboRenForce.algorithms import ActOut, RunContext
from RoboRenForce.buffer import PrioritizedReplayBufferCfg, ReplayBatch, ReplayBufferCfg
from RoboRenForce.components.policy_state import PolicyState
from RoboRenForce.envs.spec import ActionSpec, EnvSpec
from stepping import stepped
from tensordict import TensorDict
from torch import Tensor

pytestmark = pytest.mark.oracle

STEPS, ENVS = 6, 4


# --- PPO -------------------------------------------------------------------------------------------------------------


GROUPS = {"policy": (3,), "critic": (2,)}
PPO_SPEC = EnvSpec("tape", ENVS, GROUPS, ActionSpec("continuous", 2), 100, ("final_observations",), step_dt=0.5)


def make_ppo(*, recurrent: bool = False, **options: Any) -> algorithms.PPO:
    mlp = networks.MLPCfg(hidden_features=[8], activations="Tanh")
    backbone = networks.RNNCfg(hidden_size=6, head_cfg=mlp) if recurrent else mlp
    policy = components.ActorCriticPackCfg(
        actor_cfg=components.StateIndStdActorCfg(backbone_cfg=backbone),
        critic_cfg=components.VNetworkCfg(backbone_cfg=backbone),
    )
    torch.manual_seed(0)
    context = RunContext(spec=PPO_SPEC, device=torch.device("cpu"), rollout_steps=STEPS, max_updates=10)
    defaults = {"num_learning_epochs": 2, "num_mini_batches": 2, "precision": "fp32", "learning_rate": 3e-3}
    return algorithms.PPOCfg(**(defaults | options)).build(policy=policy, context=context)


def feed(ppo: algorithms.PPO, seed: int) -> list[dict[str, Any]]:
    """A rollout of made-up steps, as it was fed: what came in and what the learner held before and after it."""
    generator = torch.Generator().manual_seed(seed)

    def observe() -> TensorDict:
        return TensorDict({k: torch.randn(ENVS, *shape, generator=generator) for k, shape in GROUPS.items()}, [ENVS])

    tape, obs = [], observe()
    for _ in range(STEPS):
        states = {name: state.clone() for name, state in ppo.collector.states.items()}
        start = ppo.collector.start.clone()
        out = ppo.act(obs)
        action = out.action.clone()
        final, following = observe(), observe()
        done = torch.rand(ENVS, generator=generator) < 0.35
        time_out = done & (torch.rand(ENVS, generator=generator) < 0.5)
        reward = 3.0 * torch.randn(ENVS, generator=generator) - 1.0
        after = following.clone()
        for name in GROUPS:
            after[name] = torch.where(done[:, None], following[name], final[name])
        extras = {"terminated": done & ~time_out, "time_outs": time_out, "log": {}, "final_observations": final}
        step = {"obs": obs, "action": action, "reward": reward, "done": done, "time_out": time_out, "final": final}
        tape.append({**step, "states": states, "start": start, "after": after})
        ppo.process_env_step(stepped(obs, out, after, reward, done.long(), extras))
        obs = after
    assert any(step["time_out"].any() for step in tape)
    assert any((step["done"] & ~step["time_out"]).any() for step in tape)
    return tape


def returns_by_definition(ppo: Any, tape: list[dict[str, Any]], rewards: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Values, advantages and returns `(T, N)` in units of the scaled reward, by sums over the rest of the episode."""
    moments = ppo.value_normalizer.moments if ppo.value_normalizer else None

    def value(obs: TensorDict, state: Any, start: Tensor) -> tuple[Tensor, Any]:
        v, state = ppo.critic(obs, state, start)
        return (v if moments is None else v * moments.var.sqrt().float() + moments.mean.float()), state

    going_on = torch.zeros(ENVS, dtype=torch.bool)
    values, after, state = [], [], tape[0]["states"].get("critic")
    for step in tape:
        v, state = value(step["obs"], state, step["start"])
        values.append(v)
        after.append(value(step["final"], state, going_on)[0])  # V of the true successor
    advantage = torch.zeros(STEPS, ENVS)
    for t in range(STEPS):
        for n in range(ENVS):
            weight = 1.0
            for k in range(t, STEPS):
                terminated = tape[k]["done"][n] & ~tape[k]["time_out"][n]
                delta = rewards[k][n] + ppo.cfg.gamma * after[k][n] * ~terminated - values[k][n]
                advantage[t, n] += weight * delta
                weight *= ppo.cfg.gamma * ppo.cfg.lam
                if tape[k]["done"][n]:
                    break
    value_table = torch.stack(values)
    return value_table, advantage, advantage + value_table


@pytest.mark.parametrize("recurrent", [False, True])
@pytest.mark.parametrize("per_mini_batch", [False, True])
def test_ppo_with_normalized_rewards_and_values_and_a_learned_reward(recurrent: bool, per_mini_batch: bool) -> None:
    """Bonus, then scale, then bootstrap; GAE in units of the reward; targets and old values in units of the critic."""
    ppo = make_ppo(
        recurrent=recurrent,
        normalize_reward=True,
        normalize_value=True,
        normalize_advantage_per_mini_batch=per_mini_batch,
        reward_terms=[algorithms.RNDCfg(weight=2.0, learning_rate=2e-3)],
        gamma=0.9,
        lam=0.8,
        clip_param=0.1,
        value_loss_coef=0.7,
        entropy_coef=0.03,
    )
    feed(ppo, 1)
    ppo.update()  # all statistics and weights have moved
    rnd, scaler = ppo.reward_terms[0], ppo.reward_scaler
    running, seen = scaler.discounted.double(), stand_in(scaler.moments)
    targets_before = stand_in(ppo.value_normalizer.moments)
    tape = feed(ppo, 2)
    rewards = []
    for step in tape:
        state = rnd.state_normalizer(step["after"]["policy"])
        reward = step["reward"] + 2.0 * 0.5 * (rnd.target(state) - rnd.predictor(state)).norm(dim=-1).detach()
        running = running * 0.9 + reward
        seen += running.tolist()
        rewards.append((reward / np.sqrt(np.var(seen) + 1e-8)).float().clamp(-10.0, 10.0))
        running = running * ~step["done"]
    value, advantage, target = (x.detach() for x in returns_by_definition(ppo, tape, rewards))

    losses: list[tuple[Tensor, Tensor]] = []
    loss = ppo.loss
    ppo.loss = lambda batch: losses.append(expected_loss(ppo, batch)) or loss(batch)
    metrics = ppo.update()
    moments = ppo.value_normalizer.moments
    all_targets = targets_before + target.flatten().tolist()
    assert moments.count.item() == len(all_targets)
    assert moments.mean.item() == pytest.approx(np.mean(all_targets), rel=1e-4)
    assert moments.var.item() == pytest.approx(np.var(all_targets), rel=1e-4)
    into_critic = lambda x: (x - moments.mean.float()) / moments.var.sqrt().float()  # noqa: E731
    close = {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(ppo.buffer.value, into_critic(value), **close)
    torch.testing.assert_close(ppo.buffer.return_, into_critic(target), **close)
    plain = advantage if per_mini_batch else (advantage - advantage.mean()) / advantage.std()
    torch.testing.assert_close(ppo.buffer.advantage, plain, **close)
    for name, pairs in zip(("Loss/surrogate", "Loss/value"), zip(*losses, strict=True), strict=True):
        assert metrics[name].item() == pytest.approx(float(torch.stack(pairs).mean()), rel=1e-4)


def stand_in(moments: Any) -> list[float]:
    """A sample with the count, mean and variance of running moments, which is all that they remember."""
    half, std = int(moments.count) // 2, moments.var.sqrt()
    return [float(moments.mean - std)] * half + [float(moments.mean + std)] * half


def expected_loss(ppo: Any, batch: Any) -> tuple[Tensor, Tensor]:
    """Surrogate and value loss of a mini-batch, element by element."""
    distribution, _ = ppo.actor(batch.obs, batch.states.get("actor"), batch.start)
    value, _ = ppo.critic(batch.obs, batch.states.get("critic"), batch.start)
    ratio = (distribution.log_prob(batch.action) - batch.log_prob).exp().flatten().tolist()
    advantage = batch.advantage
    if ppo.cfg.normalize_advantage_per_mini_batch:
        advantage = (advantage - advantage.mean()) / advantage.std()
    clip = ppo.cfg.clip_param
    surrogate, error = [], []
    rows = zip(ratio, *(x.flatten().tolist() for x in (advantage, value, batch.value, batch.return_)), strict=True)
    for r, a, v, old, target in rows:
        surrogate.append(-min(r * a, min(max(r, 1 - clip), 1 + clip) * a))
        error.append(max((v - target) ** 2, (old + min(max(v - old, -clip), clip) - target) ** 2))
    return torch.tensor(surrogate).mean(), torch.tensor(error).mean()


def test_ppo_adds_its_losses_with_their_weights_and_signs() -> None:
    ppo = make_ppo(value_loss_coef=0.7, entropy_coef=0.03)
    feed(ppo, 1)
    ppo.mini_batches.prepare(*ppo.rollout.end())
    batch = ppo.buffer.flat(torch.arange(STEPS * ENVS))
    with torch.no_grad():
        for parameter in ppo.networks.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    surrogate, value = expected_loss(ppo, batch)
    distribution = ppo.actor(batch.obs)[0]
    loss, kl, _ = ppo.loss(batch)
    expected = surrogate + 0.7 * value - 0.03 * distribution.entropy().mean()
    torch.testing.assert_close(loss, expected)
    old = torch.distributions.Normal(batch.dist_params["mean"], batch.dist_params["std"])
    new = torch.distributions.Normal(distribution.mean, distribution.std)
    torch.testing.assert_close(kl, torch.distributions.kl_divergence(old, new).sum(-1).mean().detach())
    assert kl > 0


def mirror(obs: Any, actions: Any) -> Any:
    if obs is not None:
        obs = TensorDict({k: torch.cat([v, -v]) for k, v in obs.items()}, [2 * obs.batch_size[0]])
    return obs, None if actions is None else torch.cat([actions, -actions])


def test_ppo_with_symmetry_and_normalization_counts_entropy_and_kl_of_what_happened() -> None:
    """Mirrored samples have the old log-prob, value and advantage of their originals; std of the mean is not theirs."""
    term = algorithms.SymmetryCfg(function=mirror, use_mirror_loss=True, mirror_loss_coef=0.4)
    ppo = make_ppo(loss_terms=[term], normalize_value=True, normalize_advantage_per_mini_batch=True, entropy_coef=0.2)
    feed(ppo, 1)
    ppo.mini_batches.prepare(*ppo.rollout.end())
    ppo.mini_batches.epochs.num_mini_batches = 1
    batch = ppo.buffer.flat(torch.arange(STEPS * ENVS))
    with torch.no_grad():
        for parameter in ppo.networks.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    advantage = (batch.advantage - batch.advantage.mean()) / batch.advantage.std()
    surrogate = value = 0.0
    for sign in (1.0, -1.0):
        obs = TensorDict({k: sign * v for k, v in batch.obs.items()}, batch.obs.batch_size)
        ratio = (ppo.actor(obs)[0].log_prob(sign * batch.action) - batch.log_prob).exp()
        surrogate += torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage).mean() / 2
        v = ppo.critic(obs)[0]
        clipped = batch.value + (v - batch.value).clamp(-0.2, 0.2)
        value += torch.maximum((v - batch.return_) ** 2, (clipped - batch.return_) ** 2).mean() / 2
    distribution = ppo.actor(batch.obs)[0]
    image = ppo.actor(TensorDict({k: -v for k, v in batch.obs.items()}, batch.obs.batch_size))[0].mode
    distance = (image + distribution.mode.detach()).square().mean()
    loss, kl, _ = ppo.loss(next(iter(ppo.mini_batches)))
    torch.testing.assert_close(loss, -surrogate + value - 0.2 * distribution.entropy().mean() + 0.4 * distance)
    torch.testing.assert_close(kl, distribution.kl_from(batch.dist_params).mean().detach())
    # the mirror image of the mean is the target: no gradient reaches the policy through it
    (both,) = torch.autograd.grad(loss, ppo.actor.backbone.output_layer.bias, retain_graph=True)
    reference = -surrogate - 0.2 * distribution.entropy().mean() + 0.4 * distance
    (expected,) = torch.autograd.grad(reference, ppo.actor.backbone.output_layer.bias)
    torch.testing.assert_close(both, expected)


def test_every_epoch_has_an_order_of_its_own_and_sees_everything() -> None:
    for shuffle, orders in (("epoch", 3), ("once", 1), ("none", 1)):
        ppo = make_ppo(shuffle=shuffle, num_learning_epochs=3)
        feed(ppo, 1)
        found: list[Tensor] = []
        loss = ppo.loss
        ppo.loss = lambda batch, found=found, loss=loss: found.append(batch.log_prob.clone()) or loss(batch)
        ppo.update()
        epochs = [torch.cat(found[k : k + 2]) for k in (0, 2, 4)]
        stored = ppo.buffer.log_prob.flatten()
        for epoch in epochs:
            assert torch.equal(epoch.sort().values, stored.sort().values)
        assert len({tuple(epoch.tolist()) for epoch in epochs}) == orders
        assert torch.equal(epochs[0], stored) == (shuffle == "none")


def test_normalizers_take_in_every_observation_once() -> None:
    """Also those of actor and critic with groups of their own, and the learned reward's."""
    ppo = make_ppo(reward_terms=[algorithms.RNDCfg()])
    seen = [feed(ppo, seed) for seed in (1,)]
    ppo.update()
    seen.append(feed(ppo, 2))
    ppo.update()
    for group, normalizer in (
        ("policy", ppo.actor.normalizer),
        ("critic", ppo.critic.normalizer),
        ("policy", ppo.reward_terms[0].state_normalizer),
    ):
        rows = torch.cat([step["obs"][group] for tape in seen for step in tape]).double()
        assert normalizer.moments.count.item() == len(rows)
        torch.testing.assert_close(normalizer.moments.mean, rows.mean(0))
        torch.testing.assert_close(normalizer.moments.var, rows.var(0, correction=0))


@pytest.mark.parametrize("normalize", [False, True])
def test_the_learned_reward_follows_its_schedules_and_statistics(normalize: bool) -> None:
    options = {"normalize_reward": normalize, "reward_gamma": 0.7, "normalize_state": False, "num_outputs": 3}
    cfg = algorithms.RNDCfg(weight=4.0, weight_schedule="step", final_step=3, final_weight=1.0, **options)
    term = make_ppo(reward_terms=[cfg]).reward_terms[0]
    assert not any(p.requires_grad for p in term.target.parameters())
    running, seen, bonuses = torch.zeros(ENVS), [], []
    for step in range(1, 6):
        obs = torch.randn(ENVS, 3)
        surprise = (term.target(obs) - term.predictor(obs)).norm(dim=-1).detach()
        running = 0.7 * running + surprise
        seen.append(running)
        scale = torch.cat(seen).var(correction=0).sqrt() if normalize else 1.0
        expected = (4.0 if step < 3 else 1.0) * 0.5 * surprise / scale
        reached = TensorDict({"policy": obs}, [ENVS])
        step = stepped(reached, ActOut(obs), reached, surprise, torch.zeros(ENVS), {})
        torch.testing.assert_close(term.reward(step), expected, rtol=1e-4, atol=1e-6)
        bonuses.append(expected.mean())
    metrics = term.metrics()
    torch.testing.assert_close(metrics["Rnd/mean_intrinsic_reward"], torch.stack(bonuses).mean(), rtol=1e-4, atol=1e-6)
    assert metrics["Rnd/weight"].item() == pytest.approx(0.5)
    assert term.metrics()["Rnd/mean_intrinsic_reward"].item() == 0.0


# --- off-policy ------------------------------------------------------------------------------------------------------


A, OBS, B, GAMMA = 2, 3, 16, 0.9
SPEC = EnvSpec(
    "toy", ENVS, {"policy": (OBS,)}, ActionSpec("continuous", A, (-1.0,) * A, (1.0,) * A), 100, ("final_observations",)
)


def off_policy(cfg: Any, actor: Any = None, num_q: int = 3, spec: EnvSpec = SPEC, **policy: Any) -> Any:
    mlp = networks.MLPCfg(hidden_features=[8], activations="Tanh")
    pack = components.ActorQPackCfg(
        actor_cfg=(actor or components.TanhGaussianActorCfg)(backbone_cfg=mlp, **policy),
        critic_cfg=components.QNetworkCfg(backbone_cfg=mlp, num_q=num_q, **policy),
    )
    torch.manual_seed(0)
    learner = cfg.build(policy=pack, context=RunContext(spec=spec, device=torch.device("cpu"), max_updates=50))
    spread(learner)
    return learner


def spread(learner: Any) -> None:
    """Critics that disagree, also with their targets, so that which of them counts can be seen."""
    with torch.no_grad():
        for network in (learner.critic, learner.target_critic, learner.target_actor):
            for parameter in network.parameters():
                parameter.add_(0.4 * torch.randn_like(parameter))


SMALL: dict[str, Any] = {
    "replay": ReplayBufferCfg(capacity=256),
    "batch_size": B,
    "learning_starts": 0,
    "precision": "fp32",
    "gamma": GAMMA,
}


def random_batch() -> ReplayBatch:
    return ReplayBatch(
        obs={"policy": torch.randn(B, OBS)},
        action=torch.rand(B, A) * 2 - 1,
        reward=torch.randn(B) - 0.5,
        discount=GAMMA * (torch.rand(B) > 0.3).float(),
        next_obs={"policy": torch.randn(B, OBS)},
        weight=torch.rand(B),
    )


REDUCE = {"min": lambda q: q.amin(0), "mean": lambda q: q.mean(0), "own": lambda q: q}
CLIMB = {"min": lambda q: q.amin(0), "mean": lambda q: q.mean(0), "own": lambda q: q.mean(0)}


@pytest.mark.parametrize("backup", [True, False])
@pytest.mark.parametrize("target_actor", [True, False])
@pytest.mark.parametrize("aggregate", ["min", "mean", "own"])
def test_sac_with_critics_that_disagree(aggregate: Any, target_actor: bool, backup: bool) -> None:
    options = {"aggregate": aggregate, "target_actor": target_actor, "backup_entropy": backup}
    learner = off_policy(algorithms.SACCfg(**SMALL, **options, temperature=components.TemperatureCfg(initial=0.3)))
    batch = random_batch()
    torch.manual_seed(5)
    loss, errors, _ = learner.critic_loss(batch)
    torch.manual_seed(5)
    chooser = learner.target_actor if target_actor else learner.actor
    action, log_prob = chooser(batch.next_obs)[0].rsample_with_log_prob()
    next_q = learner.target_critic(batch.next_obs, action)
    y = batch.reward + batch.discount * (REDUCE[aggregate](next_q) - 0.3 * backup * log_prob)
    squares = (learner.critic(batch.obs, batch.action) - y.detach()).square()
    torch.testing.assert_close(loss, (squares.sum(0) * batch.weight).mean())
    torch.testing.assert_close(errors, squares.mean(0).sqrt().detach())

    torch.manual_seed(6)
    loss, _, metrics = learner.policy_loss(batch)
    torch.manual_seed(6)
    action, log_prob = learner.actor(batch.obs)[0].rsample_with_log_prob()
    value = CLIMB[aggregate](learner.critic(batch.obs, action))
    torch.testing.assert_close(loss, (0.3 * log_prob - value).mean())
    assert metrics["Policy/entropy"].item() == pytest.approx(-log_prob.mean().item(), rel=1e-5)


@pytest.mark.parametrize("target_actor", [True, False])
@pytest.mark.parametrize("aggregate", ["min", "mean", "own"])
def test_td3_with_critics_that_disagree(aggregate: Any, target_actor: bool) -> None:
    cfg = algorithms.TD3Cfg(**SMALL, aggregate=aggregate, target_actor=target_actor, target_noise=0.6)
    learner, batch = off_policy(cfg, components.DeterministicActorCfg), random_batch()
    torch.manual_seed(5)
    loss, _, _ = learner.critic_loss(batch)
    torch.manual_seed(5)
    chooser = learner.target_actor if target_actor else learner.actor
    action = chooser(batch.next_obs)[0].mode
    action = (action + (0.6 * torch.randn(B, A)).clamp(-0.5, 0.5)).clamp(-1, 1)
    y = batch.reward + batch.discount * REDUCE[aggregate](learner.target_critic(batch.next_obs, action))
    squares = (learner.critic(batch.obs, batch.action) - y.detach()).square()
    torch.testing.assert_close(loss, (squares.sum(0) * batch.weight).mean())


@pytest.mark.parametrize("delay_targets", [True, False])
@pytest.mark.parametrize("target_actor", [True, False])
def test_targets_follow_when_and_as_fast_as_they_are_told_to(delay_targets: bool, target_actor: bool) -> None:
    cfg = algorithms.SACCfg(**SMALL, tau=0.3, delay_targets=delay_targets, target_actor=target_actor)
    learner = off_policy(cfg)
    pairs = [(learner.target_critic, learner.critic)]
    pairs += [(learner.target_actor, learner.actor)] if target_actor else []
    for turn in (False, True):
        before = [[p.clone() for p in target.parameters()] for target, _ in pairs]
        learner.train_step(random_batch(), update_actor=turn)
        share = 0.3 if turn or not delay_targets else 0.0
        for old, (target, online) in zip(before, pairs, strict=True):
            for a, b, c in zip(old, target.parameters(), online.parameters(), strict=True):
                torch.testing.assert_close(b, (1 - share) * a + share * c)


@pytest.mark.parametrize("updates", [1, 3])
def test_policy_and_temperature_take_their_steps_together(updates: int) -> None:
    temperature = components.TemperatureCfg(initial=0.5, entropy_per_dim=-0.7, learning_rate=1e-2)
    learner = off_policy(algorithms.SACCfg(**SMALL, policy_updates=updates, temperature=temperature))
    assert learner.temperature.target_entropy == pytest.approx(-0.7 * A)
    learner.train_step(random_batch(), update_actor=True)
    assert (
        learner.actor_critic.actor_optimizer.adam.steps.item()
        == learner.temperature_optimizer.adam.steps.item()
        == updates
    )
    assert learner.actor_critic.critic_optimizer.adam.steps.item() == 1


def run(learner: Any, steps: int) -> list[dict[str, Any]]:
    """Steps of a made-up environment; returns what was recorded."""
    tape, obs = [], TensorDict({"policy": torch.randn(ENVS, OBS)}, [ENVS])
    learner.train()
    for t in range(steps):
        out = learner.act(obs)
        action = out.action.clone()
        final, following = torch.randn(ENVS, OBS), torch.randn(ENVS, OBS)
        terminated, time_out = (torch.zeros(ENVS, dtype=torch.bool) for _ in range(2))
        kind = t % 7
        if kind in (3, 6):
            (terminated if kind == 3 else time_out)[t % ENVS] = True
        done = terminated | time_out
        reward = 2.0 * torch.randn(ENVS) - 0.5
        after = TensorDict({"policy": torch.where(done[:, None], following, final)}, [ENVS])
        step = {
            "obs": obs["policy"],
            "action": action,
            "reward": reward,
            "terminated": terminated,
            "time_out": time_out,
        }
        tape.append({**step, "done": done, "final": final})
        extras = {"final_observations": {"policy": final}, "terminated": terminated, "time_outs": time_out}
        learner.process_env_step(stepped(obs, out, after, reward, done.long(), extras))
        obs = after
    return tape


def test_n_step_prioritized_replay_with_time_outs_and_a_reward_scale() -> None:
    """Rewards are scaled after they were summed; a time-out bootstraps with gamma^m, a termination does not."""
    replay = PrioritizedReplayBufferCfg(capacity=256, n_step=3)
    learner = off_policy(algorithms.SACCfg(**{**SMALL, "replay": replay}, max_return=2.0))
    seen: list[ReplayBatch] = []
    tape = run(learner, 40)
    train_step, judge, errors = learner.train_step, learner._critic_loss, []
    learner.train_step = lambda batch, update_actor: seen.append(batch) or train_step(batch, update_actor)

    def judged(batch: ReplayBatch) -> Any:
        found = judge(batch)
        errors.append(found[1])
        return found

    learner._critic_loss = judged
    learner.update()
    (batch,) = seen
    running, largest, all_returns = np.zeros(ENVS), 0.0, []
    for step in tape:
        running = running * GAMMA + step["reward"].numpy()
        all_returns.append(running.copy())
        largest = max(largest, np.abs(running).max())
        running = running * ~step["done"].numpy()
    divisor = max(np.sqrt(np.var(all_returns) + 1e-8), largest / 2.0)
    ended_by = set()
    for row, index in enumerate(batch.index.tolist()):
        t, n = divmod(index, ENVS)
        reward, discount, k = 0.0, 1.0, t
        while True:
            reward += discount * float(tape[k]["reward"][n])
            discount *= GAMMA
            if tape[k]["done"][n] or k - t == 2 or k == len(tape) - 1:
                break
            k += 1
        ended_by |= {"terminated"} if tape[k]["terminated"][n] else {"time_out"} if tape[k]["time_out"][n] else set()
        discount = 0.0 if tape[k]["terminated"][n] else discount
        assert batch.reward[row].item() == pytest.approx(reward / divisor, rel=1e-4, abs=1e-6)
        assert batch.discount[row].item() == pytest.approx(discount, rel=1e-5)
        torch.testing.assert_close(batch.next_obs["policy"][row], tape[k]["final"][n])
        torch.testing.assert_close(batch.obs["policy"][row], tape[t]["obs"][n])
    assert ended_by == {"terminated", "time_out"}
    largest = torch.zeros(160).scatter_reduce(0, batch.index, errors[0] + 1e-6, "amax")[batch.index]
    priorities = learner.experience.buffer.tree.values.index_select(0, batch.index)
    torch.testing.assert_close(priorities.float(), largest**0.6)


def test_normalizers_of_a_replay_learner_take_in_what_was_acted_on() -> None:
    learner = off_policy(algorithms.SACCfg(**SMALL))
    rows = torch.cat([step["obs"] for step in run(learner, 9)]).double()
    for network in (learner.actor, learner.critic):
        assert network.normalizer.moments.count.item() == len(rows)
        torch.testing.assert_close(network.normalizer.moments.mean, rows.mean(0))
        torch.testing.assert_close(network.normalizer.moments.var, rows.var(0, correction=0))
    assert learner.target_critic.normalizer is learner.critic.normalizer


@pytest.mark.parametrize(("delay", "steps"), [(2, 3), (3, 2), (4, 8)])
def test_turns_of_the_policy_are_counted_across_updates(delay: int, steps: int) -> None:
    learner = off_policy(algorithms.SACCfg(**SMALL, policy_delay=delay, gradient_steps=steps))
    turns: list[bool] = []
    learner.train_step = lambda batch, update_actor: turns.append(update_actor) or {"x": torch.zeros(())}
    run(learner, 5)
    for _ in range(4):
        learner.update()
    assert turns == [step % delay == delay - 1 for step in range(4 * steps)]


def test_what_is_remembered_of_an_episode_ends_with_it() -> None:
    """At terminations and time-outs alike, in those environments alone; and everywhere after a restart."""
    for exploration in (components.MixedNoiseCfg(), components.RepeatedNoiseCfg(exponent=0.0)):
        learner = off_policy(algorithms.SACCfg(**SMALL, exploration=exploration, max_return=2.0))
        name = "std" if isinstance(exploration, components.MixedNoiseCfg) else "steps_left"
        obs = TensorDict({"policy": torch.randn(ENVS, OBS)}, [ENVS])
        for kind in ("terminated", "time_outs", "neither") * 3:
            done = torch.tensor([True, False, True, False]) & (kind != "neither")
            extras = {"final_observations": obs, "terminated": done & (kind == "terminated"), "time_outs": done}
            out = learner.act(obs)
            before = learner.collector.exploration.state[name].clone()
            learner.process_env_step(stepped(obs, out, obs, torch.ones(ENVS), done.long(), extras))
            after = learner.collector.exploration.state[name]
            assert torch.equal(before[~done], after[~done])
            assert (after[done] != before[done]).all() if name == "std" else not after[done].any()
            assert torch.equal(learner.collector.policy_state.start, done)
            assert torch.equal(learner.experience.reward_scaler.discounted != 0, ~done)
        assert learner.experience.reward_scaler.discounted.any()
        held = learner.collector.exploration.state[name].clone()
        learner.restart_episodes()
        assert learner.collector.policy_state.start.all() and not learner.experience.reward_scaler.discounted.any()
        now = learner.collector.exploration.state[name]
        assert (now != held).all() if name == "std" else not now.any()


def test_a_resumed_learner_goes_on_with_its_schedule_and_its_turns() -> None:
    cfg = algorithms.SACCfg(**SMALL, final_learning_rate=0.1, gradient_steps=2, policy_delay=3)
    learner, other = off_policy(cfg), off_policy(cfg)
    run(learner, 6)
    for _ in range(4):
        learner.update()
    run(other, 6)
    other.load_state_dict(learner.state_dict())
    turns: list[bool] = []
    train_step = other.train_step
    other.train_step = lambda batch, update_actor: turns.append(update_actor) or train_step(batch, update_actor)
    other.experience.num_stored = ENVS
    run(other, 6)
    other.update()
    assert turns == [True, False]  # steps 8 and 9 of the run; every third is a turn: 2, 5, 8
    progress = 9 / (50 * 2)
    rate = 3e-4 * (0.1 + 0.9 * 0.5 * (1 + np.cos(np.pi * progress)))
    assert other.actor_critic.critic_optimizer.adam.lr.item() == pytest.approx(rate, rel=1e-5)


def test_metrics_of_ppo_say_what_they_are_called() -> None:
    ppo = make_ppo()
    feed(ppo, 1)
    metrics = ppo.update()
    target, value, std = ppo.buffer.return_, ppo.buffer.value, ppo.buffer.dist_params["std"]
    explained = 1.0 - (target - value).var() / target.var()
    torch.testing.assert_close(metrics["Policy/explained_variance"], explained, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(metrics["Policy/mean_std"], std.mean())
    assert metrics["Policy/skipped_steps"].item() == 0.0
    assert metrics["Loss/learning_rate"].item() == ppo.optimizer.lr.item()


def test_without_bootstrap_options_normalizers_move_when_they_are_told_to() -> None:
    for when in ("iteration", "step"):
        ppo = make_ppo(normalizer_update=when)
        feed(ppo, 1)
        assert ppo.actor.normalizer.moments.count.item() == (STEPS * ENVS if when == "step" else 0)
        ppo.update()
        assert ppo.actor.normalizer.moments.count.item() == STEPS * ENVS


def test_a_linear_schedule_ends_at_its_lower_bound() -> None:
    ppo = make_ppo(schedule="linear", learning_rate=1e-2, min_lr=4e-3, entropy_coef=0.1, final_entropy_coef=0.04)
    for iteration in range(3):
        feed(ppo, 1)
        ppo.update()
        assert ppo.optimizer.lr.item() == pytest.approx(1e-2 - 6e-3 * iteration / 10)
        assert ppo.entropy_coef.item() == pytest.approx(0.1 - 0.06 * iteration / 10)


def test_a_restart_forgets_the_previous_action_too() -> None:
    actor = off_policy(algorithms.SACCfg(**SMALL)).actor
    memory = PolicyState(actor, ENVS, torch.device("cpu"), previous_action=True)
    memory.end_step(torch.ones(ENVS, A), torch.tensor([True, False, False, False]))
    assert memory.previous_action.sum(1).tolist() == [0.0, A, A, A]
    memory.restart_episodes()
    assert memory.start.all() and not memory.previous_action.any()


@pytest.mark.parametrize("shuffle", ["epoch", "none"])
def test_every_recurrent_mini_batch_begins_with_the_memory_of_its_own_environments(shuffle: Any) -> None:
    ppo = make_ppo(recurrent=True, shuffle=shuffle)
    feed(ppo, 1)
    ppo.update()
    feed(ppo, 2)  # begins amid episodes
    ppo.mini_batches.prepare(*ppo.rollout.end())
    torch.randperm(ENVS, out=ppo.mini_batches.epochs.orders[0])
    for batch in ppo.mini_batches:
        assert all(state.any() for state in batch.states.values())
        torch.testing.assert_close(ppo.critic(batch.obs, batch.states["critic"], batch.start)[0], batch.value)
        distribution, _ = ppo.actor(batch.obs, batch.states["actor"], batch.start)
        torch.testing.assert_close(distribution.log_prob(batch.action), batch.log_prob)


@pytest.mark.parametrize(("target", "sign"), [(3.0, 1.0), (-30.0, -1.0)])
def test_a_learner_raises_its_temperature_below_the_entropy_target_and_lowers_it_above(
    target: float, sign: float
) -> None:
    temperature = components.TemperatureCfg(initial=0.5, entropy_per_dim=target, learning_rate=0.1)
    learner = off_policy(algorithms.SACCfg(**SMALL, temperature=temperature))
    learner.train_step(random_batch(), update_actor=True)
    assert learner.temperature().item() == pytest.approx(0.5 * np.exp(sign * 0.1), rel=1e-4)


@pytest.mark.parametrize("cfg", [algorithms.SACCfg, algorithms.TD3Cfg])
def test_regularizers_are_part_of_the_loss_of_off_policy_actors(cfg: Any) -> None:
    term = algorithms.SymmetryCfg(
        function=mirror, use_data_augmentation=False, use_mirror_loss=True, mirror_loss_coef=5.0
    )
    actor = components.DeterministicActorCfg if cfg is algorithms.TD3Cfg else components.TanhGaussianActorCfg
    plain, regular = (off_policy(cfg(**SMALL, loss_terms=terms), actor) for terms in ([], [term]))
    batch, losses = random_batch(), []
    for learner in (plain, regular):
        torch.manual_seed(4)
        losses.append(learner.policy_loss(learner.actor_critic.augment(batch)))
    penalty = losses[1][-1]["Loss/symmetry"]
    assert penalty > 0
    torch.testing.assert_close(losses[1][0] - losses[0][0], penalty, rtol=1e-4, atol=1e-6)
