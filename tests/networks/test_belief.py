"""A belief is the posterior: of linear systems that of the Kalman filter, of a hidden switch both of its positions."""

from __future__ import annotations

import math

import pytest
import torch
from RoboRenForce.configclass import ConfigError
from RoboRenForce.networks import (
    BeliefNetwork,
    BeliefNetworkCfg,
    ConditionalDensityCfg,
    FlowDensity,
    FlowDensityCfg,
    GaussianDensityCfg,
    MLPCfg,
)
from torch import Tensor, nn

pytestmark = pytest.mark.oracle

DECAY, PROCESS, NOISE = 0.9, 0.1, 0.5
"""x' = 0.9 x + N(0, 0.1), o = x + N(0, 0.5) (variances)."""
BAYES = 1.258919
"""Negative log-likelihood of o given the past; given o_t alone it is 1.312151."""
WARM_UP = 12

LINEAR = GaussianDensityCfg(network=MLPCfg(hidden_features=[]))
FLOW = FlowDensityCfg(gaussian=LINEAR, network=MLPCfg(hidden_features=[32, 32], activations="SiLU"))


def states(length: int, rows: int) -> Tensor:
    """Hidden states `(length, rows)` of the process in equilibrium."""
    x, found = math.sqrt(PROCESS / (1 - DECAY**2)) * torch.randn(rows), []
    for noise in torch.randn(length, rows):
        x = DECAY * x + math.sqrt(PROCESS) * noise
        found.append(x)
    return torch.stack(found)


def kalman(observed: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Posterior mean and variance `(T, N)` of the state from sensors `(value, variance)`, `(T, N)` each."""
    rows = observed[0][0].shape[1]
    mean, variance = torch.zeros(rows), torch.full((rows,), PROCESS / (1 - DECAY**2))
    found = []
    for t in range(observed[0][0].shape[0]):
        if t:
            mean, variance = DECAY * mean, DECAY**2 * variance + PROCESS
        for value, noise in observed:  # an infinite variance is a missing observation: the step only predicts
            gain = variance / (variance + noise[t])
            mean, variance = mean + gain * (value[t] - mean), (1 - gain) * variance
        found.append((mean, variance))
    return torch.stack([mean for mean, _ in found]), torch.stack([variance for _, variance in found])


def normal_nll(x: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    return 0.5 * ((x - mean).square() / variance + (2 * math.pi * variance).log())


def train(net: BeliefNetwork, draw, steps: int) -> None:
    """Fit the density to `draw() -> (inputs (T, N, in), target (T, N, D), rows that count)`."""
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        x, target, used = draw()
        beliefs, _ = net.beliefs(x, net.initial_state(x.shape[1]))
        optimizer.zero_grad()
        net.density.loss(target[used], beliefs[used]).mean().backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        schedule.step()


@pytest.mark.parametrize("density", [LINEAR, FLOW], ids=["gaussian", "flow"])
def test_a_belief_predicts_the_next_observation_as_the_kalman_filter_does(density: ConditionalDensityCfg):
    torch.manual_seed(0)
    net = BeliefNetworkCfg(size=12, density=density).build(1, 1)

    def draw(rows: int = 64) -> tuple[Tensor, Tensor, slice]:
        x = states(WARM_UP + 18, rows)
        o = (x + math.sqrt(NOISE) * torch.randn_like(x)).unsqueeze(-1)
        return o[:-1], o[1:], slice(WARM_UP, None)

    train(net, draw, 100)
    torch.manual_seed(1)
    inputs, target, used = draw(2000)
    mean, variance = kalman([(inputs.squeeze(-1), torch.full_like(inputs.squeeze(-1), NOISE))])
    mean, variance = DECAY * mean[used], DECAY**2 * variance[used] + PROCESS + NOISE
    best = normal_nll(target[used].squeeze(-1), mean, variance).mean()
    assert float(best) == pytest.approx(BAYES, abs=0.015)  # the error of the sample, which both have in common
    with torch.no_grad():
        beliefs = net.beliefs(inputs, net.initial_state(2000))[0][used]
    found = -net.density.log_prob(target[used], beliefs).mean().detach()
    assert -0.003 * BAYES < float(found - best) <= 0.01 * BAYES
    # Samples have the posterior's moments, not only its likelihood.
    with torch.no_grad():
        samples = torch.stack([net.density.sample(beliefs[-1]) for _ in range(200)]).squeeze(-1)
    assert float(samples.var(0).mean()) == pytest.approx(float(variance[-1].mean()), rel=0.05)
    assert float((samples.mean(0) - mean[-1]).square().mean()) <= 0.02 * float(variance[-1].mean()) + 0.01


@pytest.mark.parametrize("update", ["gru", pytest.param("residual", marks=pytest.mark.long)])
def test_slow_observations_correct_and_missing_ones_only_predict(update: str):
    """A poor sensor at every step and a good one at a fifth of them: mean and variance are the Kalman filter's."""
    torch.manual_seed(0)
    poor, good, share = 2.0, 0.05, 0.2
    cfg = BeliefNetworkCfg(size=16, update=update, residual_hidden=16, slow_columns=[1], arrival_column=2)
    net = cfg.replace(density=GaussianDensityCfg(network=MLPCfg(hidden_features=[16]))).build(3, 1)

    def draw(rows: int = 64) -> tuple[Tensor, Tensor, slice]:
        x = states(WARM_UP + 12, rows)
        arrived = torch.rand_like(x) < share
        slow = torch.where(arrived, x + math.sqrt(good) * torch.randn_like(x), 100.0 * torch.randn_like(x))
        fast = x + math.sqrt(poor) * torch.randn_like(x)
        return torch.stack([fast, slow, 2.0 * arrived - 1.0], -1), x.unsqueeze(-1), slice(WARM_UP, None)

    train(net, draw, 150)
    torch.manual_seed(1)
    inputs, x, used = draw(1000)
    fast, slow, arrival = inputs.unbind(-1)
    noise = torch.where(arrival > 0, good, torch.inf)
    mean, variance = (moment[used] for moment in kalman([(fast, torch.full_like(fast, poor)), (slow, noise)]))
    with torch.no_grad():
        beliefs = net.beliefs(inputs, net.initial_state(1000))[0][used]
        found_mean, log_std = (moment.squeeze(-1) for moment in net.density.moments(beliefs))
    best = normal_nll(x[used].squeeze(-1), mean, variance).mean()
    found = normal_nll(x[used].squeeze(-1), found_mean, (2 * log_std).exp()).mean()
    assert 0.0 <= float(found - best) + 0.003 <= 0.03
    missing = (arrival < 0)[used]
    assert float(((2 * log_std).exp() / variance)[missing].mean()) == pytest.approx(1.0, abs=0.06)
    assert float((found_mean - mean)[missing].square().mean()) <= 0.04 * float(variance[missing].mean())


def test_a_missing_observation_does_not_matter_and_the_update_is_the_fast_one():
    torch.manual_seed(0)
    net = BeliefNetworkCfg(size=5, slow_columns=[2, 0], arrival_column=3).build(4, 2)
    x, state = torch.randn(6, 3, 4), torch.randn(1, 3, 5)
    x[..., 3] = torch.where(torch.rand(6, 3) < 0.4, 1.0, -1.0)
    other = torch.where((x[..., 3:] < 0) & torch.tensor([True, False, True, False]), torch.full_like(x, 1e6), x)
    assert torch.equal(net.beliefs(x, state)[0], net.beliefs(other, state)[0])
    missing = torch.cat([torch.randn(3, 3), -torch.ones(3, 1)], -1)
    assert torch.equal(net.beliefs(missing, state)[0], net.fast_update(missing[:, 1:2], state[0]))
    arrived = missing * torch.tensor([1.0, 1.0, 1.0, -1.0])
    expected = net.slow_update(arrived[:, [2, 0]], net.fast_update(arrived[:, 1:2], state[0]))
    assert torch.equal(net.beliefs(arrived, state)[0], expected)


@pytest.mark.parametrize("cfg", [{}, {"update": "residual"}, {"slow_columns": [1], "arrival_column": 2}])
def test_a_sequence_is_its_steps_and_episodes_start_from_nothing(cfg: dict):
    torch.manual_seed(0)
    net = BeliefNetworkCfg(size=6, **cfg).build(3, 2)
    x, starts, state = torch.randn(9, 4, 3), torch.rand(9, 4) < 0.3, torch.randn(1, 4, 6)
    y, last = net(x, state, starts)
    for t in range(9):
        single, state = net(x[t], state, starts[t])
        torch.testing.assert_close(single, y[t], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(state, last)
    begun = net(x[8:], torch.randn(1, 4, 6), torch.ones(1, 4, dtype=torch.bool))[0]
    assert torch.equal(begun, net(x[8:], net.initial_state(4))[0])


def test_of_a_hidden_switch_a_flow_keeps_both_positions_and_a_gaussian_the_middle():
    """The position is 1 or -1 (std 0.2), and only the third observation tells which."""
    torch.manual_seed(0)

    def draw(rows: int = 256) -> tuple[Tensor, Tensor, slice]:
        side = torch.randint(2, (1, rows, 1)) * 2.0 - 1.0
        x = side + 0.2 * torch.randn(3, rows, 1)
        return torch.cat([torch.zeros(2, rows, 1), side]), x, slice(None)

    found = {}
    velocity = MLPCfg(hidden_features=[64, 64, 64], activations="SiLU", init="orthogonal")
    for name, density in (("gaussian", GaussianDensityCfg()), ("flow", FlowDensityCfg(network=velocity))):
        net = BeliefNetworkCfg(size=8, density=density).build(1, 1)
        train(net, draw, 100 if name == "gaussian" else 400)
        inputs, x, _ = draw(2000)
        with torch.no_grad():
            beliefs = net.beliefs(inputs, net.initial_state(2000))[0]
            unsure, sure = (net.density.sample(beliefs[t]).squeeze(-1) for t in (1, 2))
        found[name] = [float((side * unsure > 0.5).float().mean()) for side in (-1.0, 1.0)]
        assert float((unsure > 0.0).float().mean()) == pytest.approx(0.5, abs=0.05)
        assert float((sure * x[2, :, 0].sign() > 0.0).float().mean()) > 0.95  # once told, both know
    assert min(found["flow"]) >= 0.4  # 0.497 of the switch itself
    assert max(found["gaussian"]) <= 0.37  # a third of it lies between the positions


def test_the_log_density_of_a_flow_integrates_to_one_and_fits_its_samples():
    torch.manual_seed(0)
    flow: FlowDensity = FlowDensityCfg(num_steps=32).build(2, 1)
    for parameter in flow.network.parameters():
        parameter.data.mul_(1.5)  # far from the identity
    condition = torch.randn(1, 2)
    grid = torch.linspace(-12.0, 12.0, 4001).unsqueeze(-1)
    density = flow.log_prob(grid, condition.expand(4001, 2)).exp()
    assert float(torch.trapezoid(density, grid.squeeze(-1))) == pytest.approx(1.0, abs=0.01)
    with torch.no_grad():
        samples = flow.sample(condition.expand(40_000, 2))
    mean = float(torch.trapezoid(density * grid.squeeze(-1), grid.squeeze(-1)))
    assert float(samples.mean()) == pytest.approx(mean, abs=0.05)


def test_columns_that_contradict_each_other_are_named():
    with pytest.raises(ConfigError, match="arrival_column: 1 has to be an input beside"):
        BeliefNetworkCfg(slow_columns=[1], arrival_column=1).build(3, 1)
    with pytest.raises(ConfigError, match="nothing arrives"):
        BeliefNetworkCfg(arrival_column=1).build(3, 1)
    with pytest.raises(ConfigError, match="time_features: 3 is odd"):
        FlowDensityCfg(time_features=3).build(1, 1)
