"""A memory filters noise: predicting a hidden process is as hard as the Kalman filter says, and hardly harder.

`x' = 0.9 x + N(0, 0.1)`, `o = x + N(0, 0.5)` (variances). In equilibrium the best prediction of `o_{t+1}` from all of
the past has variance 0.726121 and a negative log-likelihood of 1.258919; from `o_t` alone it is 1.312151.
"""

from __future__ import annotations

import math

import pytest
import torch
from RoboRenForce.networks import MLPCfg, NetworkCfg, RNNCfg, StackCfg, TransformerCfg
from torch import Tensor

pytestmark = pytest.mark.oracle

DECAY, PROCESS, NOISE = 0.9, 0.1, 0.5
BAYES, MEMORYLESS = 1.258919, 1.312151
HALF_LOG_2PI = 0.5 * math.log(2.0 * math.pi)
WARM_UP = 20
"""Steps after which the filter has forgotten that its memory was empty."""


def observations(length: int, rows: int) -> Tensor:
    """`(length, rows, 1)` of the process in equilibrium."""
    x = math.sqrt(PROCESS / (1 - DECAY**2)) * torch.randn(rows)
    noise = torch.randn(2, length, rows)
    states = []
    for t in range(length):
        x = DECAY * x + math.sqrt(PROCESS) * noise[0, t]
        states.append(x)
    return (torch.stack(states) + math.sqrt(NOISE) * noise[1]).unsqueeze(-1)


def nll(net: torch.nn.Module, o: Tensor) -> Tensor:
    """Mean negative log-likelihood of `o_{t+1}` given what the network knows at t."""
    y, _ = net(o[:-1], net.initial_state(o.shape[1]))
    mean, log_std = y.chunk(2, dim=-1)
    error = 0.5 * ((o[1:] - mean) * (-log_std).exp()).square() + log_std + HALF_LOG_2PI
    return error[WARM_UP:].mean()


def trained(cfg: NetworkCfg, steps: int = 250) -> float:
    """What is left after training, on sequences that were not trained on."""
    torch.manual_seed(0)
    net = cfg.build(1, 2)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        optimizer.zero_grad()
        nll(net, observations(WARM_UP + 45, 32)).backward()
        optimizer.step()
        schedule.step()
    torch.manual_seed(1)
    with torch.no_grad():
        return float(nll(net, observations(WARM_UP + 401, 1000)))


def test_the_bounds_are_those_of_the_kalman_filter_and_of_the_regression_on_one_observation():
    variance = 1.0  # of the state given the past, iterated to its fixed point
    for _ in range(100):
        predicted = DECAY**2 * variance + PROCESS
        variance = predicted * NOISE / (predicted + NOISE)
    state = PROCESS / (1 - DECAY**2)
    single = state + NOISE - (DECAY * state) ** 2 / (state + NOISE)
    for total, expected in ((predicted + NOISE, BAYES), (single, MEMORYLESS)):
        assert 0.5 * math.log(2 * math.pi * math.e * total) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    "cfg",
    [
        RNNCfg(hidden_size=16),
        RNNCfg(cell="lstm", hidden_size=16),
        TransformerCfg(dim=16, num_heads=2, num_layers=1, mlp_ratio=2, window=16),
        StackCfg(window=12, head_cfg=MLPCfg(hidden_features=[])),
    ],
    ids=["gru", "lstm", "transformer", "stack"],
)
def test_a_memory_predicts_almost_as_well_as_the_kalman_filter_and_never_better(cfg: NetworkCfg):
    found = trained(cfg)
    assert BAYES - 0.005 < found <= 1.27


def test_a_window_of_two_observations_is_worth_what_the_regression_on_two_says():
    state = PROCESS / (1 - DECAY**2)
    covariance = torch.tensor([[state + NOISE, DECAY * state], [DECAY * state, state + NOISE]])
    with_next = torch.tensor([DECAY**2 * state, DECAY * state])  # of o_{t-1} and o_t
    variance = state + NOISE - float(with_next @ torch.linalg.solve(covariance, with_next))
    found = trained(StackCfg(window=2, head_cfg=MLPCfg(hidden_features=[])), steps=1000)
    assert found == pytest.approx(0.5 * math.log(2 * math.pi * math.e * variance), abs=0.005)
