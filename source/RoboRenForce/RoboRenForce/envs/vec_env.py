"""The environment contract: a batch of auto-resetting environments that speak torch.

It is a superset of rsl_rl 5's `VecEnv`, so rsl_rl's runner drives our environments and our runners drive wrapped ones.
`check_vec_env` tests an implementation against every sentence written here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from tensordict import TensorDict

from .spec import EnvSpec

StepReturn = tuple[TensorDict, torch.Tensor, torch.Tensor, dict[str, Any]]

ALWAYS_IN_EXTRAS = ("terminated", "time_outs", "log")
"""Keys of `extras` that every environment provides at every step, declared or not."""


class VecEnv(ABC):
    """`num_envs` environments stepped together.

    Observations are a `TensorDict` of batch size `[num_envs]` with one tensor per observation group of `spec`.
    An environment that ends is reset inside `step`; the returned observation is then the first of the new episode.

    `extras` of `step` always holds

    - `terminated` bool `(num_envs,)`: the task ended; nothing is bootstrapped,
    - `time_outs` bool `(num_envs,)`: the episode was cut; the value of the last observation is bootstrapped,
    - `log` dict: scalars (0-dim tensors or floats) to log; may be empty,

    and, if and only if `spec.extras` declares them,

    - `final_observations` TensorDict `[num_envs]`: in rows that are done the true last observation of the finished episode,
      in all other rows the returned observation, so its value is the exact bootstrap in every row,
    - `success` bool `(num_envs,)`: valid in rows that are done,
    - `reward_terms` float `(num_envs, len(spec.reward_terms))`, `command` float `(num_envs, C)`,
      `dynamics` float `(num_envs, D)`, `group_id` int64 `(num_envs,)`.

    Returned tensors may be reused by the environment at the next step: whoever keeps them copies them.
    """

    spec: EnvSpec
    device: torch.device
    cfg: Any
    episode_length_buf: torch.Tensor
    """int64 `(num_envs,)`: steps taken in the current episode. Settable: runners randomize it to spread time-outs."""

    @property
    def num_envs(self) -> int:
        """Number of environments."""
        return self.spec.num_envs

    @property
    def num_actions(self) -> int:
        """Action dimensions, or the number of choices if actions are discrete."""
        return self.spec.action.dim

    @property
    def max_episode_length(self) -> int:
        """Steps after which an episode is truncated; 0 if never."""
        return self.spec.max_episode_length

    @property
    def unwrapped(self) -> Any:
        """The innermost environment: the simulator's own object where there is one."""
        return self

    @abstractmethod
    def reset(self, *, seed: int | None = None) -> tuple[TensorDict, dict[str, Any]]:
        """Start a new episode everywhere and return `(observations, extras)`; `seed` restarts all randomness."""

    @abstractmethod
    def get_observations(self) -> TensorDict:
        """The current observations, without side effects: two calls in a row return the same values."""

    @abstractmethod
    def step(self, actions: torch.Tensor) -> StepReturn:
        """Advance every environment by one step.

        Args:
            actions: `(num_envs, *spec.action.shape)`; bounded continuous actions are in `spec.action.low/high`.

        Returns:
            `(observations, rewards, dones, extras)`: rewards float32 `(num_envs,)`, dones int64 `(num_envs,)` with 1 where
            an episode ended for either reason.
        """

    def state_dict(self) -> dict[str, Any]:
        """State that an exact resume needs (simulator state, counters, curricula) as tensors and plain data.

        An empty dict says that the simulator can't be restored; a resumed run then starts with fresh episodes.
        """
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        if state:
            raise ValueError(f"{type(self).__name__} holds no restorable state, got the keys {sorted(state)}.")

    def render(self) -> Any:
        """One RGB frame `(H, W, 3)` uint8 of environment 0 as a NumPy array.

        Raises:
            RuntimeError: the environment has no renderer or was built without one.
        """
        raise RuntimeError(f"{type(self).__name__} can't render. Build the environment with render=True if it supports it.")

    def close(self) -> None:  # noqa: B027 - closing is optional
        """Free the simulator; safe to call twice."""
