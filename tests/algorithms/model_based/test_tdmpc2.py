"""TD-MPC2's losses by hand, what its windows and targets hold, and its runs: resume, acting elsewhere, play, export."""

from __future__ import annotations

import copy
import itertools
import pickle
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from RoboRenForce import algorithms, components
from RoboRenForce.algorithms import RunContext, Transition
from RoboRenForce.algorithms.model_based import PlannerPolicy
from RoboRenForce.buffer import ReplayBufferCfg, SequenceReplayBufferCfg
from RoboRenForce.buffer.replay_batch import ReplayBatch
from RoboRenForce.configclass import ConfigError
from RoboRenForce.envs.spec import ActionSpec, EnvSpec
from RoboRenForce.utils.export import export_policy
from small_runs import scripted
from tensordict import TensorDict
from torch import Tensor

pytestmark = pytest.mark.contract

H, B, OBS, ACTIONS = 3, 6, 4, 2
PLANNER = components.MPPICfg(num_samples=12, num_policy_samples=3, num_elites=4, iterations=2)


def spec_of(groups: dict[str, tuple[int, ...]] | None = None, num_envs: int = 3) -> EnvSpec:
    action = ActionSpec("continuous", ACTIONS, low=(-1.0,) * ACTIONS, high=(1.0,) * ACTIONS)
    return EnvSpec("synthetic", num_envs, groups or {"policy": (OBS,)}, action, 50, ("final_observations",))


def make(policy: Any = None, spec: EnvSpec | None = None, **options: Any) -> algorithms.TDMPC2:
    torch.manual_seed(0)
    settings: dict[str, Any] = {
        "replay": SequenceReplayBufferCfg(length=H, capacity=600, previous_action=False, store=True),
        "planner": PLANNER,
        "batch_size": B,
        "learning_starts": 30,
        "first_updates": 2,
    }
    cfg = algorithms.TDMPC2Cfg(**(settings | options))
    policy = policy or algorithms.tdmpc2_policy(16, 12, 10)
    spec = spec or spec_of()
    groups = {name: [*spec.obs_groups] for name in ("actor", "critic")}
    return cfg.build(policy=policy, context=RunContext(spec=spec, device=torch.device("cpu"), obs_groups=groups))


def batch_of(valid: Tensor | None = None, **groups: Tensor) -> ReplayBatch:
    generator = torch.Generator().manual_seed(3)
    obs = groups or {"policy": torch.randn(H + 1, B, OBS, generator=generator)}
    action = torch.rand(H, B, ACTIONS, generator=generator) * 2 - 1
    reward = torch.randn(H, B, generator=generator)
    return ReplayBatch(obs=obs, action=action, reward=reward, discount=torch.full((H, B), 0.99), valid=valid)


def shaken(learner: algorithms.TDMPC2) -> algorithms.TDMPC2:
    """Give the zero outputs of reward and critics weights of their own, and switch dropout off."""
    for network in (learner.model.reward, learner.model.critic, learner.target_critic):
        torch.nn.init.normal_(network.output.weight, std=0.3)
    learner.eval()
    return learner


@pytest.mark.oracle
def test_the_loss_is_the_papers_step_by_step() -> None:
    learner, batch = shaken(make()), batch_of()
    model, head = learner.model, learner.model.head
    torch.manual_seed(5)
    loss, states, metrics = learner.model_loss(batch)
    torch.manual_seed(5)
    with torch.no_grad():
        reached = model.backbone(batch.obs["policy"][1:])
        mean, raw = model.prior(reached).chunk(2, -1)
        action = (mean + (-10 + 6 * (raw.tanh() + 1)).exp() * torch.randn_like(mean)).tanh()
        members = head.mean(learner.target_critic(torch.cat([reached, action], -1)))
        drawn = torch.rand(5).argsort()[:2]
        target = batch.reward + 0.99 * members[drawn].amin(0)
    z, expected = model.backbone(batch.obs["policy"][0]), 0.0
    for t in range(H):
        torch.testing.assert_close(states[t], z.detach())
        pair = torch.cat([z, batch.action[t]], -1)
        code = head.loss(model.reward(pair), batch.reward[t])
        values = head.loss(model.critic(pair), target[t]).mean()
        z = model.dynamics(pair)
        distance = F.mse_loss(z, reached[t])
        expected = expected + 0.5**t * (20 * distance + 0.1 * code.mean() + 0.1 * values) / H
    torch.testing.assert_close(loss, expected)
    assert set(metrics) == {"Loss/consistency", "Loss/reward", "Loss/critic", "Policy/q_value"}


@pytest.mark.oracle
def test_the_policy_loss_is_scaled_value_plus_entropy_and_moves_the_prior_only() -> None:
    learner = shaken(make(entropy_coef=0.1))
    model, states = learner.model, torch.randn(H + 1, B, 16).softmax(-1)
    torch.manual_seed(5)
    loss, metrics = learner.policy_loss(states, learner.weights(batch_of(), H + 1))
    torch.manual_seed(5)
    mean, raw = model.prior(states).chunk(2, -1)
    log_std = -10 + 6 * (raw.tanh() + 1)
    action = (mean + log_std.exp() * torch.randn_like(mean)).tanh()
    q = model.head.mean(model.critic(torch.cat([states, action], -1)))[torch.rand(5).argsort()[:2]].mean(0)
    low, high = torch.quantile(q[0], 0.05), torch.quantile(q[0], 0.95)
    scale = 0.99 + 0.01 * max(float((high - low).detach()), 1.0)
    entropy = ACTIONS * (log_std + 0.5 * torch.log(torch.tensor(2 * torch.pi * torch.e))).sum(-1)
    rho = 0.5 ** torch.arange(H + 1.0).view(-1, 1)
    torch.testing.assert_close(loss, -(rho * (q / scale + 0.1 * entropy)).mean())
    torch.testing.assert_close(float(metrics["Policy/value_scale"]), scale)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    learner.prior_optimizer.step(loss)
    moved = {name.split(".")[0] for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {"prior"}


def test_the_model_step_moves_everything_but_the_prior_and_the_encoder_slower() -> None:
    policy = algorithms.tdmpc2_policy(16, 12, 10, terminates=True)
    learner, batch = shaken(make(policy)), batch_of()
    model = learner.model
    before = {name: value.clone() for name, value in model.state_dict().items()}
    learner.model_optimizer.step(learner.model_loss(batch)[0])
    size = {
        part: max(
            float((value - before[name]).abs().max())
            for name, value in model.state_dict().items()
            if name.startswith(f"{part}.")
        )
        for part in ("backbone", "dynamics", "reward", "critic", "termination", "prior")
    }
    assert size.pop("prior") == 0.0
    # Adam's first step is the learning rate, here for the largest gradients.
    assert size.pop("backbone") == pytest.approx(0.3 * 3e-4, rel=1e-2)
    assert all(found == pytest.approx(3e-4, rel=1e-2) for found in size.values()), size


def test_gradients_of_the_whole_model_are_clipped_together() -> None:
    learner = shaken(make(max_grad_norm=1e-3))
    adam = learner.model_optimizer.adam
    loss = learner.model_loss(batch_of())[0]
    grads = torch.autograd.grad(loss, adam.params, retain_graph=True, allow_unused=True, materialize_grads=True)
    total = torch.stack([grad.norm() for grad in grads]).norm()
    learner.model_optimizer.step(loss)
    first = adam.state_dict()["moments"]["exp_avg"]
    torch.testing.assert_close(torch.stack([moment.norm() for moment in first]).norm() * 10, torch.tensor(1e-3))
    torch.testing.assert_close(first[-1], 0.1 * 1e-3 * grads[-1] / total)


def test_what_comes_after_the_end_of_an_episode_changes_no_loss() -> None:
    valid = torch.ones(H, B)
    valid[1:, 0], valid[2:, 1], valid[:, 2] = 0.0, 0.0, 0.0  # episodes end after one and two steps; a waiting row
    learner, batch = shaken(make(algorithms.tdmpc2_policy(16, 12, 10, terminates=True))), batch_of(valid)
    other = copy.deepcopy(batch)
    other.obs["policy"][2:, 0] += 5.0
    other.obs["policy"][3:, 1] -= 5.0
    other.obs["policy"][:, 2] *= 3.0
    for rows in (other.action, other.reward, other.discount):
        rows[valid == 0] *= 0.5
    found = []
    for seen in (batch, other):
        torch.manual_seed(5)
        loss, states, _ = learner.model_loss(seen)
        learner.value_scale.value.fill_(1.0)
        policy_loss, _ = learner.policy_loss(states, learner.weights(seen, H + 1))
        found.append((loss, states, policy_loss))
    torch.testing.assert_close(found[0][0], found[1][0])
    # Of the states, the last one that the window reached counts for the prior, and none after it.
    weight = learner.weights(batch, H + 1)
    assert (weight > 0).sum(0).tolist() == [2, 3, 0, 4, 4, 4]
    changed = (found[0][1] != found[1][1]).any(-1)
    assert not changed[weight > 0].any() and changed.any()
    assert learner.weights(batch_of(), H).sum(0).tolist() == [1.75] * B


def test_a_termination_stops_the_target_and_teaches_the_head_but_a_time_out_does_neither() -> None:
    learner, batch = shaken(make(algorithms.tdmpc2_policy(16, 12, 10, terminates=True))), batch_of()
    batch.discount[1, 0] = 0.0
    reached = learner.model.encode({"policy": batch.obs["policy"][1:]})
    target = learner.td_target(reached, batch)
    assert target[1, 0] == batch.reward[1, 0] and (target != batch.reward).sum() == H * B - 1
    logit = learner.model.termination_logit(learner.model_loss(batch)[1][1:])
    expected = F.binary_cross_entropy_with_logits(logit, (batch.discount == 0).float())
    torch.testing.assert_close(learner.model_loss(batch)[2]["Loss/termination"], expected)


def test_targets_have_no_dropout_and_move_slowly_and_the_planner_has_none_either() -> None:
    learner = make()
    learner.train()
    assert learner.model.critic.training and not learner.target_critic.training
    before = [parameter.clone() for parameter in learner.target_critic.parameters()]
    learner.train_step(batch_of(), True)
    for old, new, online in zip(
        before, learner.target_critic.parameters(), learner.model.critic.parameters(), strict=True
    ):
        torch.testing.assert_close(new, 0.99 * old + 0.01 * online)
    seen: list[bool] = []
    learner.model.critic.hidden[1].register_forward_hook(lambda dropout, *_: seen.append(dropout.training))
    learner.planner({"policy": torch.randn(3, OBS)})
    assert seen and not any(seen) and learner.model.critic.training


def test_the_planner_counts_nothing_behind_a_terminal_state() -> None:
    learner = shaken(make(algorithms.tdmpc2_policy(16, 12, 10, terminates=True)))
    planner, model = learner.planner, learner.model
    state, actions = torch.randn(2, 5, 16).softmax(-1), torch.rand(H, 2, 5, ACTIONS)
    model.termination.output.bias.data.fill_(50.0)
    first = model.reward_head.mean(model.reward_output(state, actions[0]))
    torch.testing.assert_close(planner.value(state, actions), first)
    model.termination.output.bias.data.fill_(-50.0)
    model.prior.output.weight.data.zero_()
    torch.manual_seed(1)
    found, total = planner.value(state, actions), 0.0
    for t, action in enumerate(actions):
        total = total + 0.99**t * model.reward_head.mean(model.reward_output(state, action))
        state = model.next_state(state, action)
    torch.manual_seed(1)
    action = model.sample_action(state)[0]
    last = model.head.mean(model.values(state, action))[torch.rand(5).argsort()[:2]].mean(0)
    torch.testing.assert_close(found, total + 0.99**H * last)


def test_as_many_updates_as_random_steps_come_before_the_first_plan() -> None:
    learner = make(first_updates=7)
    run(learner, 10)  # of three environments: 30 transitions
    assert learner.num_updates == 8
    run(learner, 2)
    assert learner.num_updates == 10


@pytest.mark.oracle
@pytest.mark.parametrize(("length", "gamma"), [(50, 0.95), (200, 0.975), (500, 0.99), (1000, 0.995), (5000, 0.995)])
def test_discounts_follow_the_length_of_episodes(length: int, gamma: float) -> None:
    assert algorithms.discount_for(length) == pytest.approx(gamma)


# ---------------------------------------------------------------------------------------------------------- runs of it


def run(learner: Any, steps: int, env: Any = None, obs: Any = None) -> tuple[Any, Any]:
    """Step `learner` in an environment whose episodes end after seven steps by time."""
    if env is None:
        learner.train()
    env = env or itertools.count()
    for _ in range(steps):
        age = next(env)
        generator = torch.Generator().manual_seed(age)
        if obs is None:
            obs = TensorDict({"policy": torch.randn(3, OBS, generator=generator)}, [3])
        out = learner.act(obs)
        reached = TensorDict({"policy": 0.9 * obs["policy"] + 0.1 * out.action.repeat(1, 2)}, [3])
        done = torch.full((3,), int(age % 7 == 6))
        extras = {"final_observations": reached, "terminated": done > 1, "time_outs": done == 1, "log": {}}
        following = TensorDict({"policy": torch.randn(3, OBS, generator=generator)}, [3]) if done[0] else reached
        step = (following, -reached["policy"].square().sum(-1), done, extras)
        learner.process_env_step(Transition.of_step(obs, out.action, out.record, step))
        learner.update()
        obs = following
    return env, obs


@pytest.mark.parametrize("version", [1, 2])
def test_a_checkpoint_continues_bit_for_bit_with_its_plan(version: int) -> None:
    def fresh() -> Any:
        if version == 2:
            return make()
        torch.manual_seed(0)
        planner = PLANNER.replace(first_min_std=0.5, min_std_steps=20, momentum=0.1)
        replay = SequenceReplayBufferCfg(length=H, capacity=600, previous_action=False, store=True)
        cfg = algorithms.TDMPCCfg(replay=replay, planner=planner, batch_size=B, learning_starts=30, first_updates=2)
        context = RunContext(spec=spec_of(), device=torch.device("cpu"))
        return cfg.build(policy=algorithms.tdmpc_policy(8, 12, 10), context=context)

    whole = fresh()
    env, obs = run(whole, 15)
    state, random_state = copy.deepcopy(whole.state_dict()), torch.get_rng_state()
    ahead, seen = copy.deepcopy(env), obs.clone()
    run(whole, 6, env, obs)
    resumed = fresh()
    resumed.load_state_dict(state)
    resumed.train()
    assert resumed.collector.policy_state.state.abs().sum() > 0  # the plan that is continued
    torch.set_rng_state(random_state)
    run(resumed, 6, ahead, seen)
    here, there = whole.state_dict(), resumed.state_dict()
    for part in ("networks", "parts", "memory"):
        assert flat(here[part]).keys() == flat(there[part]).keys()
        for name, value in flat(here[part]).items():
            assert torch.equal(value, flat(there[part])[name]), (part, name)
    if version == 1:
        assert float(resumed.planner.noise.min_std) == pytest.approx(
            0.5 - 0.45 * min(int(here["num_updates"]) - 1, 20) / 20
        )


def flat(state: Any, name: str = "") -> dict[str, Tensor]:
    if isinstance(state, Tensor):
        return {name: state}
    entries = state.items() if isinstance(state, dict) else enumerate(state) if isinstance(state, list) else ()
    return {key: value for k, entry in entries for key, value in flat(entry, f"{name}.{k}").items()}


def test_a_copy_of_the_collector_plans_elsewhere_with_the_weights_that_it_is_sent() -> None:
    learner = make()
    _, obs = run(learner, 14)
    copied = pickle.loads(pickle.dumps(learner.collector))
    run(learner, 2, itertools.count(20), obs)
    copied.load_weights(learner.collector.weights())
    copied.load_state_dict(learner.collector.state_dict())
    found = []
    for collector in (learner.collector, copied):
        torch.manual_seed(4)
        found.append(collector.act(obs).action.clone())
    assert torch.equal(*found)


def test_the_plan_starts_anew_with_every_episode() -> None:
    learner = make()
    planner, obs = learner.planner, {"policy": torch.randn(2, OBS)}
    kept = torch.full((H, 2, ACTIONS), 0.7)
    found = []
    for state, starts in ((kept, torch.tensor([False, True])), (planner.initial_state(2), None)):
        torch.manual_seed(2)
        found.append(planner(obs, state, starts)[1])
    assert torch.equal(found[0][:, 1], found[1][:, 1]) and not torch.equal(found[0][:, 0], found[1][:, 0])


def test_play_plans_within_the_box_without_noise_and_export_gives_the_prior(
    tmp_path: Any, caplog: pytest.LogCaptureFixture
) -> None:
    learner = make()
    run(learner, 12)
    policy, obs = learner.policy(), TensorDict({"policy": torch.randn(5, OBS)}, [5])
    assert isinstance(policy, PlannerPolicy)
    torch.manual_seed(3)
    planned = policy(obs)
    torch.manual_seed(3)
    assert torch.equal(learner.planner(obs, None, torch.ones(5, dtype=torch.bool))[0].mode, planned)
    policy.reset()
    torch.manual_seed(3)
    policy.deterministic = False
    noisy = policy(obs)
    assert not torch.equal(noisy, planned) and noisy.abs().max() <= 1 and policy.jacobian_norm(obs) is None
    found = policy.exportable()
    assert "policy prior" in caplog.text and found.metadata is not None
    assert found.metadata["policy"] == "prior of a planner"
    prior = make(play_with="prior")
    prior.load_state_dict(learner.state_dict())
    torch.testing.assert_close(found.call({"obs": obs["policy"]})["actions"], prior.policy()(obs))
    assert export_policy(found, tmp_path, formats=["pt2"]).errors["policy.pt2"] <= 1e-5


def test_the_prior_can_collect_and_the_planner_play() -> None:
    learner = make(collect_with="prior")
    run(learner, 14)
    assert learner.collector.policy_state.state is None and isinstance(learner.policy(), PlannerPolicy)


# ------------------------------------------------------------------------------------------------------- several tasks


def test_tasks_are_told_apart_by_their_embedding_and_have_their_own_action_dimensions() -> None:
    spec = spec_of({"policy": (OBS,), "task": (2,)})
    policy = algorithms.tdmpc2_policy(16, 12, 10, task_group="task", task_dim=5, task_action_dims=[1, 2])
    learner = shaken(make(policy, spec))
    model = learner.model
    with torch.no_grad():
        model.task_embedding.mul_(200.0)  # beyond a norm of 1, to which it is limited
    one_hot = torch.eye(2)[torch.tensor([0, 1, 1])]
    obs = {"policy": torch.randn(1, OBS).expand(3, -1), "task": one_hot}
    state = model.encode(obs)
    assert state.shape == (3, 18) and torch.equal(state[:, 16:], one_hot)
    torch.testing.assert_close(state[1], state[2])
    assert (state[0, :16] - state[1, :16]).abs().max() > 1e-3
    assert model._embedded(one_hot).norm(dim=-1).max() <= 1.0 + 1e-6
    action, entropy = model.sample_action(state)
    log_std = model.prior_output(state)[:, ACTIONS:]
    constant = 0.5 * torch.log(torch.tensor(2 * torch.pi * torch.e))
    torch.testing.assert_close(entropy[0], log_std[0, 0] + constant)  # |A| = 1
    torch.testing.assert_close(entropy[1], 2 * (log_std[1] + constant).sum())
    assert action[0, 1] == 0 and (action[1:] != 0).all()
    planned = learner.planner(obs)[0]
    assert planned.sample()[0, 1] == 0 and (planned.mode[1:] != 0).all()
    task = one_hot[torch.tensor([0, 1, 2, 0, 1, 2])].expand(H + 1, B, 2)
    batch = batch_of(policy=torch.randn(H + 1, B, OBS), task=task)
    before = model.task_embedding.detach().clone()
    learner.train_step(batch, True)
    assert (model.task_embedding != before).any(-1).all()


# ----------------------------------------------------------------------------------------------------------- refusals


def test_what_does_not_fit_is_said_in_one_sentence() -> None:
    with pytest.raises(ConfigError, match=r"learns a world model, but policy\.actor_cfg is a TanhGaussianActorCfg"):
        make(components.ActorPackCfg())
    with pytest.raises(ConfigError, match="TD-MPC unrolls its model: use SequenceReplayBufferCfg"):
        make(replay=ReplayBufferCfg())
    with pytest.raises(ConfigError, match="latent_dim: 12 is not a multiple of simnorm_dim=8"):
        make(algorithms.tdmpc2_policy(12, 8, 8))
    with pytest.raises(ConfigError, match="use TwoHotHeadCfg or ScalarHeadCfg"):
        make(algorithms.tdmpc2_policy(16, 8, 8, head_cfg=components.CategoricalHeadCfg()))
    with pytest.raises(ConfigError, match="task_group='tusk' is no flat observation group"):
        make(algorithms.tdmpc2_policy(16, 8, 8, task_group="tusk"))
    spec = scripted().spec
    with pytest.raises(ConfigError, match=r"set obs_groups\.critic to the actor's"):
        algorithms.TDMPC2Cfg().build(
            policy=algorithms.tdmpc2_policy(16, 8, 8), context=RunContext(spec=spec, device=torch.device("cpu"))
        )
