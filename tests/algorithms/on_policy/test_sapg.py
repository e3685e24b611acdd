"""SAPG and EPO: closed forms, what is relabelled and what is not, and PPO as the case of one block."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from RoboRenForce import algorithms, components, networks
from RoboRenForce.algorithms import RunContext, Transition
from RoboRenForce.algorithms.functional import gae
from RoboRenForce.algorithms.functional.evolution import next_generation, random_pairs, spread_exceeds
from RoboRenForce.configclass import ConfigError
from RoboRenForce.envs import GroupVecCfg
from RoboRenForce.envs.scripted_env import ScriptedEnvCfg
from small_runs import check_same

pytestmark = pytest.mark.oracle

STEPS = 6


def environment(num_envs: int, num_blocks: int) -> Any:
    groups = GroupVecCfg(num_blocks=num_blocks, observe_blocks=True)
    return ScriptedEnvCfg(num_envs=num_envs, groups=groups).build()


def conditioned(backbone: networks.NetworkCfg | None = None, features: int = 3) -> components.ActorCriticPackCfg:
    backbone = backbone or networks.MLPCfg(hidden_features=[8], activations="Tanh")
    policy = components.ActorCriticPackCfg(
        actor_cfg=components.StateIndStdActorCfg(backbone_cfg=backbone, init_std=0.7),
        critic_cfg=components.VNetworkCfg(backbone_cfg=backbone),
    )
    return algorithms.sapg_policy(policy, features)


def built(cfg: algorithms.PPOCfg, env: Any, policy: Any = None, **context: Any) -> Any:
    torch.manual_seed(3)
    runtime = RunContext(env.spec, torch.device("cpu"), STEPS, 10, **context)
    return cfg.build(policy=policy or conditioned(), context=runtime)


def collect(learner: Any, env: Any) -> None:
    obs = env.get_observations()
    for _ in range(STEPS):
        out = learner.act(obs)
        transition = Transition.of_step(obs, out.action, out.record, env.step(out.action))
        learner.process_env_step(transition)
        obs = transition.reset_obs


def small(**options: Any) -> algorithms.SAPGPPOCfg:
    defaults = {"num_learning_epochs": 2, "num_mini_batches": 2, "learning_rate": 1e-2}
    return algorithms.SAPGPPOCfg(**{**defaults, **options})


# --- PPO as a special case -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backbone", [None, networks.RNNCfg(hidden_size=4)])
def test_one_block_is_ppo_bit_for_bit(backbone):
    both = []
    for cfg in (
        small(),
        algorithms.PPOCfg(num_learning_epochs=2, num_mini_batches=2, learning_rate=1e-2, entropy_coef=0),
    ):
        env = environment(4, 1)
        sets = {"actor": ["policy", "block"], "critic": ["critic", "block"]}
        learner = built(cfg, env, conditioned(backbone), obs_groups=sets)
        for _ in range(3):
            collect(learner, env)
            metrics = learner.update()
        both.append((learner.state_dict(), metrics))
    (ours, ours_metrics), (theirs, theirs_metrics) = both
    assert ours.pop("evolution") is None
    check_same(ours, theirs)
    del ours_metrics["Loss/entropy"], theirs_metrics["Loss/entropy"]  # weighted by the coefficient of the leader, 0
    check_same(ours_metrics, theirs_metrics)


# --- relabelled data -------------------------------------------------------------------------------------------------


def test_the_importance_ratio_is_that_of_the_densities():
    leader, follower = torch.distributions.Normal(0.1, 0.5), torch.distributions.Normal(0.0, 0.6)
    expected = (leader.log_prob(torch.tensor(0.2)) - follower.log_prob(torch.tensor(0.2))).exp()
    assert float(expected) == pytest.approx(1.243434, abs=1e-5)  # the number of the reference sheet
    env = environment(4, 2)
    learner = built(small(), env)
    with torch.no_grad():
        for parameter in learner.actor.backbone.parameters():
            parameter.zero_()
        learner.actor.backbone.output_layer.bias.fill_(0.1)
        learner.actor.std.param.copy_(torch.tensor([[0.5], [0.6]]).expand(2, env.spec.action.dim))
    collect(learner, env)
    # The follower acted with mean 0: only the log-prob that it recorded says so.
    buffer, dim = learner.buffer, env.spec.action.dim
    buffer.action.fill_(0.2)
    buffer.rows["log_prob"].fill_(dim * float(follower.log_prob(torch.tensor(0.2))))
    learner.mini_batches.relabelled.draw()
    learner.mini_batches.relabelled.relabel(learner.rollout.end()[0])
    torch.testing.assert_close(learner.mini_batches.relabelled.ratio, torch.full((STEPS, 2), float(expected) ** dim))


@pytest.mark.parametrize("clip", ["mu", "one"])
def test_relabelled_rows_are_what_a_plain_walk_over_the_rollout_gives(clip):
    env = environment(6, 3)
    learner = built(small(off_policy_clip=clip, off_policy_blocks=2, gamma=0.9), env)
    for _ in range(2):  # after an update blocks differ
        collect(learner, env)
        learner.update()
    collect(learner, env)
    learner.mini_batches.relabelled.draw()
    source, last = learner.buffer, learner.rollout.end()[0]
    learner.mini_batches.relabelled.relabel(last)
    own, rows = learner.mini_batches.relabelled.buffer, learner.mini_batches.relabelled.rows
    assert sorted(rows.tolist()) == [0, 1, 2, 3]  # both followers, never the leader
    as_leader = lambda obs: {**obs, "block": torch.zeros_like(obs["block"])}  # noqa: E731
    for t in range(STEPS):
        for column, row in enumerate(rows.tolist()):
            obs = as_leader({name: x[t, row] for name, x in source.obs.items()})
            after = {name: (source.obs[name][t + 1, row] if t + 1 < STEPS else last[name][row]) for name in obs}
            with torch.no_grad():
                value, next_value = learner.critic(obs)[0], learner.critic(as_leader(after))[0]
                log_prob = learner.actor(obs)[0].log_prob(source.action[t, row])
            target = source.reward[t, row] + 0.9 * next_value * (~source.done[t, row])
            ratio = (log_prob - source.log_prob[t, row]).exp()
            torch.testing.assert_close(own.value[t, column], value)
            torch.testing.assert_close(own.return_[t, column], target)
            torch.testing.assert_close(own.advantage[t, column], target - value)
            torch.testing.assert_close(learner.mini_batches.relabelled.ratio[t, column], ratio)
            torch.testing.assert_close(own.log_prob[t, column], log_prob if clip == "mu" else source.log_prob[t, row])
            assert bool(own.mask[t, column]) is not bool(source.time_outs[t, row])
    assert source.time_outs.any()


def test_recurrent_rows_run_from_the_states_of_their_follower():
    env = environment(4, 2)
    learner = built(small(), env, conditioned(networks.RNNCfg(hidden_size=4)))
    collect(learner, env)
    learner.update()
    collect(learner, env)
    learner.mini_batches.relabelled.draw()
    last = learner.rollout.end()[0]
    learner.mini_batches.relabelled.relabel(last)
    own, source = learner.mini_batches.relabelled.buffer, learner.buffer
    state, values = source.states["critic"][:, :2], []
    for t in range(STEPS):
        obs = {name: x[t, :2] for name, x in source.obs.items()} | {"block": torch.zeros(2, 1)}
        value, state = learner.critic(obs, state, source.rows["start"][t, :2])
        values.append(value)
    obs = {name: x[:2] for name, x in last.items()} | {"block": torch.zeros(2, 1)}
    after = learner.critic(obs, state, source.done[-1, :2])[0]
    advantage, _ = gae(source.reward[:, :2], torch.stack(values), source.done[:, :2], after, gamma=0.99, lam=0.0)
    torch.testing.assert_close(own.advantage, advantage.detach())
    assert all(torch.isfinite(x).all() for x in learner.update().values())


def test_equal_vectors_and_log_probs_have_ratio_one():
    env = environment(4, 2)
    learner = built(small(), env)
    with torch.no_grad():
        for network in (learner.actor, learner.critic):
            network.encoder.blocks.table.copy_(network.encoder.blocks.table[:1].expand(2, -1))
    collect(learner, env)
    learner.mini_batches.relabelled.draw()
    learner.mini_batches.relabelled.relabel(learner.rollout.end()[0])
    torch.testing.assert_close(learner.mini_batches.relabelled.ratio, torch.ones(STEPS, 2))


@pytest.mark.parametrize("clip", ["mu", "one"])
def test_the_loss_is_that_of_the_paper_row_by_row(clip):
    """Loss and KL of one mini-batch against sums over its rows, with the paper's clip interval written out."""
    torch.set_default_dtype(torch.float64)
    try:
        env = environment(4, 2)
        cfg = small(off_policy_clip=clip, num_mini_batches=1, num_learning_epochs=1, entropy_coef=0.3, shuffle="none")
        learner = built(cfg, env)
        for _ in range(2):
            collect(learner, env)
            learner.update()
        collect(learner, env)
        learner.mini_batches.relabelled.draw()
        learner.mini_batches.prepare(*learner.rollout.end())
        with torch.no_grad():  # the policy has moved since it acted
            for parameter in learner.networks.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
        joint = next(iter(learner.mini_batches))
        loss, kl, _ = learner.loss(joint)
        batch = joint.collected()
        own, ratio = learner.mini_batches.relabelled.buffer, learner.mini_batches.relabelled.ratio.flatten()
        on = [batch.advantage, batch.log_prob, batch.value, batch.return_]
        surrogate, error, entropy, count, divergence = 0.0, 0.0, 0.0, 0, 0.0
        distribution, value = learner.actor(batch.obs)[0], learner.critic(batch.obs)[0]
        log_prob = distribution.log_prob(batch.action)
        for i in range(len(value)):
            advantage, old, before, target = (x[i] for x in on)
            r = (log_prob[i] - old).exp()
            surrogate += torch.maximum(-advantage * r, -advantage * r.clamp(0.8, 1.2))
            clipped = before + (value[i] - before).clamp(-0.2, 0.2)
            error += torch.maximum((value[i] - target) ** 2, (clipped - target) ** 2)
            entropy += 0.5 * batch.obs["block"][i, 0] * distribution.entropy()[i]  # 1/2 and 0 of two blocks
            count += 1
        divergence, num_on = distribution.kl_from(batch.dist_params).mean(), count
        obs = own.obs.flatten(0, 1)
        distribution, value = learner.actor(obs)[0], learner.critic(obs)[0]
        log_prob = distribution.log_prob(own.action.flatten(0, 1))
        follower = learner.buffer.log_prob[:, learner.mini_batches.relabelled.rows].flatten()
        for i in range(len(value)):
            if not own.mask.flatten()[i]:
                continue
            mu = ratio[i] if clip == "mu" else 1.0
            advantage = own.advantage.flatten()[i] / mu  # stored times mu
            r = (log_prob[i] - follower[i]).exp()
            surrogate += torch.maximum(-advantage * r, -advantage * r.clamp(mu * 0.8, mu * 1.2))
            before, target = own.value.flatten()[i], own.return_.flatten()[i]
            clipped = before + (value[i] - before).clamp(-0.2, 0.2)
            error += torch.maximum((value[i] - target) ** 2, (clipped - target) ** 2)
            count += 1
        torch.testing.assert_close(loss, surrogate / count + error / count - 0.3 * entropy / num_on)
        torch.testing.assert_close(kl, divergence)
    finally:
        torch.set_default_dtype(torch.float32)


def test_advantages_are_normalized_with_those_of_the_relabelled_rows():
    env = environment(4, 2)
    learner = built(small(off_policy_clip="one"), env)
    collect(learner, env)
    learner.mini_batches.relabelled.draw()
    learner.mini_batches.prepare(*learner.rollout.end())
    own = learner.mini_batches.relabelled.buffer
    union = torch.cat([learner.buffer.advantage.flatten(), own.advantage[own.mask]])
    assert float(union.mean()) == pytest.approx(0.0, abs=1e-6) and float(union.std()) == pytest.approx(1.0, abs=1e-5)


def test_the_entropy_coefficients_go_from_half_the_scale_to_zero():
    env = environment(12, 6)
    learner = built(small(entropy_coef=0.005, num_mini_batches=1), env)
    collect(learner, env)
    learner.mini_batches.relabelled.draw()
    learner.mini_batches.prepare(*learner.rollout.end())
    batch = next(iter(learner.mini_batches)).collected()
    for block, expected in enumerate((0.0025, 0.002, 0.0015, 0.001, 0.0005, 0.0)):
        found = 0.005 * batch.entropy_weight[batch.obs["block"].squeeze(-1) == 5 - block]
        torch.testing.assert_close(found, torch.full((STEPS * 2,), expected))


# --- the leader ------------------------------------------------------------------------------------------------------


def test_the_leader_is_played_whatever_block_a_row_belongs_to():
    env = environment(4, 2)
    learner = built(small(), env)
    collect(learner, env)
    learner.update()
    obs, policy = env.get_observations(), learner.policy()
    as_leader = {**obs, "block": torch.zeros(4, 1)}
    torch.testing.assert_close(policy(obs), learner.actor(as_leader)[0].mode)
    assert not torch.allclose(policy(obs)[:2], learner.actor(obs)[0].mode[:2])
    export = policy.exportable()
    assert set(export.inputs) == {"obs"} and export.inputs["obs"].shape[1] == env.spec.obs_dim(["policy"])
    torch.testing.assert_close(export.module(obs["policy"]), policy(obs))
    policy.deterministic = False
    with torch.no_grad():
        learner.actor.std.param[0] = 1e-6
        torch.testing.assert_close(policy(obs), learner.actor(as_leader)[0].mode, atol=1e-4, rtol=0)


def test_wrong_set_ups_are_refused():
    env = ScriptedEnvCfg(num_envs=4).build()
    with pytest.raises(ConfigError, match=r"set env\.groups\.num_blocks=6"):
        built(small(), env)
    plain = components.ActorCriticPackCfg()
    with pytest.raises(ConfigError, match="set block_features=32"):
        built(small(), environment(4, 2), plain)
    with pytest.raises(ConfigError, match="normalizes over the rollout"):
        small(normalize_advantage_per_mini_batch=True).validate()


# --- evolution -------------------------------------------------------------------------------------------------------


def test_the_worst_becomes_the_mean_of_the_two_best():
    genes = torch.tensor([[0.0, 0.0], [2.0, 2.0], [4.0, 0.0], [6.0, 6.0]])
    pairs, none = torch.tensor([[0, 1]]), torch.zeros(1, 2)
    new, replaced = next_generation(genes, torch.tensor([1.0, 5.0, 3.0, -2.0]), pairs, none)
    assert new.tolist() == [[0.0, 0.0], [2.0, 2.0], [4.0, 0.0], [3.0, 1.0]]
    assert replaced.tolist() == [False, False, False, True]


def test_the_leader_is_never_replaced_and_may_be_a_parent():
    genes = torch.tensor([[8.0], [2.0], [4.0], [6.0]])
    worst_leader = torch.tensor([-9.0, 5.0, 3.0, 4.0])
    new, replaced = next_generation(genes, worst_leader, torch.tensor([[0, 1]]), torch.zeros(1, 1))
    assert replaced.tolist() == [False, False, True, False] and new[2].item() == 4.0
    new, _ = next_generation(genes, -worst_leader, torch.tensor([[0, 1]]), torch.zeros(1, 1))
    assert new[1].item() == 6.0  # (8 + 4) / 2


def test_parents_differ_and_are_elites():
    pairs = random_pairs(500, 3, torch.device("cpu"))
    assert (pairs[:, 0] != pairs[:, 1]).all() and set(pairs.flatten().tolist()) == {0, 1, 2}


def test_the_trigger_is_the_papers():
    fitness = torch.tensor([1.0, 2.0, 3.0])
    assert bool(spread_exceeds(fitness, 0.9)) and not bool(spread_exceeds(fitness, 1.1))
    assert bool(spread_exceeds(fitness - 2.0, 100.0))  # it is not shift-invariant: a median of 0 always fires


def test_selection_and_mutation_alone_find_the_optimum_of_a_sphere():
    generator, goal = torch.Generator().manual_seed(0), torch.tensor([1.5, -2.0, 0.5])
    genes = torch.randn(16, 3, generator=generator)
    best = []
    for _ in range(60):
        fitness = -(genes - goal).square().sum(-1)
        best.append(float(fitness.max()))
        noise = genes.std(0) * torch.randn(8, 3, generator=generator)
        genes, _ = next_generation(genes, fitness, random_pairs(8, 4, genes.device), noise)
    assert all(after >= before for before, after in pairwise(best))
    assert best[-1] > 0.1 * best[0]


def epo(**options: Any) -> algorithms.EPOCfg:
    evolution = algorithms.EvolutionCfg(**{"interval_updates": 2, "warmup_updates": 0, **options})
    return algorithms.EPOCfg.extending(small(), evolution=evolution)


def tables(learner: Any) -> list[torch.Tensor]:
    found = [learner.actor.encoder.blocks.table, learner.critic.encoder.blocks.table, learner.actor.std.param]
    return [table.detach().clone() for table in found]


def test_fitness_counts_whole_episodes_of_every_environment_after_the_last_replacement():
    env = environment(8, 4)
    learner = built(epo(interval_updates=1), env)
    evolution, before = learner.evolution, tables(learner)
    step = Transition.of_step(
        env.get_observations(), torch.zeros(8, env.spec.action.dim), {}, env.step(torch.zeros(8, env.spec.action.dim))
    )

    def one(reward: list[float], done: list[int]) -> None:
        evolution.record(replace(step, reward=torch.tensor(reward), done=torch.tensor(done)))

    rewards = [1.0, 3.0, 0.0, -2.0, 7.0, 7.0, 4.0, 6.0]  # blocks 2, -1, 7, 5 (leader) on average
    one([100.0] * 8, [1] * 8)  # episodes that were running already do not count
    one(rewards, [1] * 7 + [0])
    evolution.step()
    assert float(evolution.generations) == 0  # the last environment has not finished
    one(rewards, [0] * 7 + [1])  # a return of 12 there: the leader has (4 + 12) / 2 = 8
    evolution.step()
    assert float(evolution.generations) == 1
    # Rows count from the leader: 8, 7, -1, 2. Row 2 is the worst, rows 0 and 1 are the best.
    for old, new in zip(before, tables(learner), strict=True):
        torch.testing.assert_close(new[2], 0.5 * (old[0] + old[1]))
        torch.testing.assert_close(new[[0, 1, 3]], old[[0, 1, 3]])
    evolution.step()
    assert float(evolution.generations) == 1  # nothing has begun since


def test_adam_forgets_replaced_rows_only():
    env = environment(8, 4)
    learner = built(epo(interval_updates=10), env)
    collect(learner, env)
    learner.update()
    moments = lambda: learner.optimizer.state_dict()["moments"]["exp_avg_sq"]  # noqa: E731
    before = moments()
    learner.evolution.replace(torch.tensor([1.0, 5.0, 3.0, -2.0]))
    number_of_tables = 0
    for parameter, old, new in zip(learner.optimizer.params, before, moments(), strict=True):
        if any(parameter is table for table in learner.evolution.tables):
            number_of_tables += 1
            assert (old[3] != 0).any() and (new[3] == 0).all()
            torch.testing.assert_close(new[:3], old[:3])
        else:
            torch.testing.assert_close(new, old)
    assert number_of_tables == 3


def test_a_population_too_small_for_its_rule_is_refused():
    with pytest.raises(ConfigError, match="keeps 2 elites and replaces 1 of 2 blocks"):
        built(epo(), environment(4, 2))
    with pytest.raises(ConfigError, match="set rule=aggressive"):
        algorithms.EvolutionCfg(num_elites=3).validate()


@pytest.mark.parametrize("rule", [{}, {"rule": "aggressive", "num_elites": 3, "mutation": 0.1, "trigger": 1e-3}])
def test_a_resumed_learner_goes_on_bit_for_bit(rule):
    def run(learner: Any, env: Any, updates: int) -> None:
        for _ in range(updates):
            collect(learner, env)
            learner.update()

    env = environment(12, 6)
    learner = built(epo(**rule), env)
    run(learner, env, 5)
    state, env_state, rng = deepcopy(learner.state_dict()), deepcopy(env.state_dict()), torch.get_rng_state()
    run(learner, env, 5)
    assert float(learner.evolution.generations) > 0
    other_env = environment(12, 6)
    other = built(epo(**rule), other_env)
    other.load_state_dict(state)
    other_env.load_state_dict(env_state)
    torch.set_rng_state(rng)
    run(other, other_env, 5)
    check_same(other.state_dict(), learner.state_dict())
