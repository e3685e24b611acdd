"""Flow matching: the exact velocity of normal data, the law of times, and what sampling makes of both."""

import math

import pytest
import torch
from prefixes import build, prefix_for
from RoboRenForce.components.action_heads import DiTHeadCfg, FlowHeadCfg
from RoboRenForce.components.action_heads.flow import draw_time, euler, interpolate
from RoboRenForce.configclass import ConfigError
from RoboRenForce.networks import DiTCfg

MEAN, STD = 0.7, 0.3


def exact_velocity(x, t):
    """E[actions - noise | x_t = x] for actions ~ N(MEAN, STD^2)."""
    variance = (1 - t) ** 2 + (t * STD) ** 2
    return MEAN + (t * STD**2 - (1 - t)) / variance * (x - t * MEAN)


@pytest.mark.parametrize(("steps", "std"), [(10, 0.246865), (100, 0.294), (1000, 0.3)])
def test_euler_steps_of_the_exact_velocity_give_the_published_std(steps, std):
    # The map is linear, so two points say all: their image is mean and slope (algorithms.md 7.9).
    low, high = euler(exact_velocity, torch.tensor([0.0, 1.0], dtype=torch.float64), steps)
    assert float(low) == pytest.approx(MEAN, abs=1e-6)
    assert float(high - low) == pytest.approx(std, abs=1e-6 if steps == 10 else 1e-3)


def test_the_mirrored_convention_of_pi0_samples_the_same():
    def pi0_velocity(x, t):  # t = 1 is noise, u = noise - actions
        return -exact_velocity(x, 1 - t)

    x = start = torch.linspace(-2, 2, 7, dtype=torch.float64)
    for step in range(10):
        x = x - 0.1 * pi0_velocity(x, 1 - step / 10)
    torch.testing.assert_close(x, euler(exact_velocity, start, 10))


@pytest.mark.parametrize(("std", "irreducible"), [(0.3, 0.471239), (1.0, math.pi / 2)])
def test_the_exact_velocity_reaches_the_irreducible_loss_on_our_interpolation(std, irreducible):
    generator = torch.Generator().manual_seed(0)
    n = 1_000_000
    actions = torch.randn(n, generator=generator) * std
    noise, t = torch.randn(n, generator=generator), torch.rand(n, generator=generator)
    x = interpolate(noise, actions, t)
    v = (t * std**2 - (1 - t)) / ((1 - t) ** 2 + (t * std) ** 2) * x
    assert float((v - (actions - noise)).square().mean()) == pytest.approx(irreducible, abs=5e-3)


def test_times_follow_the_mirrored_beta_law_of_pi0():
    t = draw_time(1_000_000, 1.5, 0.999, torch.device("cpu"), torch.Generator().manual_seed(0))
    s = 1 - t / 0.999
    assert float(s.mean()) == pytest.approx(0.6, abs=2e-3)  # a / (a + 1)
    assert float(s.var()) == pytest.approx(1.5 / (2.5**2 * 3.5), abs=2e-3)  # a / ((a + 1)^2 (a + 2))
    assert float(t.min()) >= 0 and float(t.max()) < 0.999
    assert float((t < 0.5).float().mean()) > 0.6  # the noise side


def _taught(cfg, batch=3):
    """A head that does more than a fresh one, whose output layers are zero."""
    head = build(cfg)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return head, prefix_for(cfg, batch)


SMALL = DiTCfg(dim=16, num_layers=2, num_heads=2)
CFGS = {
    "mlp": FlowHeadCfg(chunk_size=4),
    "dit": DiTHeadCfg(chunk_size=4, network=SMALL),
    "layerwise": DiTHeadCfg(chunk_size=4, network=SMALL.replace(layerwise=True)),
}


@pytest.mark.parametrize("name", CFGS)
def test_sampling_is_the_euler_sum_of_the_networks_velocity_and_repeats_its_draws(name):
    head, prefix = _taught(CFGS[name].replace(num_steps=3))
    noise = torch.randn(3, 4, 2, generator=torch.Generator().manual_seed(5))
    x = noise
    for step in range(3):
        x = x + head.network(x, torch.full((3,), step / 3), head.network.encode(prefix)) / 3
    actions, record = head.act(prefix, generator=torch.Generator().manual_seed(5))
    torch.testing.assert_close(actions, x)
    assert record == {}


@pytest.mark.parametrize("name", CFGS)
def test_the_loss_compares_the_velocity_at_the_drawn_points(name):
    head, prefix = _taught(CFGS[name])
    actions, mask = torch.randn(3, 4, 2), torch.rand(3, 4, 2) < 0.6
    generator = torch.Generator().manual_seed(2)
    noise = torch.randn(3, 4, 2, generator=generator)
    t = draw_time(3, 1.5, 0.999, torch.device("cpu"), generator)
    x = interpolate(noise, torch.where(mask, actions, 0.0), t[:, None, None])
    error = (head.network(x, t, head.network.encode(prefix)) - (actions - noise)) ** 2
    loss = head.loss(prefix, actions, mask, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(loss.mean, error[mask].mean())
    assert loss.count == mask.sum()


def test_repeated_draws_average_and_count_each_element_once():
    head, prefix = _taught(CFGS["dit"].replace(draws_per_feature=3))
    once, _ = _taught(CFGS["dit"])
    once.load_state_dict(head.state_dict())
    actions, mask = torch.randn(3, 4, 2), torch.rand(3, 4, 2) < 0.6
    repeated = head.loss(prefix, actions, mask, generator=torch.Generator().manual_seed(3))
    by_hand = once.loss(
        prefix.repeat(3),
        actions.repeat_interleave(3, 0),
        mask.repeat_interleave(3, 0),
        generator=torch.Generator().manual_seed(3),
    )
    torch.testing.assert_close(repeated.mean, by_hand.mean)
    assert repeated.count == mask.sum()


def test_the_divergence_is_the_velocity_distance_and_its_gradient_stays_here():
    head, prefix = _taught(CFGS["dit"])
    other, _ = _taught(CFGS["dit"])
    other_prefix = prefix_for(CFGS["dit"], 3, seed=9)
    actions, mask = torch.randn(3, 4, 2), torch.ones(3, 4, 2, dtype=torch.bool)
    same = head.divergence(prefix, head, prefix, actions, mask)
    assert same.total == 0
    generator = torch.Generator().manual_seed(4)
    noise = torch.randn(3, 4, 2, generator=generator)
    t = draw_time(3, 1.5, 0.999, torch.device("cpu"), generator)
    x = interpolate(noise, actions, t[:, None, None])
    ours = head.network(x, t, head.network.encode(prefix))
    theirs = other.network(x, t, other.network.encode(other_prefix))
    result = head.divergence(prefix, other, other_prefix, actions, mask, generator=torch.Generator().manual_seed(4))
    torch.testing.assert_close(result.mean, (ours - theirs).square().mean())
    result.mean.backward()
    assert all(parameter.grad is None for parameter in other.parameters())


def test_delayed_actions_are_given_clean_not_learned_and_kept_in_samples():
    head, prefix = _taught(CFGS["dit"].replace(max_delay=3))
    actions, mask = torch.randn(3, 4, 2), torch.ones(3, 4, 2, dtype=torch.bool)
    generator = torch.Generator().manual_seed(6)
    noise = torch.randn(3, 4, 2, generator=generator)
    t = draw_time(3, 1.5, 0.999, torch.device("cpu"), generator)
    delay = torch.randint(4, (3,), generator=generator)
    given = torch.arange(4) < delay[:, None]
    assert 0 < given.sum() < given.numel()
    x = torch.where(given[..., None], actions, interpolate(noise, actions, t[:, None, None]))
    v = head.network(x, torch.where(given, 1.0, t[:, None]), head.network.encode(prefix))
    loss = head.loss(prefix, actions, mask, generator=torch.Generator().manual_seed(6))
    torch.testing.assert_close(loss.mean, (v - (actions - noise)).square()[~given].mean())


def test_a_network_with_one_time_per_chunk_can_not_learn_delays():
    with pytest.raises(ConfigError, match="max_delay: MLPDenoiserCfg has one time for all actions"):
        build(FlowHeadCfg(max_delay=2))
    with pytest.raises(ConfigError, match="max_delay: 8 leaves nothing of chunk_size=8"):
        build(DiTHeadCfg(max_delay=8))
