"""Exploration: which noise is executed, when it changes, and that it resumes."""

import math

import numpy as np
import pytest
import torch
from RoboRenForce import components, networks
from RoboRenForce.components import Beta, Deterministic, DiagGaussian, TanhGaussian
from RoboRenForce.configclass import ConfigError
from RoboRenForce.envs.spec import ActionSpec, EnvSpec
from tensordict import TensorDict

pytestmark = pytest.mark.oracle

N, A = 8, 3
BOX = ActionSpec("continuous", A, (-1.0,) * A, (1.0,) * A)
SPEC = EnvSpec("Toy", N, {"policy": (4,)}, BOX, max_episode_length=10)
CPU = torch.device("cpu")
MIXED = components.MixedNoiseCfg(min_std=0.2, max_std=0.8)


def many(num_envs: int) -> EnvSpec:
    return EnvSpec("Toy", num_envs, {"policy": (4,)}, BOX, max_episode_length=10)


def test_a_sample_is_the_distributions_own():
    explore = components.SampleCfg().build(spec=SPEC, device=CPU)
    distribution = TanhGaussian(torch.randn(N, A), torch.full((N, A), 0.5))
    torch.manual_seed(1)
    first = explore.explore(distribution)
    torch.manual_seed(1)
    assert torch.equal(first, distribution.sample())
    assert explore.state_dict() == {}


def test_white_noise_has_its_std_around_the_mode_and_stays_in_the_box():
    explore = components.GaussianNoiseCfg(std=0.3).build(spec=many(20_000), device=CPU)
    mode = torch.tensor([0.0, 0.2, 0.95]).expand(20_000, 3)
    action = explore.explore(Deterministic(mode.clone().requires_grad_()))
    assert not action.requires_grad
    assert action[:, 0].std().item() == pytest.approx(0.3, rel=0.03) and action[:, 1].mean().item() == pytest.approx(
        0.2, abs=0.01
    )
    # A normal variable of mean 0.95 and std 0.3 exceeds 1 with probability Phi(-1/6).
    above = 0.5 * math.erfc(0.05 / 0.3 / math.sqrt(2.0))
    assert (action[:, 2] == 1.0).float().mean().item() == pytest.approx(above, abs=0.02) and action.abs().max() <= 1.0


def test_every_environment_has_a_std_of_its_own_that_changes_only_where_an_episode_ends():
    explore = MIXED.build(spec=many(1000), device=CPU)
    first = explore.state["std"].clone()
    assert first.min() >= 0.2 and first.max() <= 0.8
    assert first.mean().item() == pytest.approx(0.5, abs=0.03)
    assert first.std().item() == pytest.approx(0.6 / math.sqrt(12.0), rel=0.1)
    mode = Deterministic(torch.zeros(1000, A))
    explore.explore(mode)
    explore.on_done(torch.zeros(1000, dtype=torch.int64))
    assert torch.equal(explore.state["std"], first)
    done = torch.arange(1000) % 4 == 0
    explore.on_done(done.long())
    changed = (explore.state["std"] != first).squeeze(1)
    assert torch.equal(changed, done)


def test_actions_of_an_environment_spread_by_its_own_std():
    explore = components.MixedNoiseCfg(min_std=0.01, max_std=0.2).build(spec=SPEC, device=CPU)
    mode = Deterministic(torch.zeros(N, A))
    actions = torch.stack([explore.explore(mode) for _ in range(3000)])  # (steps, N, A)
    np.testing.assert_allclose(actions.std((0, 2)).numpy(), explore.state["std"].squeeze(1).numpy(), rtol=0.05)


def test_held_steps_follow_the_truncated_zeta_distribution():
    explore = components.RepeatedNoiseCfg().build(spec=SPEC, device=CPU)
    steps = explore.draw_steps(400_000)
    # n^-2 over n = 1..16: mean H_16 / sum 1/n^2 = 3.380729 / 1.584347 and P(1) = 1 / 1.584347.
    assert steps.min() == 1 and steps.max() == 16
    assert steps.double().mean().item() == pytest.approx(2.1338, abs=0.02)
    for n, share in ((1, 0.6312), (2, 0.1578), (16, 0.6312 / 256)):
        assert (steps == n).double().mean().item() == pytest.approx(share, abs=0.003)


def test_noise_is_held_for_the_drawn_number_of_steps():
    explore = components.RepeatedNoiseCfg(exponent=1.0, max_steps=4).build(spec=many(500), device=CPU)
    mean, std = torch.randn(500, A), torch.rand(500, A) + 0.1
    noises = []
    for _ in range(400):
        action = explore.explore(TanhGaussian(mean, std))
        noises.append((action.double().atanh() - mean) / std)
        np.testing.assert_allclose(noises[-1].numpy(), explore.state["noise"].numpy(), atol=0.2)
        noises[-1] = explore.state["noise"].clone()
    renewed = (torch.stack(noises).diff(dim=0).abs().sum(-1) > 0).double()
    # With weights 1, 1/2, 1/3, 1/4 the mean length is 4 / (25/12) = 1.92, and noise changes once per length.
    assert renewed.mean().item() == pytest.approx(25 / 48, abs=0.01)
    drawn = torch.stack(noises)
    assert drawn.mean().item() == pytest.approx(0.0, abs=0.02) and drawn.std().item() == pytest.approx(1.0, abs=0.02)


def test_a_new_episode_draws_new_noise():
    explore = components.RepeatedNoiseCfg(exponent=0.0, max_steps=1000).build(spec=SPEC, device=CPU)
    distribution = DiagGaussian(torch.zeros(N, A), torch.ones(N, A))
    explore.explore(distribution)
    explore.state["steps_left"].fill_(5)
    before = explore.state["noise"].clone()
    done = torch.tensor([0, 1, 0, 0, 1, 0, 0, 0])
    explore.on_done(done)
    after = explore.explore(distribution)
    assert torch.equal((after != before).all(-1), done.bool()) and torch.equal((after == before).all(-1), done == 0)


def test_with_length_one_repeated_noise_is_a_fresh_sample():
    explore = components.RepeatedNoiseCfg(max_steps=1).build(spec=SPEC, device=CPU)
    distribution = TanhGaussian(torch.zeros(N, A), torch.ones(N, A))
    first, second = explore.explore(distribution), explore.explore(distribution)
    assert (first != second).all()


@pytest.mark.parametrize("cfg", [MIXED, components.RepeatedNoiseCfg()], ids=["mixed", "repeated"])
def test_a_resumed_exploration_goes_on_with_the_same_noise(cfg):
    distribution = DiagGaussian(torch.zeros(N, A), torch.ones(N, A))
    one = cfg.build(spec=SPEC, device=CPU)
    for _ in range(3):
        one.explore(distribution)
    state = one.state_dict()
    torch.manual_seed(7)
    expected = [one.explore(distribution) for _ in range(5)]
    other = cfg.build(spec=SPEC, device=CPU)
    tensors = dict(other.state)
    other.load_state_dict(state)
    assert all(other.state[name] is tensor for name, tensor in tensors.items())
    torch.manual_seed(7)
    for action in expected:
        assert torch.equal(other.explore(distribution), action)


def test_with_another_number_of_environments_noise_starts_anew():
    state = MIXED.build(spec=many(3), device=CPU).state_dict()
    other = MIXED.build(spec=SPEC, device=CPU)
    before = other.state["std"].clone()
    other.load_state_dict(state)
    assert torch.equal(other.state["std"], before)
    with pytest.raises(ValueError, match=r"std.*nothing"):
        other.load_state_dict({})


def test_noise_needs_a_distribution_that_is_made_of_noise():
    explore = components.RepeatedNoiseCfg().build(spec=SPEC, device=CPU)
    with pytest.raises(TypeError, match=r"Beta is not drawn from normal noise"):
        explore.explore(Beta(torch.ones(N, A) * 2, torch.ones(N, A) * 2))


def test_bounds_in_the_wrong_order_are_refused_in_words():
    with pytest.raises(ConfigError, match=r"min_std: 0.5 is above max_std=0.1"):
        components.MixedNoiseCfg(min_std=0.5, max_std=0.1).build(spec=SPEC, device=CPU)


# --- the deterministic actor ------------------------------------------------------------------------------------------


def test_the_deterministic_actor_is_the_tanh_of_its_backbone():
    cfg = components.DeterministicActorCfg(backbone_cfg=networks.MLPCfg(hidden_features=[8]), normalizer_cfg=None)
    actor = cfg.build(spec=SPEC, groups=["policy"])
    obs = TensorDict({"policy": torch.randn(N, 4)}, [N])
    distribution, state = actor(obs)
    expected = np.tanh(actor.backbone(obs["policy"]).detach().double().numpy())
    np.testing.assert_allclose(distribution.mode.detach().numpy(), expected, atol=1e-6)
    assert state is None and torch.equal(distribution.sample(), distribution.mode) and distribution.mode.requires_grad
    assert not distribution.sample().requires_grad
    torch.testing.assert_close(actor.forward_flat(obs["policy"]), distribution.mode)


@pytest.mark.parametrize("ask", [lambda d: d.log_prob(d.mode), lambda d: d.entropy(), lambda d: d.kl_from(d.params)])
def test_a_deterministic_policy_says_that_it_has_no_density(ask):
    with pytest.raises(TypeError, match=r"deterministic policy has no .* TanhGaussianActorCfg"):
        ask(Deterministic(torch.zeros(2, A)))


def test_a_recurrent_deterministic_actor_gives_the_same_steps_and_sequences():
    cfg = components.DeterministicActorCfg(backbone_cfg=networks.RNNCfg(hidden_size=6), normalizer_cfg=None)
    actor = cfg.build(spec=SPEC, groups=["policy"])
    obs = torch.randn(5, N, 4)
    starts = torch.rand(5, N) < 0.3
    whole, _ = actor({"policy": obs}, None, starts)
    state = actor.initial_state(N)
    for t in range(5):
        step, state = actor({"policy": obs[t]}, state, starts[t])
        torch.testing.assert_close(step.mode, whole.mode[t])


def test_a_deterministic_actor_needs_the_unit_box():
    wide = EnvSpec("Toy", N, {"policy": (4,)}, ActionSpec("continuous", A, (-2.0,) * A, (2.0,) * A), 10)
    with pytest.raises(ValueError, match=r"samples actions in \[-1, 1\].*rescale"):
        components.DeterministicActorCfg().build(spec=wide, groups=["policy"])
