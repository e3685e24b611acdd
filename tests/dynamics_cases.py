"""A linear system with noise: as recorded data, as an environment, and as a model that is exact."""

from __future__ import annotations

from typing import Any

import torch
from RoboRenForce.buffer import TransitionDataset
from RoboRenForce.components import SystemDynamicsMLPCfg
from RoboRenForce.components.system_dynamics import Imagined, SystemDynamicsMLP
from RoboRenForce.envs import ActionSpec, EnvSpec, VecEnv
from RoboRenForce.networks import MLPCfg
from tensordict import TensorDict
from torch import Tensor

A = torch.tensor([[0.9, 0.2, 0.0, 0.0], [-0.2, 0.9, 0.1, 0.0], [0.0, 0.0, 0.8, 0.3], [0.0, 0.0, -0.3, 0.8]])
B = torch.tensor([[0.0], [0.5], [0.0], [0.3]])
NOISE = 0.1


def step(state: Tensor, action: Tensor) -> Tensor:
    """The mean of s' = A s + B a, `(..., 4)`."""
    return state @ A.T + action @ B.T


def spec(num_envs: int = 1, horizon: int = 0) -> EnvSpec:
    action = ActionSpec("continuous", 1, (-1.0,), (1.0,))
    return EnvSpec("Linear", num_envs, {"policy": (4,)}, action, horizon, extras=("final_observations",))


def recorded(state: Tensor, action: Tensor, following: Tensor, ends: Tensor, **more: Tensor) -> TransitionDataset:
    """Data whose reward is the first column of the state, unless told otherwise."""
    count = len(state)
    none = torch.zeros(count, dtype=torch.bool)
    terminated = more.get("terminated", none)
    return TransitionDataset(
        source="linear",
        obs={"policy": state},
        action=action,
        reward=more.get("reward", state[:, 0]),
        terminated=terminated,
        truncated=ends & ~terminated,
        next_obs={"policy": following},
        next_action=torch.zeros_like(action),
        next_action_known=none,
        episode_returns=torch.zeros(0),
        action_spec=spec().action,
    )


def single_steps(count: int, noise: float = NOISE) -> TransitionDataset:
    """Steps from normal states, each an episode of its own."""
    state, action = torch.randn(count, 4), torch.rand(count, 1) * 2 - 1
    following = step(state, action) + noise * torch.randn(count, 4)
    ends = torch.ones(count, dtype=torch.bool)
    return recorded(state, action, following, ends, reward=state[:, 0] + noise * torch.randn(count))


def episodes(count: int, length: int, noise: float = NOISE) -> TransitionDataset:
    """Whole episodes, one after another."""
    state, rows = torch.randn(count, 4), []
    for _ in range(length):
        action = torch.rand(count, 1) * 2 - 1
        following = step(state, action) + noise * torch.randn(count, 4)
        rows.append((state, action, following))
        state = following
    states, actions, followers = (torch.stack(part, 1).flatten(0, 1) for part in zip(*rows, strict=True))
    ends = (torch.arange(count * length) + 1) % length == 0
    return recorded(states, actions, followers, ends)


def mlp_cfg(**options: Any) -> SystemDynamicsMLPCfg:
    """A small ensemble."""
    backbone = MLPCfg(hidden_features=[32, 32], activations="SiLU")
    return SystemDynamicsMLPCfg(**({"num_members": 3, "num_elites": 2, "backbone_cfg": backbone} | options))


class ExactModel(SystemDynamicsMLP):
    """Knows the system: terminates where |s_0| > 1, pays s_0 of the successor."""

    def __init__(self) -> None:
        super().__init__(mlp_cfg(), spec=spec(), groups=["policy"])

    def imagine(self, state: Tensor, action: Tensor, memory: Any, member: Tensor, **_: Any) -> Imagined:
        following = step(state, action)
        return Imagined(following, following[:, 0], following[:, 0].abs() > 1.0, torch.zeros(len(state)), memory)


class LinearEnv(VecEnv):
    """The system without noise, from given states."""

    def __init__(self, states: Tensor, horizon: int) -> None:
        self.spec, self.device, self.cfg = spec(len(states), horizon), torch.device("cpu"), None
        self.states, self.state, self._episode_length_buf = states, states, torch.zeros(len(states), dtype=torch.int64)

    def reset(self, *, seed: int | None = None) -> Any:
        self.state, self._episode_length_buf = self.states, torch.zeros_like(self._episode_length_buf)
        return self.get_observations(), {}

    def get_observations(self) -> TensorDict:
        return TensorDict({"policy": self.state.clone()}, [self.num_envs])

    def step(self, actions: Tensor) -> Any:
        following = step(self.state, actions.clamp(-1.0, 1.0))
        length = self._episode_length_buf + 1
        terminated = following[:, 0].abs() > 1.0
        time_outs = (length >= self.spec.max_episode_length) & ~terminated
        done = terminated | time_outs
        final = TensorDict({"policy": following.clone()}, [self.num_envs])
        self.state = torch.where(done.unsqueeze(1), self.states, following)
        self._episode_length_buf = torch.where(done, 0, length)
        extras = {"terminated": terminated, "time_outs": time_outs, "final_observations": final, "log": {}}
        return self.get_observations(), following[:, 0].clone(), done.long(), extras
