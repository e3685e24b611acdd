"""Adversarial rewards: closed forms, the seam with PPO, ends of episodes, masks, replay, resume."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from RoboRenForce import algorithms, components, networks
from RoboRenForce.algorithms import RunContext
from RoboRenForce.algorithms.functional import discriminator_loss, gradient_penalty, imitation_reward
from RoboRenForce.algorithms.functional.adversarial import GanLoss, RewardForm
from RoboRenForce.algorithms.reward_terms import AdversarialReward, AMPCfg, GAILCfg
from RoboRenForce.algorithms.reward_terms.policy_replay import TransitionRing, spread_rows
from RoboRenForce.buffer import DatasetCfg, DatasetLoader, EpisodeArrays, RolloutBatch, TransitionDataset
from RoboRenForce.buffer.motion import MotionDatasetCfg
from RoboRenForce.configclass import ConfigError, configclass
from RoboRenForce.envs.spec import ActionSpec, EnvSpec
from RoboRenForce.utils.errors import UserError
from stepping import stepped
from tensordict import TensorDict
from torch import Tensor

pytestmark = pytest.mark.oracle

STEPS, ENVS = 6, 4
ACTIONS = ActionSpec("continuous", 2, (-1.0, -1.0), (1.0, 1.0))
SPEC = EnvSpec("tape", ENVS, {"policy": (3,)}, ACTIONS, 100, ("final_observations",), step_dt=0.5)


class Made(DatasetLoader):
    """Three episodes of made-up steps."""

    def read(self) -> TransitionDataset:
        generator = torch.Generator().manual_seed(7)

        def draw(*shape: int) -> Any:
            return torch.randn(*shape, generator=generator).numpy()

        ended = torch.arange(20).numpy() == 19
        episodes = [
            EpisodeArrays(f"e{i}", {"policy": draw(21, 3)}, draw(20, 2).clip(-1, 1), draw(20), ended, 0 * ended)
            for i in range(3)
        ]
        return TransitionDataset.from_episodes(episodes, source="made", action=ACTIONS)


@configclass
class MadeCfg(DatasetCfg):
    class_type: type = Made


def cfg_of(kind: type[Any] = GAILCfg, **options: Any) -> Any:
    small = components.DiscriminatorCfg(backbone_cfg=networks.MLPCfg(hidden_features=[8], activations="Tanh"))
    defaults = {"expert": MadeCfg(), "obs_groups": ["policy"], "discriminator_cfg": small, "replay_size": 32}
    return kind(**{**defaults, **options})


def context(spec: EnvSpec = SPEC) -> RunContext:
    return RunContext(spec=spec, device=torch.device("cpu"), rollout_steps=STEPS, max_updates=10)


def make_term(kind: type[Any] = GAILCfg, spec: EnvSpec = SPEC, **options: Any) -> AdversarialReward:
    return cfg_of(kind, **options).build(context=context(spec))


def make_ppo(*terms: Any, recurrent: bool = False) -> algorithms.PPO:
    mlp = networks.MLPCfg(hidden_features=[8], activations="Tanh")
    backbone = networks.RNNCfg(hidden_size=6, head_cfg=mlp) if recurrent else mlp
    policy = components.ActorCriticPackCfg(
        actor_cfg=components.StateIndStdActorCfg(backbone_cfg=backbone),
        critic_cfg=components.VNetworkCfg(backbone_cfg=backbone),
    )
    torch.manual_seed(0)
    cfg = algorithms.PPOCfg(num_learning_epochs=2, num_mini_batches=2, precision="fp32", reward_terms=list(terms))
    return cfg.build(policy=policy, context=context())


def feed(ppo: algorithms.PPO, seed: int) -> list[dict[str, Tensor]]:
    """Feed a rollout with ends of both kinds; returns what came in."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(ENVS, *shape, generator=generator)

    tape, obs = [], draw(3)
    for step in range(STEPS):
        out = ppo.act(TensorDict({"policy": obs}, [ENVS]))
        final, first, reward = draw(3), draw(3), draw()
        done = torch.tensor([step == 1, step == 3, False, False])
        cut = done & torch.tensor([False, True, False, False])
        after = torch.where(done[:, None], first, final)
        tape.append({"obs": obs, "action": out.action.clone(), "final": final, "reward": reward})
        extras = {
            "terminated": done & ~cut,
            "time_outs": cut,
            "final_observations": TensorDict({"policy": final}, [ENVS]),
        }
        before = TensorDict({"policy": obs}, [ENVS])
        ppo.process_env_step(stepped(before, out, TensorDict({"policy": after}, [ENVS]), reward, done.long(), extras))
        obs = after
    return tape


def batch(seed: int, rows: int = 16, mask: Tensor | None = None, junk: float = 0.0) -> RolloutBatch:
    """A mini-batch; rows that did not act are off by `junk`."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Any:
        x = torch.randn(rows, *shape, generator=generator)
        return x if mask is None else x + junk * ~mask.view(-1, *[1] * len(shape))

    obs, following = (TensorDict({"policy": draw(3)}, [rows]) for _ in range(2))
    return RolloutBatch(obs, draw(2), draw(), draw(), {}, following, mask)


# --- closed forms ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("gan", "best"), [("bce", 0.5), ("lsgan", math.tanh(0.25))])
def test_losses_are_least_at_the_optimal_discriminator(gan: GanLoss, best: float) -> None:
    """Expert N(0, 1), policy N(1, 1): at x = 0 the densities are as exp(1/2) : 1."""
    logit = torch.tensor([best], dtype=torch.float64, requires_grad=True)
    fixed = torch.zeros(1, dtype=torch.float64)
    loss = math.exp(0.5) * discriminator_loss(logit, fixed, gan) + discriminator_loss(fixed, logit, gan)
    (gradient,) = torch.autograd.grad(loss, logit)
    assert gradient.item() == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize(
    ("form", "logit", "reward"),
    [
        ("lsgan", 1.0, 1.0),
        ("lsgan", 0.0, 0.75),
        ("lsgan", -1.0, 0.0),
        ("lsgan", 4.0, 0.0),
        ("lsgan", math.tanh(0.25), 0.857463),
        ("gail+", 0.5, 0.974077),
        ("gail+", 0.0, math.log(2.0)),
        ("gail+", 50.0, -math.log(1e-4)),
        ("gail-", 0.0, -math.log(2.0)),
        ("gail-", -50.0, math.log(1e-4)),
        ("airl", 0.5, 0.5),
        ("airl", -50.0, -10.0),
    ],
)
def test_rewards_of_logits(form: RewardForm, logit: float, reward: float) -> None:
    assert imitation_reward(torch.tensor([logit]), form).item() == pytest.approx(reward, abs=1e-5)


def test_gradient_penalty_of_a_linear_logit_is_half_its_squared_weight() -> None:
    x, weight = torch.randn(5, 3, requires_grad=True), torch.tensor([1.0, -2.0, 0.5], requires_grad=True)
    penalty = gradient_penalty(x @ weight, x)
    assert penalty.item() == pytest.approx(2.625)
    (again,) = torch.autograd.grad(penalty, weight)
    torch.testing.assert_close(again, weight.detach())


def test_the_trained_logit_is_the_log_ratio_of_the_densities() -> None:
    """Expert N(0, 1), policy N(1, 1): l(x) = 1/2 - x, through normalizer, replay and optimizer of the term."""
    spec = EnvSpec("line", ENVS, {"policy": (1,)}, ActionSpec("continuous", 1), 100)
    wide = components.DiscriminatorCfg(backbone_cfg=networks.MLPCfg(hidden_features=[], activations="Tanh"))
    options = {"gradient_penalty": 0.0, "weight_decay": 0.0, "learning_rate": 0.02, "replay_size": 4000}
    term = make_term(spec=spec, discriminator_cfg=wide, **options)
    generator = torch.Generator().manual_seed(1)
    term.expert = torch.cat([torch.randn(4000, 1, generator=generator), torch.zeros(4000, 1)], dim=1)
    term.discriminator.normalizer.update(term.expert)
    for _ in range(300):
        obs = TensorDict({"policy": 1.0 + torch.randn(512, 1, generator=generator)}, [512])
        nothing = torch.zeros(512)
        term.train_step(RolloutBatch(obs, torch.zeros(512, 1), nothing, nothing, {}))
    x = torch.tensor([-1.0, 0.0, 1.0, 2.0])
    logit = term.discriminator(torch.stack([x, torch.zeros(4)], dim=1))
    torch.testing.assert_close(logit, 0.5 - x, atol=0.15, rtol=0.0)


# --- the seam with PPO -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("recurrent", [False, True])
@pytest.mark.parametrize("kind", [GAILCfg, AMPCfg])
def test_weight_zero_is_ppo_bit_for_bit(kind: type[Any], recurrent: bool) -> None:
    with_term = make_ppo(cfg_of(kind, weight=0.0, task_weight=1.0), recurrent=recurrent)
    plain = make_ppo(recurrent=recurrent)
    for seed in (1, 2):
        for ppo in (with_term, plain):
            torch.manual_seed(seed)
            feed(ppo, seed)
            ppo.update()
    assert float(with_term.reward_terms[0].optimizer.steps) == 8.0
    for name, tensor in plain.networks.state_dict().items():
        assert torch.equal(tensor, with_term.networks.state_dict()[name]), name


@pytest.mark.parametrize("kind", [GAILCfg, AMPCfg])
def test_rewards_mix_task_and_style_of_true_successors(kind: type[Any]) -> None:
    """Also where the episode ends: the pair is (s, final observation), never (s, first of the next episode)."""
    ppo = make_ppo(cfg_of(kind, weight=0.6, task_weight=0.3))
    tape = feed(ppo, 1)
    term, critic = ppo.reward_terms[0], ppo.critic
    for t, step in enumerate(tape):
        second = step["final"] if kind is AMPCfg else step["action"].clamp(-1.0, 1.0)
        style = imitation_reward(term.discriminator(torch.cat([step["obs"], second], 1)), term.cfg.reward_form)
        expected = 0.3 * step["reward"] + 0.6 * 0.5 * style
        cut = ppo.buffer.time_outs[t]
        value = critic(TensorDict({"policy": step["final"]}, [ENVS]))[0]
        torch.testing.assert_close(ppo.buffer.reward[t], expected + ppo.cfg.gamma * value * cut)


def test_a_rollout_is_rewarded_before_the_discriminator_learns_from_it() -> None:
    ppo = make_ppo(cfg_of())
    feed(ppo, 1)
    before = ppo.buffer.reward.clone()
    metrics = ppo.update()
    assert torch.equal(ppo.buffer.reward, before)
    assert {"Gail/reward", "Gail/expert_accuracy", "Gail/policy_accuracy", "Loss/gail"} <= metrics.keys()


def test_rows_that_did_not_act_change_nothing() -> None:
    mask = torch.arange(16) % 3 > 0
    terms = [make_term(), make_term()]
    for seed in range(5):
        for term, junk in zip(terms, (0.0, 100.0), strict=True):
            term._require_expert()
            term.train_step(batch(seed, mask=mask, junk=junk))
    for name, tensor in terms[0].discriminator.state_dict().items():
        torch.testing.assert_close(tensor, terms[1].discriminator.state_dict()[name], msg=name)


def test_resume_continues_bit_for_bit() -> None:
    whole, first = make_term(), make_term()
    for term in (whole, first):
        term._require_expert()
        for seed in range(4):
            term.train_step(batch(seed))
    second = make_term()
    second.load_state_dict(first.state_dict())
    second._require_expert()
    for seed in range(4, 8):
        whole.train_step(batch(seed))
        second.train_step(batch(seed))
    for name, tensor in whole.discriminator.state_dict().items():
        assert torch.equal(tensor, second.discriminator.state_dict()[name]), name


def test_actions_are_compared_as_executed() -> None:
    """Samples beyond the bounds would tell the policy from an expert whose recorded actions are within."""
    term = make_term()
    inside, outside = batch(0), batch(0)
    inside.action.fill_(1.0)
    outside.action.fill_(7.0)
    given = [term._inputs(each.obs, each.action, None) for each in (inside, outside)]
    assert torch.equal(*given)


def test_a_policy_is_played_without_the_experts_data() -> None:
    ppo = make_ppo(cfg_of(AMPCfg, expert=MotionDatasetCfg(files=["absent.npz"])))
    assert ppo.policy()(TensorDict({"policy": torch.zeros(ENVS, 3)}, [ENVS])).shape == (ENVS, 2)
    with pytest.raises(UserError, match=r"no motion 'absent\.npz'"):
        feed(ppo, 1)


def test_data_of_another_task_is_refused() -> None:
    term = make_term(spec=EnvSpec("other", ENVS, {"policy": (5,)}, ACTIONS, 100))
    with pytest.raises(ConfigError, match=r"policy: \(3,\) in the data, \(5,\) in the task"):
        term._require_expert()


def test_frames_at_another_rate_than_the_steps_are_refused(tmp_path: Path) -> None:
    """A pair of frames means something only at the time step of the policy."""
    still = {"root_pos": np.zeros((9, 3)), "root_quat": np.eye(4)[[0] * 9], "joint_pos": np.zeros((9, 1))}
    np.savez(tmp_path / "still.npz", fps=50.0, **still)
    spec = EnvSpec("legs", ENVS, {"amp": (12,)}, ACTIONS, 100, step_dt=0.01)
    motion = MotionDatasetCfg(files=[str(tmp_path / "still.npz")], step_dt=0.02)
    with pytest.raises(ConfigError, match=r"step_dt: 0\.02 s between the frames, 0\.01 s between the steps"):
        make_term(AMPCfg, spec, expert=motion, obs_groups=["amp"])._require_expert()
    make_term(AMPCfg, spec, expert=motion.replace(step_dt=0.01), obs_groups=["amp"])._require_expert()


# --- replay ----------------------------------------------------------------------------------------------------------


def test_the_ring_overwrites_its_oldest_rows_and_keeps_their_marks() -> None:
    ring = TransitionRing(4, 1, torch.device("cpu"))
    ring.add(torch.arange(3.0).view(3, 1), None)
    ring.add(torch.tensor([[10.0], [11.0]]), torch.tensor([True, False]))
    assert ring.rows.flatten().tolist() == [11.0, 1.0, 2.0, 10.0]
    assert ring.valid.tolist() == [False, True, True, True]


def test_an_empty_ring_adds_nothing_that_counts() -> None:
    ring = TransitionRing(4, 1, torch.device("cpu"))
    rows, mask = ring.mixed_with(torch.ones(2, 1), None, 2)
    assert rows.shape == (4, 1)
    assert mask is not None
    assert mask.tolist() == [True, True, False, False]


def test_rows_are_spread_evenly_and_go_on_where_they_ended() -> None:
    first = torch.zeros((), dtype=torch.float64)
    counts = torch.bincount(spread_rows(first, 1000, 10), minlength=10)
    assert counts.min() >= 97
    assert counts.max() <= 103
    parts = [spread_rows(first, 40, 7), spread_rows(first + 40, 60, 7)]
    assert torch.equal(torch.cat(parts), spread_rows(first, 100, 7))
