"""Offline algorithms on problems that are solved by hand: a bandit, and a chain of five states.

Critics are tables: the observation is the one-hot state, and the interval that an action lies in is its index. They
begin far too optimistic about the action that the data lacks.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from RoboRenForce import algorithms, components, networks
from RoboRenForce.algorithms import RunContext
from RoboRenForce.buffer import ReplayBatch, TransitionDataset
from RoboRenForce.configclass import configclass
from RoboRenForce.envs.spec import ActionSpec, EnvSpec
from RoboRenForce.networks.network import Network, NetworkCfg
from torch import Tensor, nn

pytestmark = pytest.mark.oracle

GAMMA, STATES = 0.9, 5
LEFT, STAY, RIGHT = -0.9, 0.0, 0.9
OPTIMISM = 3.0
"""Where tables begin for the action that the data lacks; no policy has a value above 1."""


class Table(Network):
    """A number for every member, state and interval of the action: `(..., S + 1) -> (E, ..., 1)`."""

    def __init__(self, cfg: TableCfg, num_members: int, in_features: int) -> None:
        super().__init__(in_features, 1)
        self.edges = torch.tensor(cfg.edges)
        self.values = nn.Parameter(torch.tensor(cfg.initial).expand(num_members, in_features - 1, -1).clone())

    def forward(self, x: Tensor) -> Tensor:
        state, interval = x[..., :-1].argmax(-1), torch.bucketize(x[..., -1].detach().contiguous(), self.edges)
        return self.values[:, state, interval].unsqueeze(-1)


@configclass
class TableCfg(NetworkCfg):
    class_type: type = Table
    edges: list[float] = [0.0]
    initial: list[float] = [0.0, 0.0]

    def build_ensemble(self, num_members: int, in_features: int, out_features: int) -> Network:
        return Table(self, num_members, in_features)


def critic(num_q: int, table: TableCfg) -> components.QNetworkCfg:
    return components.QNetworkCfg(num_q=num_q, backbone_cfg=table, normalizer_cfg=None)


def build(algorithm: Any, policy: Any, data: TransitionDataset | None, states: int) -> Any:
    action = ActionSpec("continuous", 1, low=(-1.0,), high=(1.0,))
    spec = EnvSpec("table", 1, {"policy": (states,)}, action, 100, ("final_observations",))
    context = RunContext(spec=spec, device=torch.device("cpu"), data=data)
    return algorithm.build(policy=policy, context=context)


# --- a bandit: two halves of the action's range, the data has 80 % of the first --------------------------------------


def test_cql_bandit() -> None:
    """min of alpha (log sum exp Q - E_mu Q) + 1/2 E_mu (Q - y)^2, mu = (.8, .2), y = (1, 0), alpha = 1/2.

    Each half of [-1, 1] has length 1, so the integral over actions is the sum over halves; our squared error has no
    factor 1/2, so the weight is twice alpha.
    """
    linear = networks.MLPCfg(hidden_features=[])
    policy = components.ActorQPackCfg(
        actor_cfg=components.TanhGaussianActorCfg(backbone_cfg=linear, normalizer_cfg=None),
        critic_cfg=critic(1, TableCfg()),
    )
    cql = build(
        algorithms.CQLCfg(conservative_weight=1.0, num_actions=200, critic_learning_rate=0.05), policy, None, states=1
    )
    rows = torch.arange(40) < 32
    zeros, state = torch.zeros(40), {"policy": torch.ones(40, 1)}
    found = ReplayBatch(state, torch.where(rows, -0.5, 0.5).unsqueeze(1), rows.float(), zeros, next_obs=state)
    average = torch.zeros(2)
    for step in range(600):
        if step == 300:
            cql.actor_critic.critic_optimizer.adam.lr.fill_(0.005)
        cql.train_step(found, update_actor=False)
        if step >= 400:
            average += cql.critic.ensemble.values.detach().flatten() / 200
    assert average.tolist() == pytest.approx([1.027016, -0.108063], abs=0.01)


# --- the chain: left, stay or right; the step to the right of the last state is rewarded with 1 and ends it -----------


def chain() -> TransitionDataset:
    """Ten transitions from each state, seven of them to the left, three to the right; nobody stays."""
    state, right = np.arange(10 * STATES) // 10, np.arange(10 * STATES) % 10 < 3
    over = right & (state == STATES - 1)
    following = np.where(right, np.minimum(state + 1, STATES - 1), np.maximum(state - 1, 0))
    eye = np.eye(STATES, dtype=np.float32)
    arrays = {
        "observations": eye[state],
        "actions": np.where(right, RIGHT, LEFT).astype(np.float32)[:, None],
        "rewards": over.astype(np.float32),
        "terminals": over,
        "timeouts": ~over,  # rows are single steps
        "next_observations": eye[following],
    }
    return TransitionDataset.from_rows(arrays, source="chain")


def successors(state: int) -> dict[float, tuple[float, int | None]]:
    """Action -> (reward, next state) of the true chain."""
    ahead = (1.0, None) if state == STATES - 1 else (0.0, state + 1)
    return {LEFT: (0.0, max(state - 1, 0)), STAY: (0.0, state), RIGHT: ahead}


OPTIMAL = np.array([GAMMA ** (STATES - 1 - state) for state in range(STATES)])
EDGES = [-0.3, 0.3]


def expectile_values(expectile: float) -> np.ndarray:
    """V of the fixed point of expectile backups over the data's two actions, by iteration in closed form."""
    values = np.zeros(STATES)
    for _ in range(500):
        backups = [
            [
                reward + (0.0 if after is None else GAMMA * values[after])
                for reward, after in map(moves.get, (LEFT, RIGHT))
            ]
            for moves in map(successors, range(STATES))
        ]
        for state, (left, right) in enumerate(backups):
            best, worst = max(left, right), min(left, right)
            share = 0.3 if right >= left else 0.7
            high, low = expectile * share, (1.0 - expectile) * (1.0 - share)
            values[state] = (high * best + low * worst) / (high + low)
    return values


@pytest.mark.parametrize("expectile", [0.7, 0.99])
def test_iql_finds_the_best_of_the_data_and_nothing_beyond_it(expectile: float) -> None:
    """V is the fixed point of expectile backups, which nears the optimum as the expectile does 1."""
    options: dict[str, Any] = {"normalizer_cfg": None, "backbone_cfg": networks.MLPCfg(hidden_features=[])}
    policy = components.ActorQVPackCfg(
        actor_cfg=components.StateIndStdActorCfg(use_log_std=True, **options),
        critic_cfg=critic(1, TableCfg(edges=EDGES, initial=[0.0, OPTIMISM, 0.0])),
        value_cfg=components.VNetworkCfg(**options),
    )
    cfg = algorithms.IQLCfg(
        gamma=GAMMA,
        expectile=expectile,
        beta=30.0,
        tau=0.1,
        actor_learning_rate=0.02,
        actor_final_learning_rate=1.0,
        critic_learning_rate=0.05,
    )
    iql = build(cfg, policy, chain(), STATES)
    states, values = {"policy": torch.eye(STATES)}, np.zeros(STATES)
    for step in range(1200):
        if step == 700:
            iql.critic_optimizer.adam.lr.fill_(0.005)
        iql.update()
        if step >= 1000:  # Adam never quite settles
            values += iql.value(states)[0].detach().numpy() / 200
    assert values == pytest.approx(expectile_values(expectile), abs=0.01)
    if expectile > 0.9:
        assert values == pytest.approx(OPTIMAL, abs=0.03)
        assert (iql.actor(states)[0].mode.detach() > 0.3).all()  # to the right everywhere
    stay = iql.critic.ensemble.values.detach()[:, :, 1]
    assert torch.equal(stay, torch.full_like(stay, OPTIMISM))  # never asked about, never changed, never believed


def test_cql_stays_below_the_true_values() -> None:
    """The value that CQL gives its own policy is below the true one in every state, found by solving the chain."""
    options: dict[str, Any] = {"normalizer_cfg": None, "backbone_cfg": networks.MLPCfg(hidden_features=[])}
    policy = components.ActorQPackCfg(
        actor_cfg=components.TanhGaussianActorCfg(**options),
        critic_cfg=critic(2, TableCfg(edges=EDGES, initial=[0.0, OPTIMISM, 0.0])),
    )
    cfg = algorithms.CQLCfg(
        gamma=GAMMA,
        conservative_weight=0.5,
        tau=0.1,
        actor_learning_rate=0.01,
        critic_learning_rate=0.05,
        batch_size=64,
    )
    cql = build(cfg, policy, chain(), STATES)
    for _ in range(1000):
        metrics = cql.update()
    states = {"policy": torch.eye(STATES).expand(20_000, STATES, STATES)}
    action = cql.actor(states)[0].sample().squeeze(-1)
    interval = torch.bucketize(action, torch.tensor(EDGES))
    share = torch.nn.functional.one_hot(interval, 3).double().mean(0).numpy()  # (S, 3)
    table = cql.critic.ensemble.values.detach().double().numpy().min(0)
    matrix, reward = np.eye(STATES), np.zeros(STATES)
    for state in range(STATES):
        for probability, (gain, after) in zip(share[state], successors(state).values(), strict=True):
            reward[state] += probability * gain
            if after is not None:
                matrix[state, after] -= GAMMA * probability
    true = np.linalg.solve(matrix, reward)
    estimated = (share * table).sum(1)
    assert (estimated <= true + 1e-6).all(), (estimated, true)
    assert (table[:, 1] < table[:, 2]).all()  # the action that the data lacks is not believed in
    assert float(metrics["Policy/q_gap"]) > 0.0
