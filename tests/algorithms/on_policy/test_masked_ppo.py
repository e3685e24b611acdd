"""Rows that waited for their group (`mask` False) enter no loss, statistic, normalizer or advantage of PPO."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from RoboRenForce import algorithms, components, networks
from RoboRenForce.algorithms import RunContext
from RoboRenForce.algorithms.functional import clipped_surrogate, gae, masked_mean, masked_var, normalize_advantage
from RoboRenForce.algorithms.loss_terms import LossTerm, LossTermCfg
from RoboRenForce.buffer import RolloutBatch
from RoboRenForce.configclass import configclass
from RoboRenForce.envs.spec import ActionSpec, EnvSpec
from stepping import stepped
from tensordict import TensorDict
from torch import Tensor

pytestmark = pytest.mark.oracle

STEPS, ENVS = 8, 4
SPEC = EnvSpec("tape", ENVS, {"policy": (3,)}, ActionSpec("continuous", 2), 100, ("final_observations", "active"))
RAN = torch.ones(STEPS, ENVS, dtype=torch.bool)
RAN[3:6, 1] = False  # finished at step 2, its group at step 5
RAN[6:, 2] = False


def make_ppo(spec: EnvSpec = SPEC, *, recurrent: bool = False, **options: Any) -> algorithms.PPO:
    mlp = networks.MLPCfg(hidden_features=[8], activations="Tanh")
    backbone = networks.RNNCfg(hidden_size=6, head_cfg=mlp) if recurrent else mlp
    policy = components.ActorCriticPackCfg(
        actor_cfg=components.StateIndStdActorCfg(backbone_cfg=backbone),
        critic_cfg=components.VNetworkCfg(backbone_cfg=backbone),
    )
    torch.manual_seed(0)
    context = RunContext(spec=spec, device=torch.device("cpu"), rollout_steps=STEPS, max_updates=10)
    defaults = {"num_learning_epochs": 2, "num_mini_batches": 2, "precision": "fp32", "gamma": 0.9, "lam": 0.8}
    return algorithms.PPOCfg(**(defaults | options)).build(policy=policy, context=context)


def feed(ppo: algorithms.PPO, ran: Tensor | None, junk: float = 0.0) -> list[Tensor]:
    """A rollout; where a row did not run its observation and action are off by `junk`. Returns the observations."""
    generator = torch.Generator().manual_seed(3)

    def draw(*shape: int) -> Tensor:
        return torch.randn(ENVS, *shape, generator=generator)

    seen, obs = [], draw(3)
    for t in range(STEPS):
        runs = torch.ones(ENVS, dtype=torch.bool) if ran is None else ran[t]
        wrong = junk * ~runs.unsqueeze(1)
        before, after, reward = TensorDict({"policy": obs + wrong}, [ENVS]), draw(3), draw()
        out = ppo.act(before)
        done = runs & (torch.rand(ENVS, generator=generator) < 0.2)
        if t in (2, 5):
            done = done | torch.tensor([False, t == 2, t == 5, False])
        following = TensorDict({"policy": after + junk * ~runs.unsqueeze(1)}, [ENVS])
        extras = {"terminated": done, "time_outs": torch.zeros_like(done), "final_observations": following}
        step = stepped(before, out, following, reward + junk * ~runs, done.long(), extras)
        ppo.process_env_step(replace(step, action=step.action + wrong, mask=None if ran is None else runs))
        seen.append(obs)
        obs = after
    return seen


@pytest.mark.parametrize("recurrent", [False, True])
def test_what_waiting_rows_hold_does_not_matter(recurrent: bool) -> None:
    options = {
        "normalize_value": True,
        "normalize_reward": True,
        "reward_terms": [algorithms.RNDCfg(normalize_reward=True)],
        "recurrent": recurrent,
    }
    results = []
    for junk in (0.0, 3.0):
        ppo = make_ppo(**options)
        feed(ppo, RAN, junk)
        torch.manual_seed(1)
        metrics = ppo.update()
        results.append((ppo, metrics))
    (plain, metrics), (junk, junk_metrics) = results
    for name, value in plain.state_dict()["networks"].items():
        torch.testing.assert_close(junk.state_dict()["networks"][name], value, msg=name)
    for name, value in metrics.items():
        torch.testing.assert_close(junk_metrics[name], value, msg=name)
    counts = [ppo.actor.normalizer.moments.count.item() for ppo, _ in results]
    assert counts == [int(RAN.sum())] * 2
    assert plain.value_normalizer.moments.count.item() == plain.reward_scaler.moments.count.item() == int(RAN.sum())
    assert plain.reward_terms[0].reward_normalizer.moments.count.item() == int(RAN.sum())


def test_statistics_are_those_of_the_rows_that_ran() -> None:
    ppo = make_ppo()
    seen = torch.stack(feed(ppo, RAN))[RAN].double()
    ppo.update()
    moments = ppo.actor.normalizer.moments
    torch.testing.assert_close(moments.mean, seen.mean(0))
    torch.testing.assert_close(moments.var, seen.var(0, correction=0))


def test_a_mask_of_ones_is_no_mask() -> None:
    masked, plain = make_ppo(), make_ppo(replace(SPEC, extras=("final_observations",)))
    for ppo, ran in ((masked, torch.ones_like(RAN)), (plain, None)):
        torch.manual_seed(5)
        feed(ppo, ran)
        ppo.update()
    assert plain.buffer.mask is None
    for name, value in plain.networks.state_dict().items():
        torch.testing.assert_close(masked.networks.state_dict()[name], value, rtol=1e-4, atol=1e-5, msg=name)


def test_advantages_pass_over_the_steps_that_a_row_waited() -> None:
    """As if they were cut out of its rollout, also in the middle of an episode."""
    generator = torch.Generator().manual_seed(0)
    reward, value = (torch.randn(STEPS, ENVS, generator=generator) for _ in range(2))
    done = torch.rand(STEPS, ENVS, generator=generator) < 0.2
    done &= RAN
    last = torch.randn(ENVS, generator=generator)
    advantage, target = gae(reward, value, done, last, gamma=0.9, lam=0.8, mask=RAN)
    for row in range(ENVS):
        runs = RAN[:, row]
        parts = [x[runs, row].unsqueeze(1) for x in (reward, value, done)]
        expected, expected_target = gae(*parts, last[row : row + 1], gamma=0.9, lam=0.8)
        torch.testing.assert_close(advantage[runs, row], expected[:, 0])
        torch.testing.assert_close(target[runs, row], expected_target[:, 0])
    assert not advantage[~RAN].any()
    normalized = normalize_advantage(advantage, mask=RAN)
    chosen = advantage[RAN]
    torch.testing.assert_close(normalized[RAN], (chosen - chosen.mean()) / (chosen.std() + 1e-8))
    assert not normalized[~RAN].any()


def test_masked_moments_and_losses_are_those_of_the_rows_that_count() -> None:
    x, y, z = torch.randn(3, STEPS, ENVS)
    torch.testing.assert_close(masked_mean(x, RAN), x[RAN].mean())
    torch.testing.assert_close(masked_var(x, RAN), x[RAN].var())
    wide = torch.randn(STEPS, ENVS, 3)
    torch.testing.assert_close(masked_mean(wide, RAN), wide[RAN].mean())
    assert masked_mean(x, torch.zeros_like(RAN)) == 0.0
    expected = clipped_surrogate(x[RAN], y[RAN], z[RAN], 0.2)
    torch.testing.assert_close(clipped_surrogate(x, y, z, 0.2, RAN), expected)


def test_a_recurrent_state_begins_anew_when_the_group_does() -> None:
    """A row that waits at the first observation of its next episode is still at its first when it goes on."""
    ppo = make_ppo(recurrent=True)
    feed(ppo, RAN)
    start = ppo.buffer.rows["start"][:, 1]
    assert start[3:7].all()


# --- terms of recurrent policies -------------------------------------------------------------------------------------


class Smooth(LossTerm):
    """Penalizes that the action changes from a state to its successor, as a regularizer of whole transitions would."""

    name, needs_successors = "smooth", True
    shapes: list[Any] = []

    def __init__(self, cfg: SmoothCfg) -> None:
        self.cfg = cfg

    def loss(self, actor: Any, critic: Any, batch: Any, num_original: int, expert: Any = None) -> Tensor:
        assert isinstance(batch, RolloutBatch) and expert is None
        self.shapes.append((tuple(batch.action.shape), num_original))
        here = actor(batch.obs, batch.states.get("actor"), batch.start)[0].mode
        there = actor(batch.next_obs, batch.states.get("actor"), batch.start)[0].mode
        return self.cfg.weight * masked_mean((here - there).square().sum(-1) * ~batch.done, batch.mask)


@configclass
class SmoothCfg(LossTermCfg):
    class_type: type = Smooth
    weight: float = 1.0


@pytest.mark.parametrize("recurrent", [False, True])
def test_a_term_of_whole_transitions_moves_recurrent_policies_too(recurrent: bool) -> None:
    """With the term alone to follow, the policy becomes smooth."""
    Smooth.shapes.clear()
    ppo = make_ppo(
        recurrent=recurrent,
        loss_terms=[SmoothCfg(weight=100.0)],
        entropy_coef=0.0,
        schedule="fixed",
        learning_rate=1e-2,
        num_learning_epochs=10,
    )
    feed(ppo, RAN)
    losses = [float(ppo.update()["Loss/smooth"]) for _ in range(3)]
    leading = (STEPS, ENVS // 2) if recurrent else (STEPS * ENVS // 2,)
    assert set(Smooth.shapes) == {((*leading, 2), leading[-1])}
    assert losses[-1] < 0.3 * losses[0]


def test_symmetry_says_itself_that_it_needs_a_feed_forward_policy() -> None:
    term = algorithms.SymmetryCfg(function=lambda obs, actions: (obs, actions))
    with pytest.raises(ValueError, match=r"SymmetryCfg .* is not available for recurrent policies"):
        make_ppo(recurrent=True, loss_terms=[term])
