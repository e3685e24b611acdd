"""Recording of a behavior's episodes in an environment, for offline learning."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from tensordict import TensorDict
from torch import Tensor

from ..algorithms.algorithm import Policy
from ..buffer.dataset_episodes import EpisodeArrays
from ..configclass import ConfigError
from ..envs.spec import ActionSpec
from ..envs.vec_env import VecEnv
from ..utils.errors import EnvContractError

_STEPS_WITHOUT_HORIZON = 100_000


class Behavior(ABC):
    """Policy whose actions are recorded."""

    @abstractmethod
    def act(self, obs: TensorDict) -> Tensor:
        """Return actions `(N, *action.shape)` for observations `[N]`."""

    def reset(self, done: Tensor | None = None) -> None:  # noqa: B027 - only policies with a memory need it
        """Reset state where `done` `(N,)` is set; everywhere if it is None."""


class RandomBehavior(Behavior):
    """Uniform actions within the bounds, [-1, 1] without bounds; uniform choices if actions are discrete."""

    def __init__(self, action: ActionSpec) -> None:
        self.action = action

    def act(self, obs: TensorDict) -> Tensor:
        """See `Behavior.act`."""
        return uniform_actions(self.action, obs)


class PolicyBehavior(Behavior):
    """A policy, with additional noise if configured.

    Args:
        policy: Policy to play; its mode becomes `deterministic`.
        action: Action space of the environment.
        deterministic: True for the mode of the policy instead of samples.
        noise: Standard deviation of Gaussian noise, as a share of half the range of an action.
        epsilon: Probability of a uniformly random action instead.
    """

    def __init__(
        self, policy: Policy, action: ActionSpec, *, deterministic: bool, noise: float = 0.0, epsilon: float = 0.0
    ) -> None:
        if noise and action.kind == "discrete":
            raise ConfigError("Noise can't be added to discrete actions: use epsilon, the share of random ones.")
        policy.deterministic = deterministic
        self.policy, self.action, self.noise, self.epsilon = policy, action, noise, epsilon

    def act(self, obs: TensorDict) -> Tensor:
        """See `Behavior.act`."""
        chosen = self.policy(obs)
        if self.noise:
            low, high = _bounds(self.action, chosen)
            chosen = chosen + self.noise * 0.5 * (high - low) * torch.randn_like(chosen)
        if self.epsilon:
            random = torch.rand(len(chosen), device=chosen.device) < self.epsilon
            random = random.view(-1, *(1,) * (chosen.dim() - 1))
            chosen = torch.where(random, uniform_actions(self.action, obs).to(chosen), chosen)
        return chosen

    def reset(self, done: Tensor | None = None) -> None:
        """See `Behavior.reset`."""
        self.policy.reset(done)


def uniform_actions(action: ActionSpec, obs: TensorDict) -> Tensor:
    """Draw uniformly random actions `(N, *action.shape)` for observations `[N]`."""
    shape, device = (obs.batch_size[0], *action.shape), obs.device
    if action.kind == "discrete":
        return torch.randint(action.dim, shape, device=device)
    unit = torch.rand(shape, device=device)
    low, high = _bounds(action, unit)
    return low + unit * (high - low)


@torch.no_grad()
def record_episodes(env: VecEnv, behavior: Behavior, steps: int, *, seed: int | None = None) -> list[EpisodeArrays]:
    """Play whole episodes until every environment has contributed its share of `steps`.

    The last ones are played to their end, so that every recorded episode ends as the environment ended it.

    Args:
        env: Environment; it is reset, and has to provide final observations.
        behavior: Chooses the actions; actions beyond the bounds are recorded as the environment executes them.
        steps: Minimum number of transitions; all episodes together have a few more.
        seed: Seed that makes the episodes reproducible.

    Returns:
        The episodes of environment 0, then those of environment 1, and so on.
    """
    spec = env.spec
    if "final_observations" not in spec.extras:
        raise EnvContractError(
            f"{spec.task} doesn't provide final_observations, without which the successors of last steps are unknown: "
            "switch them on in the environment's configuration, or choose another task."
        )
    share = -(-steps // spec.num_envs)
    tapes = [_Tape(list(spec.obs_groups)) for _ in range(spec.num_envs)]
    obs, _ = env.reset(seed=seed)
    behavior.reset()
    for tape, row in zip(tapes, _rows(obs), strict=True):
        tape.begin(row)
    for _ in range(share + (env.max_episode_length or _STEPS_WITHOUT_HORIZON)):
        action = behavior.act(obs)
        if spec.action.low is not None:
            action = action.clamp(*_bounds(spec.action, action))
        obs, reward, done, extras = env.step(action)
        after, final = _rows(obs), _rows(extras["final_observations"])
        facts = [values.cpu().numpy() for values in (action, reward, extras["terminated"], extras["time_outs"])]
        for i, tape in enumerate(tapes):
            if tape.length < share or not tape.at_start:
                tape.add(after[i], final[i], *(values[i] for values in facts))
        behavior.reset(done)
        if all(tape.length >= share and tape.at_start for tape in tapes):
            episodes = [episode for tape in tapes for episode in tape.episodes]
            return [replace(episode, key=f"episode_{number}") for number, episode in enumerate(episodes)]
    raise EnvContractError(f"{spec.task} has episodes that don't end: give the environment a horizon.")


class _Tape:
    """Recording of one environment: finished episodes and the current one."""

    def __init__(self, groups: list[str]) -> None:
        self.groups = groups
        self.episodes: list[EpisodeArrays] = []
        self.length = 0

    @property
    def at_start(self) -> bool:
        return not self._steps

    def begin(self, obs: dict[str, np.ndarray]) -> None:
        self._obs, self._steps = [obs], []

    def add(self, obs: dict[str, np.ndarray], final: dict[str, np.ndarray], *facts: np.generic | np.ndarray) -> None:
        """Add a step: observations after it, final ones if it ended the episode, and action, reward, flags."""
        self._steps.append(facts)
        self.length += 1
        ended = bool(facts[2]) or bool(facts[3])
        self._obs.append(final if ended else obs)
        if ended:
            columns = [np.asarray(column) for column in zip(*self._steps, strict=True)]
            rows = {name: np.stack([entry[name] for entry in self._obs]) for name in self.groups}
            self.episodes.append(EpisodeArrays("", rows, *columns))
            self.begin(obs)


def _rows(obs: TensorDict) -> list[dict[str, np.ndarray]]:
    """Copy the observations of each environment."""
    groups: dict[str, Any] = {str(name): group.cpu().numpy().copy() for name, group in obs.items()}
    return [{name: group[i] for name, group in groups.items()} for i in range(obs.batch_size[0])]


def _bounds(action: ActionSpec, like: Tensor) -> tuple[Tensor, Tensor]:
    low = like.new_tensor(action.low if action.low is not None else (-1.0,) * action.dim)
    high = like.new_tensor(action.high if action.high is not None else (1.0,) * action.dim)
    return low, high
