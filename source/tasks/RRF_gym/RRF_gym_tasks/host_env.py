"""Base of adapters of host simulators: arrays of the simulator in, tensors of the contract out."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from RoboRenForce.envs.upload import Upload
from RoboRenForce.envs.vec_env import StepReturn, VecEnv
from tensordict import TensorDict

from .spaces import ActionMap, ObsLayout

SUCCESS_KEYS = ("is_success", "success")
"""Keys of `info` that may hold the success of a finished episode."""

Buffers = dict[str, np.ndarray]
"""Observation group -> array `(num_envs, *shape)`."""


class HostVecEnv(VecEnv):
    """Keep the counters and the current observations, and convert the arrays of a step to its return value.

    Subclasses fill new buffers at every step, because learners may keep observations beyond it, as rsl_rl's does.
    """

    cfg: Any

    def __init__(self, cfg: Any, layout: ObsLayout, actions: ActionMap) -> None:
        self.cfg = cfg
        self.device = torch.device(cfg.device)
        self._upload = Upload(self.device)
        self._layout = layout
        self._actions = actions
        self._lengths = np.zeros(cfg.num_envs, np.int64)
        self._success_key: str | None = None
        self._raw: Buffers = {}

    @property
    def episode_length_buf(self) -> torch.Tensor:
        """Number of steps in the current episode, int64 `(num_envs,)`, a copy; setting it moves the time limit."""
        return torch.tensor(self._lengths, device=self.device)

    @episode_length_buf.setter
    def episode_length_buf(self, value: torch.Tensor) -> None:
        self._lengths[:] = value.cpu().numpy()

    @property
    def reward_term_names(self) -> tuple[str, ...]:
        """Names of the reward terms, see `reward_terms` of the configuration."""
        return tuple(self.cfg.reward_terms)

    def get_observations(self) -> TensorDict:
        """See `VecEnv.get_observations`."""
        return self._obs

    def _require_shape(self, actions: torch.Tensor) -> None:
        expected = (self.cfg.num_envs, *self.spec.action.shape)
        if actions.shape != expected:
            raise ValueError(f"{self.cfg.env_id} got actions of shape {tuple(actions.shape)}, expected {expected}.")

    def _show(self, buffers: Buffers) -> TensorDict:
        """Make `buffers` the current observations, outside a step."""
        self._raw, self._obs = buffers, self._groups(self._upload(self._layout.visible(buffers)))
        return self._obs

    def _result(
        self,
        buffers: Buffers,
        rewards: np.ndarray,
        flags: np.ndarray,
        terms: np.ndarray,
        final: Buffers,
        raw_rewards: np.ndarray | None = None,
    ) -> StepReturn:
        """Build the return value of a step, with `buffers` as the current observations.

        Args:
            buffers: Observations after the step.
            rewards: float32 `(num_envs,)`.
            flags: terminated, time_outs and success, bool `(3, num_envs)`.
            terms: Reward terms, float32 `(num_envs, R)`.
            final: True last observations in rows that are done; `buffers` itself if none is.
            raw_rewards: Rewards of the simulator, float32 `(num_envs,)`; None if `rewards` are those.
        """
        terminated, time_outs, success = flags
        ended = final is not buffers
        arrays = {
            "rewards": rewards,
            "dones": (terminated | time_outs).astype(np.int64),
            "terminated": terminated,
            "time_outs": time_outs,
            "success": success,
            "reward_terms": terms,
        }
        if raw_rewards is not None:
            arrays["raw_rewards"] = raw_rewards
        # An array that is still the last one's has been uploaded already: images inside an action chunk.
        same = {name for name, array in buffers.items() if array is self._raw.get(name)}
        arrays |= {f"obs/{name}": array for name, array in self._layout.visible(buffers).items() if name not in same}
        if ended:
            arrays |= {f"final/{name}": array for name, array in self._layout.visible(final).items()}
        found = self._upload(arrays)
        found |= {f"obs/{name}": self._obs[name] for name in same}
        self._raw, self._obs = buffers, self._groups(found, "obs/")
        extras = {
            "terminated": found["terminated"],
            "time_outs": found["time_outs"],
            "log": {},
            "final_observations": self._groups(found, "final/" if ended else "obs/"),
        }
        if raw_rewards is not None:
            extras["raw_rewards"] = found["raw_rewards"]
        if self._success_key is not None:
            extras["success"] = found["success"]
        if self.cfg.reward_terms:
            extras["reward_terms"] = found["reward_terms"]
        return self._obs, found["rewards"], found["dones"], extras

    def _declared_extras(self) -> tuple[str, ...]:
        """Return the optional extras that `_result` provides."""
        success = ["success"] if self._success_key is not None else []
        terms = ["reward_terms"] if self.cfg.reward_terms else []
        return ("final_observations", *success, *terms)

    def _groups(self, tensors: dict[str, torch.Tensor], prefix: str = "") -> TensorDict:
        """Return the observation groups among `tensors`, whose names begin with `prefix`."""
        groups = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
        return TensorDict(groups, batch_size=[self.cfg.num_envs], device=self.device)
