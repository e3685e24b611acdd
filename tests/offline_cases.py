"""Small recorded data and learners that the tests of offline algorithms share."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from RoboRenForce import algorithms, components, networks
from RoboRenForce.algorithms import RunContext
from RoboRenForce.buffer import EpisodeArrays, ReplayBatch, TransitionDataset
from RoboRenForce.configclass import Cfg
from RoboRenForce.envs.spec import ActionSpec, EnvSpec

GAMMA = 0.9


def spec(obs: int = 3, actions: int = 2) -> EnvSpec:
    action = ActionSpec("continuous", actions, low=(-1.0,) * actions, high=(1.0,) * actions)
    return EnvSpec("toy", 4, {"policy": (obs,)}, action, 100, ("final_observations",))


def recorded(lengths: dict[int, bool] | None = None, obs: int = 3, actions: int = 2) -> TransitionDataset:
    """Random episodes, by length and whether they terminate; the others are cut."""
    random, episodes = np.random.default_rng(0), []
    for number, (length, terminates) in enumerate((lengths or {20: True, 15: False, 25: True}).items()):
        last = np.arange(length) == length - 1
        episodes.append(
            EpisodeArrays(
                key=f"episode_{number}",
                observations={"policy": random.normal(2.0, 3.0, (length + 1, obs)).astype(np.float32)},
                actions=random.uniform(-1.0, 1.0, (length, actions)).astype(np.float32),
                rewards=random.normal(size=length).astype(np.float32),
                terminations=last & terminates,
                truncations=last & (not terminates),
            )
        )
    return TransitionDataset.from_episodes(episodes, source="toy", action=spec(obs, actions).action)


def batch(size: int = 32, obs: int = 3, actions: int = 2) -> ReplayBatch:
    """Random transitions, a third of which terminate."""
    return ReplayBatch(
        obs={"policy": torch.randn(size, obs)},
        action=torch.rand(size, actions) * 2 - 1,
        reward=torch.randn(size),
        discount=GAMMA * (torch.rand(size) > 0.3).float(),
        next_obs={"policy": torch.randn(size, obs)},
        next_action=torch.rand(size, actions) * 2 - 1,
    )


def make(algorithm: Any, policy: Cfg | None = None, data: TransitionDataset | None = None, **sizes: int) -> Any:
    """A learner from `data`, by default with networks of one layer and observations as they are."""
    options: dict[str, Any] = {"backbone_cfg": networks.MLPCfg(hidden_features=[16]), "normalizer_cfg": None}
    if policy is None:
        if isinstance(algorithm, algorithms.IQLCfg):
            policy = components.ActorQVPackCfg(
                actor_cfg=components.StateIndStdActorCfg(use_log_std=True, init_std=0.5, **options),
                critic_cfg=components.QNetworkCfg(**options),
                value_cfg=components.VNetworkCfg(**options),
            )
        else:
            squashed = isinstance(algorithm, algorithms.CQLCfg)
            actor = components.TanhGaussianActorCfg if squashed else components.DeterministicActorCfg
            policy = components.ActorQPackCfg(actor_cfg=actor(**options), critic_cfg=components.QNetworkCfg(**options))
    algorithm.gamma = GAMMA
    context = RunContext(spec=spec(**sizes), device=torch.device("cpu"), data=data or recorded(**sizes))
    return algorithm.build(policy=policy, context=context)
