"""TD3 against plain re-derivations, and what FastTD3, FastSAC and FlashSAC add to a gradient step."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from RoboRenForce import algorithms, components, networks
from RoboRenForce.algorithms import RunContext
from RoboRenForce.buffer import PrioritizedReplayBufferCfg, ReplayBatch, ReplayBufferCfg
from RoboRenForce.components.lr_schedule import cosine_
from RoboRenForce.components.return_heads.categorical import project
from RoboRenForce.envs.spec import ActionSpec, EnvSpec
from RoboRenForce.networks import BatchNorm, batch_statistics, constrain_
from stepping import stepped
from tensordict import TensorDict

pytestmark = pytest.mark.oracle

GAMMA, B, OBS, A = 0.99, 32, 3, 2
SPEC = EnvSpec(
    "toy", 4, {"policy": (OBS,)}, ActionSpec("continuous", A, (-1.0,) * A, (1.0,) * A), 100, ("final_observations",)
)
SMALL: dict[str, Any] = {"replay": ReplayBufferCfg(capacity=256), "batch_size": 16, "learning_starts": 0}
FLASH = networks.FlashNetCfg(width=8, num_blocks=1)


def td3(num_q: int = 2, head: Any = None, **options: Any) -> algorithms.TD3:
    mlp = networks.MLPCfg(hidden_features=[8], activations="Tanh")
    policy = components.ActorQPackCfg(
        actor_cfg=components.DeterministicActorCfg(backbone_cfg=mlp, normalizer_cfg=None),
        critic_cfg=components.QNetworkCfg(
            backbone_cfg=mlp, normalizer_cfg=None, num_q=num_q, head_cfg=head or components.ScalarHeadCfg()
        ),
    )
    return build(algorithms.TD3Cfg(**(SMALL | options)), policy)


def flash(**options: Any) -> algorithms.SAC:
    policy = algorithms.flash_sac_policy()
    policy.actor_cfg.backbone_cfg, policy.critic_cfg.backbone_cfg = FLASH, FLASH
    return build(algorithms.FlashSACCfg(**(SMALL | {"precision": "fp32"} | options)), policy)


def build(cfg: Any, policy: Any) -> Any:
    torch.manual_seed(0)
    return cfg.build(policy=policy, context=RunContext(spec=SPEC, device=torch.device("cpu"), max_updates=50))


def random_batch() -> ReplayBatch:
    done = torch.rand(B) < 0.3
    return ReplayBatch(
        obs={"policy": torch.randn(B, OBS)},
        action=torch.rand(B, A) * 2 - 1,
        reward=torch.randn(B),
        discount=GAMMA * (1.0 - done.float()),
        next_obs={"policy": torch.randn(B, OBS) + 0.5},
    )


def run(learner: Any, steps: int, reward: float = 1.0) -> None:
    """Some steps of a made-up environment in which episodes end now and then."""
    learner.train()
    obs = TensorDict({"policy": torch.randn(4, OBS)}, [4])
    for _ in range(steps):
        out, before = learner.act(obs), obs
        obs = TensorDict({"policy": torch.randn(4, OBS)}, [4])
        done = (torch.rand(4) < 0.2).long()
        extras = {"final_observations": obs, "terminated": done.bool(), "time_outs": done * 0}
        learner.process_env_step(stepped(before, out, obs, torch.full((4,), reward) * torch.rand(4), done, extras))
        learner.update()


# --- TD3 -------------------------------------------------------------------------------------------------------------


def test_losses_equal_a_plain_re_derivation() -> None:
    learner = td3(target_noise=0.4, target_noise_clip=0.3)
    with torch.no_grad():
        for parameter in learner.target_actor.parameters():
            parameter.mul_(3.0)
    batch = random_batch()
    torch.manual_seed(5)
    loss, errors, _ = learner.critic_loss(batch)

    torch.manual_seed(5)
    action = learner.target_actor(batch.next_obs)[0].mode
    noise = (0.4 * torch.randn(B, A)).clamp(-0.3, 0.3)
    assert (noise.abs() == 0.3).any() and ((action + noise).abs() > 1.0).any()
    y = batch.reward + batch.discount * learner.target_critic(batch.next_obs, (action + noise).clamp(-1, 1)).amin(0)
    q = learner.critic(batch.obs, batch.action)
    torch.testing.assert_close(loss, (q[0] - y).square().mean() + (q[1] - y).square().mean())
    torch.testing.assert_close(errors, (q - y).square().mean(0).sqrt().detach())

    loss, _ = learner.policy_loss(batch)
    torch.testing.assert_close(loss, -learner.critic(batch.obs, learner.actor(batch.obs)[0].mode)[0].mean())


@pytest.mark.parametrize(
    ("option", "value"), [("first", lambda q: q[0]), ("min", lambda q: q.amin(0)), ("mean", lambda q: q.mean(0))]
)
def test_the_policy_climbs_the_critic_it_is_told_to(option: Any, value: Any) -> None:
    learner, batch = td3(num_q=3, policy_value=option), random_batch()
    expected = -value(learner.critic(batch.obs, learner.actor(batch.obs)[0].mode)).mean()
    torch.testing.assert_close(learner.policy_loss(batch)[0], expected)


def test_policy_and_targets_wait_for_their_turn() -> None:
    learner = td3(tau=0.25)
    watched = {"actor": learner.actor, "target_actor": learner.target_actor, "target_critic": learner.target_critic}
    before = {name: copy.deepcopy(network.state_dict()) for name, network in watched.items()}
    learner.train_step(random_batch(), update_actor=False)
    for name, network in watched.items():
        assert all(torch.equal(value, before[name][key]) for key, value in network.state_dict().items()), name
    learner.train_step(random_batch(), update_actor=True)
    for key, value in learner.target_actor.state_dict().items():
        torch.testing.assert_close(value, 0.75 * before["target_actor"][key] + 0.25 * learner.actor.state_dict()[key])
    assert any(not torch.equal(value, before["actor"][key]) for key, value in learner.actor.state_dict().items())


def test_without_a_target_actor_the_policy_itself_chooses_and_targets_follow_always() -> None:
    learner = td3(target_actor=False, delay_targets=False, target_noise=0.0)
    batch = random_batch()
    torch.testing.assert_close(learner.next_action(batch), learner.actor(batch.next_obs)[0].mode.detach())
    before = copy.deepcopy(learner.target_critic.state_dict())
    learner.train_step(batch, update_actor=False)
    assert any(not torch.equal(value, before[key]) for key, value in learner.target_critic.state_dict().items())
    assert "target_actor" not in learner.parts()


def test_with_categorical_critics_the_pessimistic_distribution_is_the_target() -> None:
    head = components.CategoricalHeadCfg(num_atoms=11, v_min=-5.0, v_max=5.0)
    learner, batch = td3(head=head, target_noise=0.0), random_batch()
    action = learner.next_action(batch)
    logits = learner.target_critic.outputs(batch.next_obs["policy"], action)
    probability = logits.softmax(-1)
    values = (probability * torch.linspace(-5, 5, 11)).sum(-1)
    chosen = torch.where((values[0] <= values[1]).unsqueeze(-1), probability[0], probability[1])
    target = project(chosen, batch.reward, batch.discount, -5.0, 5.0)
    log_q = learner.critic.outputs(batch.obs["policy"], batch.action).log_softmax(-1)
    expected = -(target * log_q).sum(-1).mean(1).sum()
    torch.testing.assert_close(learner.critic_loss(batch)[0], expected)


def test_a_constant_reward_with_time_outs_only_is_worth_its_geometric_series() -> None:
    """Q = 1 / (1 - gamma) everywhere; stopping at the time-outs would settle far below."""
    learner = td3(gamma=0.8, critic_learning_rate=3e-3, tau=0.2)
    batch = random_batch()
    batch.reward, batch.discount = torch.ones(B), torch.full((B,), 0.8)
    for step in range(800):
        learner.train_step(batch, update_actor=step % 2 == 1)
    value = learner.critic(batch.obs, batch.action)
    np.testing.assert_allclose(value.detach().mean().item(), 5.0, atol=0.15)


def test_a_stochastic_policy_is_refused_in_words() -> None:
    with pytest.raises(ValueError, match=r"TanhGaussianActor: use DeterministicActorCfg, or SACCfg"):
        build(algorithms.TD3Cfg(**SMALL), components.ActorQPackCfg())


def test_a_resumed_run_goes_on_bit_for_bit() -> None:
    options = {"replay": ReplayBufferCfg(capacity=256, store=True), "exploration": components.MixedNoiseCfg()}
    one = td3(**options)
    run(one, 15)
    state = copy.deepcopy(one.state_dict())
    torch.manual_seed(3)
    run(one, 7)
    other = td3(**options)
    other.load_state_dict(state)
    torch.manual_seed(3)
    run(other, 7)
    for name, value in one.networks.state_dict().items():
        assert torch.equal(value, other.networks.state_dict()[name]), name


def mirror(obs: Any, actions: Any) -> Any:
    """The mirror image of everything is its negative."""
    if obs is not None:
        obs = TensorDict({"policy": torch.cat([obs["policy"], -obs["policy"]])}, [2 * obs.batch_size[0]])
    return obs, None if actions is None else torch.cat([actions, -actions])


@pytest.mark.parametrize("augments", [True, False])
def test_symmetry_mirrors_whole_transitions_and_pulls_the_policy_towards_its_image(augments: bool) -> None:
    term = algorithms.SymmetryCfg(
        function=mirror, use_data_augmentation=augments, use_mirror_loss=True, mirror_loss_coef=3.0
    )
    replay = PrioritizedReplayBufferCfg(capacity=256)
    learner, batch = td3(loss_terms=[term], batch_size=B, replay=replay), random_batch()
    batch.next_action = torch.rand(B, A)
    seen = learner.actor_critic.augment(batch)
    assert len(seen.reward) == (2 * B if augments else B)
    if augments:
        for name in ("reward", "discount"):
            assert torch.equal(getattr(seen, name), getattr(batch, name).repeat(2)), name
        for name in ("action", "next_action"):
            assert torch.equal(getattr(seen, name)[B:], -getattr(batch, name)), name
        for name in ("obs", "next_obs"):
            assert torch.equal(getattr(seen, name)["policy"][B:], -getattr(batch, name)["policy"]), name

    _, metrics = learner.policy_loss(seen)
    there, image = (learner.actor({"policy": sign * batch.obs["policy"]})[0].mode for sign in (1.0, -1.0))
    assert metrics["Loss/symmetry"].item() == pytest.approx(3.0 * (image + there).square().mean().item(), rel=1e-5)
    run(learner, 12)
    assert learner.num_updates == 12 and not learner.actor_critic.actor_optimizer.adam.skipped


# --- batch statistics, constraints, reward scale ----------------------------------------------------------------------


def test_networks_with_batch_statistics_see_both_ends_at_once() -> None:
    learner, batch = flash(), random_batch()
    online, target = copy.deepcopy(learner.critic), copy.deepcopy(learner.target_critic)
    torch.manual_seed(5)
    loss, _, _ = learner.critic_loss(batch)

    torch.manual_seed(5)
    next_action, next_log_prob = learner.actor(batch.next_obs)[0].rsample_with_log_prob()
    both = torch.cat([batch.obs["policy"], batch.next_obs["policy"]])
    actions = torch.cat([batch.action, next_action.detach()])
    with batch_statistics(online, target):
        output, next_output = online.outputs(both, actions)[:, :B], target.outputs(both, actions)[:, B:]
    bonus = -learner.temperature() * next_log_prob.detach()
    y = learner.critic.head.target(next_output, bonus, batch.reward, batch.discount, "min")
    torch.testing.assert_close(loss, learner.critic.head.loss(output, y).mean(1).sum())


def statistics(network: torch.nn.Module) -> list[torch.Tensor]:
    return [m.running_mean.clone() for m in network.modules() if isinstance(m, BatchNorm)]


def moved(network: torch.nn.Module, before: list[torch.Tensor]) -> bool:
    return any(not torch.equal(a, b) for a, b in zip(statistics(network), before, strict=True))


def test_statistics_follow_the_pass_in_which_a_network_learns_and_no_other() -> None:
    learner, batch = flash(), random_batch()
    obs = TensorDict({"policy": torch.randn(4, OBS)}, [4])
    actor, critic = statistics(learner.actor), statistics(learner.critic)
    learner.train()
    learner.act(obs)
    learner.policy()(obs)
    assert not moved(learner.actor, actor)
    learner.critic_loss(batch)  # the policy is asked for a', the critics learn
    assert moved(learner.critic, critic) and not moved(learner.actor, actor)
    critic = statistics(learner.critic)
    learner.policy_loss(batch)  # the policy learns, the critics are asked
    assert moved(learner.actor, actor) and not moved(learner.critic, critic)


def test_a_target_policy_normalizes_as_the_policy_does() -> None:
    """It is never trained on a batch, so its statistics have to follow those of the policy."""
    policy = algorithms.fast_td3_policy()
    policy.actor_cfg.backbone_cfg = FLASH
    learner = build(algorithms.TD3Cfg(**SMALL, tau=1.0), policy)
    run(learner, 4)
    expected = statistics(learner.actor)
    assert all(mean.any() for mean in expected)
    for mean, target in zip(expected, statistics(learner.target_actor), strict=True):
        assert torch.equal(mean, target)


@pytest.mark.parametrize("build_learner", [td3, flash])
def test_a_gradient_step_searches_no_network_for_batch_norm_and_constraints(
    build_learner: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner, searched = build_learner(), []
    run(learner, 4)
    search = torch.nn.Module.modules
    monkeypatch.setattr(torch.nn.Module, "modules", lambda self: searched.append(self) or search(self))
    run(learner, 4)
    assert not [module for module in searched if [*module.children()]]


def test_compiled_steps_of_constrained_networks_equal_eager_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several optimizers share the line of their step; compiled for any shape, it failed on views of flat weights."""
    build_graph, found = torch.compile, []
    monkeypatch.setattr(torch, "compile", lambda f, **options: build_graph(f, backend="aot_eager", **options))
    for mode in ("off", "on"):
        learner = flash(compile=mode, policy_delay=1)
        torch.manual_seed(1)
        run(learner, 3)
        found.append([*learner.networks.parameters(), *learner.target_critic.parameters()])
    for eager, compiled in zip(*found, strict=True):
        torch.testing.assert_close(eager, compiled, atol=1e-5, rtol=1e-4)


def test_constraints_hold_after_every_step_of_the_learner() -> None:
    learner = flash(policy_delay=1)
    run(learner, 4)
    for network in (learner.actor, learner.critic):
        before = [parameter.clone() for parameter in network.parameters()]
        constrain_(network)
        for old, new in zip(before, network.parameters(), strict=True):
            torch.testing.assert_close(old, new, atol=1e-6, rtol=1e-6)
    assert learner.num_updates == 8


def test_rewards_are_scaled_as_they_are_drawn_by_the_statistics_of_now() -> None:
    learner = flash(max_return=2.0, gradient_steps=1)
    seen: list[ReplayBatch] = []
    learner.train_step = lambda batch, update_actor: seen.append(batch) or {"x": torch.zeros(())}
    run(learner, 40, reward=100.0)
    scaler = learner.experience.reward_scaler
    assert scaler.largest.item() > 100.0
    divisor = max(math.sqrt(scaler.moments.var.item()), scaler.largest.item() / 2.0)
    assert seen[-1].reward.max().item() <= 100.0 / divisor * (1 + 1e-5)
    assert seen[-1].reward.max().item() > 50.0 / divisor


def test_the_reward_scale_belongs_to_the_checkpoint() -> None:
    learner, other = flash(), flash()
    run(learner, 10)
    state = copy.deepcopy(learner.state_dict())
    other.load_state_dict(state)
    assert other.experience.reward_scaler.largest.item() == learner.experience.reward_scaler.largest.item() > 0
    state["reward_scaler"] = None
    with pytest.raises(ValueError, match=r"trained without max_return, this configuration with it"):
        other.load_state_dict(state)


# --- schedules and recipes --------------------------------------------------------------------------------------------


def test_the_learning_rate_follows_half_a_cosine() -> None:
    rate = torch.tensor(1.0)
    for step, expected in ((0, 1.0), (25, 0.5 + 0.5 * 0.5 * (1 + math.cos(math.pi / 4))), (50, 0.75), (100, 0.5)):
        cosine_(rate, 1.0, 0.5, torch.tensor(float(step)), 100)
        assert rate.item() == pytest.approx(expected, abs=1e-6)
    cosine_(rate, 1.0, 0.5, torch.tensor(900.0), 100)
    assert rate.item() == 0.5
    learner = flash(gradient_steps=2)  # 50 updates of 2 steps are planned
    run(learner, 26)
    at = 0.5 + 0.5 * 0.5 * (1 + math.cos(math.pi * 51 / 100))  # the rate of the last step, taken after 51 others
    assert learner.actor_critic.critic_optimizer.adam.lr.item() == pytest.approx(3e-4 * at, rel=1e-4)


def test_the_entropy_make_target_flashsac_is_that_of_a_std_of_015() -> None:
    learner = flash()
    assert learner.temperature.target_entropy / A == pytest.approx(-0.4782, abs=1e-4)


@pytest.mark.parametrize("name", ["FastTD3", "FastSAC", "FlashSAC"])
def test_every_recipe_moves_its_parameters(name: str) -> None:
    recipes = {
        "FastTD3": (algorithms.FastTD3Cfg, algorithms.fast_td3_policy),
        "FastSAC": (algorithms.FastSACCfg, algorithms.fast_sac_policy),
        "FlashSAC": (algorithms.FlashSACCfg, algorithms.flash_sac_policy),
    }
    cfg, policy = recipes[name]
    learner = build(cfg(**SMALL), policy())
    before = [parameter.clone() for parameter in learner.networks.parameters()]
    run(learner, 4)
    changed = [not torch.equal(a, b) for a, b in zip(before, learner.networks.parameters(), strict=True)]
    assert sum(changed) > 0.9 * len(changed)
    assert learner.critic.head.out_features == 101
