"""Flow-SDE and Flow-Noise against numerical integration, histograms and plain re-derivations."""

import math

import pytest
import torch
from head_cases import DENSITIES, SMALL_NOISE, H, trained_looking
from prefixes import build, prefix_for
from RoboRenForce.components.action_heads import FlowHeadCfg, FlowNoiseCfg, FlowSDECfg
from RoboRenForce.components.action_heads.flow import euler
from RoboRenForce.components.action_heads.flow_sde import sde_step
from RoboRenForce.components.action_heads.noisy_steps import NoisyChain, OneNoisyStep, step_times
from RoboRenForce.configclass import ConfigError
from RoboRenForce.networks import MLPDenoiserCfg, ResidualMLPCfg
from torch.distributions import Categorical, MixtureSameFamily, Normal

WEIGHTS, MEANS, STDS = (torch.tensor(v, dtype=torch.float64) for v in ([0.3, 0.7], [-0.7, 0.5], [0.1, 0.2]))


def marginal(t):
    """The law of x_t = (1 - t) noise + t data, for data from two normal distributions."""
    stds = ((1 - t) ** 2 + (t * STDS) ** 2).sqrt()
    return MixtureSameFamily(Categorical(WEIGHTS), Normal(t * MEANS, stds))


def score(x, t):
    """The gradient of the log-density of x_t, by differentiation."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(marginal(t).log_prob(x).sum(), x)
    return gradient


def exact_velocity(x, t):
    """E[data - noise | x_t], by conditioning each normal distribution on x_t."""
    if not isinstance(t, float):
        t = float(t[0])
    variance = (1 - t) ** 2 + (t * STDS) ** 2
    of = (Normal(t * MEANS, variance.sqrt()).log_prob(x.unsqueeze(-1)) + WEIGHTS.log()).softmax(-1)
    each = MEANS + (t * STDS**2 - (1 - t)) / variance * (x.unsqueeze(-1) - t * MEANS)
    return (of * each).sum(-1)


def law(num_steps):
    return lambda x, velocity, time: sde_step(x, velocity, time, 1 / num_steps, 0.5)


def start(number, seed=0):
    return torch.randn(number, 1, 1, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def distance(samples, law):
    """Largest difference of two distribution functions (Kolmogorov-Smirnov)."""
    samples = samples.flatten().sort().values
    return float((law.cdf(samples) - (torch.arange(len(samples)) + 0.5) / len(samples)).abs().max())


# -------------------------------------------------------------------------------------------------------------- SDE


@pytest.mark.oracle
@pytest.mark.parametrize(("steps", "std"), [(10, 0.2705), (100, 0.2977), (1000, 0.3000)])
def test_one_normal_distribution_gets_the_published_std(steps, std):
    """Data N(0.7, 0.3^2), a = 0.5 (algorithms.md 7.9, by simulation): the map is linear, so moments are exact here."""
    mean, variance = 0.0, 1.0
    for step in range(steps):
        t, points = step / steps, torch.tensor([0.0, 1.0], dtype=torch.float64)
        velocity = 0.7 + (0.09 * t - (1 - t)) / ((1 - t) ** 2 + 0.09 * t**2) * (points - 0.7 * t)
        (low, high), log_std = sde_step(points, velocity, torch.full((2,), t, dtype=torch.float64), 1 / steps, 0.5)
        mean = float(low + (high - low) * mean)
        variance = float((high - low) ** 2 * variance + (2 * log_std[0]).exp())
    assert mean == pytest.approx(0.7, abs=1e-9)
    assert variance**0.5 == pytest.approx(std, abs=3e-4 if steps == 10 else 8e-4)


@pytest.mark.oracle
def test_the_sde_has_the_marginals_of_the_ode_at_every_time():
    steps, number = 200, 10_000
    noise = start(number)
    torch.manual_seed(1)
    times = step_times(steps, noise.device).double()

    def step(x, number):
        return law(steps)(x, exact_velocity(x, number / steps), times[number].expand(len(x)))

    actions, record = NoisyChain(steps, step, average=False).draw(noise, None)
    assert distance(actions, marginal(1.0)) < 0.02  # 1.36 / sqrt(number) = 0.0136 is the 5 % bound of exact samples
    for step in (50, 100, 150):
        assert distance(record["chain"][:, step], marginal(step / steps)) < 0.02
    ode = euler(exact_velocity, noise, steps)
    assert distance(ode, marginal(1.0)) < 0.02
    assert (actions - ode).abs().mean() > 0.1  # other paths, the same law
    x = noise
    for step in range(steps):  # what the test is there for: noise without the drift that makes up for it
        time = torch.full((number,), step / steps, dtype=torch.float64)
        _, log_std = sde_step(x, x, time, 1 / steps, 0.5)
        x = x + exact_velocity(x, step / steps) / steps + log_std.exp() * torch.randn_like(x)
    assert distance(x, marginal(1.0)) > 0.05


@pytest.mark.oracle
@pytest.mark.parametrize("t", [0.1, 0.5, 0.9])
def test_a_short_step_has_mean_and_std_of_the_integrated_sde(t):
    """Euler-Maruyama in 20 parts, with the drift v + g^2 / 2 score and g = a sqrt((1 - t) / t), of the exact score."""
    delta, level, parts, number = 0.002, 0.7, 20, 20_000
    generator = torch.Generator().manual_seed(2)
    for at in (-0.8, 0.4):
        x = torch.full((number,), at, dtype=torch.float64)
        drawn = torch.zeros_like(x)  # has mean 0: without it the mean of x is known to more digits
        for part in range(parts):
            now = t + delta * part / parts
            g2 = level**2 * (1 - now) / now
            drift = exact_velocity(x, now) + 0.5 * g2 * score(x, now)
            noise = torch.randn(number, generator=generator, dtype=torch.float64) * (g2 * delta / parts) ** 0.5
            x, drawn = x + drift * delta / parts + noise, drawn + noise
        point, time = torch.full((1, 1, 1), at, dtype=torch.float64), torch.tensor([t], dtype=torch.float64)
        mean, log_std = sde_step(point, exact_velocity(point, t), time, delta, level)
        moved_by_score = 0.5 * level**2 * (1 - t) / t * float(score(point, t)) * delta
        assert float(mean) == pytest.approx(float((x - drawn).mean()), abs=0.06 * abs(moved_by_score))
        assert float(log_std.exp()) == pytest.approx(float(x.std()), rel=0.03)


@pytest.mark.oracle
def test_steps_are_those_of_the_papers_in_their_time():
    """x0 (1 - (s - d)) + x1 (s - d - sigma^2 d / (2 s)) and sigma = a sqrt(s / (1 - s)), s from 1 at the noise to 0."""
    steps, level = 5, 0.4
    x, v = torch.randn(2, steps, 3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    time = torch.arange(steps, dtype=torch.float64) / steps
    mean, log_std = sde_step(x, v, time, 1 / steps, level)
    for step in range(steps):
        s, d, u = 1 - step / steps, 1 / steps, -v[step]  # u = noise - data
        sigma = level * math.sqrt(s / (1 - (s if step else 1 - d)))
        x0, x1 = x[step] - u * s, x[step] + u * (1 - s)
        theirs = x0 * (1 - (s - d)) + x1 * (s - d - sigma**2 * d / (2 * s))
        torch.testing.assert_close(mean[step], theirs)
        torch.testing.assert_close(log_std[step].exp(), torch.full_like(x[step], sigma * math.sqrt(d)))
    assert mean.isfinite().all() and log_std.isfinite().all()  # also at the noise, where the drift diverges


@pytest.mark.oracle
def test_the_noisy_step_follows_its_log_probability_and_the_others_the_ode():
    steps, number = 4, 200_000
    one = start(1, seed=3)
    noise = one.expand(number, 1, 1)
    torch.manual_seed(4)
    actions, record = OneNoisyStep(steps, exact_velocity, law(steps)).draw(noise, None)
    counts = torch.bincount(record["step"], minlength=steps) / number
    torch.testing.assert_close(counts, torch.full((steps,), 1 / steps), atol=5e-3, rtol=0)
    x = one
    for step in range(steps):
        here = record["step"] == step
        assert (record["before"][here] == x).all()
        after = record["after"][here].flatten()
        log_prob = record["log_prob"][here].flatten()
        edges = torch.linspace(float(after.min()), float(after.max()), 41, dtype=torch.float64)
        seen = torch.histogram(after, edges).hist / len(after)
        order = after.argsort()[:: len(after) // 2000]
        density = torch.stack([after[order], log_prob[order].exp()])
        integral = torch.trapezoid(density[1], density[0])
        assert float(integral) == pytest.approx(1.0, abs=5e-3)
        expected = Normal(*_moments(density)).cdf(edges).diff()
        torch.testing.assert_close(seen, expected, atol=5e-3, rtol=0)
        rest = record["after"][here][:50]
        for later in range(step + 1, steps):
            rest = rest + exact_velocity(rest, later / steps) / steps
        torch.testing.assert_close(actions[here][:50], rest)
        x = x + exact_velocity(x, step / steps) / steps


def _moments(density):
    """Mean and std of a density that is known at some points."""
    x, p = density
    mean = torch.trapezoid(x * p, x)
    return mean, (torch.trapezoid((x - mean) ** 2 * p, x)).sqrt()


@pytest.mark.parametrize("level", [0.2, 1.0])
def test_exploration_grows_with_the_noise_level_and_no_step_diverges(level):
    cfg = DENSITIES["flow-dit-sde"].replace(sde=FlowSDECfg(noise_level=level), num_steps=1)
    for steps in (1, 2, 10):
        head = build(cfg.replace(num_steps=steps))
        _, record = head.act(prefix_for(cfg, 64), deterministic=False)
        assert record["log_prob"].isfinite().all()
        std = (head.evaluate(prefix_for(cfg, 64), record).entropy - 0.5 * math.log(2 * math.pi * math.e)).exp()
        assert float(std.max()) <= level * (1 + 1e-5)  # that of the first step
        assert float(std.min()) > 0.9 * level / steps


# ------------------------------------------------------------------------------------------------------------ chains


@pytest.mark.oracle
@pytest.mark.parametrize("average", [False, True])
def test_the_density_of_a_chain_is_a_product_of_normal_distributions(average):
    cfg = DENSITIES["flow-noise"].replace(num_steps=2, average_steps=average)
    head, prefix = build(cfg), prefix_for(cfg, 3)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    actions, record = head.act(prefix, deterministic=False)
    x0, x1, x2 = record["chain"].unbind(1)
    assert torch.equal(x2, actions)
    context, noise_context = head.network.encode(prefix), head.noise.encode(prefix)
    total, entropy = Normal(0.0, 1.0).log_prob(x0), torch.full_like(x0, float(Normal(0.0, 1.0).entropy()))
    for x, following, t in ((x0, x1, 0.0), (x1, x2, 0.5)):
        time = torch.full((3,), t)
        step = Normal(x + 0.5 * head.network(x, time, context), head.noise(x, time, noise_context).exp())
        total, entropy = total + step.log_prob(following), entropy + step.entropy()
    evaluation, terms = head.evaluate(prefix, record), 3 if average else 1
    torch.testing.assert_close(evaluation.log_prob, total / terms)
    torch.testing.assert_close(evaluation.entropy, entropy / terms)
    torch.testing.assert_close(record["log_prob"], total / terms)


def test_learned_noise_starts_at_the_geometric_mean_and_stays_within_its_bounds():
    cfg = FlowHeadCfg(chunk_size=H, density="noise", noise=FlowNoiseCfg(min_std=0.05, max_std=0.2))
    head, prefix, x = build(cfg), prefix_for(cfg, 4), torch.randn(4, H, 2)
    context, time = head.noise.encode(prefix), torch.rand(4)
    torch.testing.assert_close(head.noise(x, time, context).exp(), torch.full_like(x, 0.1))
    output = head.noise.network.network.output
    torch.nn.init.normal_(output.weight, std=100.0)
    std = head.noise(x, time, context).exp()
    torch.testing.assert_close(torch.stack([std.min(), std.max()]), torch.tensor([0.05, 0.2]))
    with pytest.raises(ConfigError, match=r"min_std: 0\.3 is not below max_std=0\.2"):
        build(cfg.replace(noise=FlowNoiseCfg(min_std=0.3, max_std=0.2)))


def test_the_step_is_drawn_for_each_row_and_the_draws_repeat_with_the_generator():
    head, prefix = trained_looking("flow-sde", batch=64)
    records = [head.act(prefix, deterministic=False, generator=torch.Generator().manual_seed(7))[1] for _ in range(2)]
    assert all(torch.equal(records[0][name], records[1][name]) for name in records[0])
    assert records[0]["step"].unique().tolist() == [0, 1, 2, 3]


# ---------------------------------------------------------------------------------------------------------- learning


@pytest.mark.learning
@pytest.mark.parametrize(
    "density",
    [{"density": "sde"}, {"density": "sde", "sde": FlowSDECfg(noisy_steps="all")}, {"density": "noise"}],
    ids=["one", "all", "noise"],
)
def test_a_policy_gradient_finds_a_target(density):
    """REINFORCE on the distance of the first action to a target; acting without exploration gets there, too."""
    torch.manual_seed(0)
    network = MLPDenoiserCfg(network=ResidualMLPCfg(dim=32, num_blocks=1), time_dim=16)
    cfg = FlowHeadCfg(chunk_size=1, network=network, num_steps=3, noise=SMALL_NOISE, **density)
    head, prefix, target = build(cfg), prefix_for(cfg, 1).repeat(256), torch.tensor([1.5, -1.0])
    optimizer = torch.optim.Adam(head.parameters(), 5e-3)

    def error(actions):
        return (actions[:, 0] - target).square().sum(-1)

    with torch.no_grad():
        before = float(error(head.act(prefix)[0]).mean())
    for _ in range(100):
        with torch.no_grad():
            actions, record = head.act(prefix, deterministic=False)
        reward = -error(actions)
        advantage = ((reward - reward.mean()) / reward.std()).view(-1, 1, 1)
        optimizer.zero_grad()
        (-advantage * head.evaluate(prefix, record).log_prob).mean().backward()
        optimizer.step()
    with torch.no_grad():
        assert float(error(head.act(prefix)[0]).mean()) < 0.5 * before
