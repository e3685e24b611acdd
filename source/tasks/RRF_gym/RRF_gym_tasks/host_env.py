"""What the adapters of simulators on the host share: arrays of the simulator in, tensors of the contract out."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from RoboRenForce.envs.vec_env import StepReturn, VecEnv
from tensordict import TensorDict

from .spaces import ActionMap, ObsLayout

SUCCESS_KEYS = ("is_success", "success")
"""Keys under which the `info` of an environment may say whether a finished episode succeeded."""

Buffers = dict[str, np.ndarray]
"""Observation group -> array `(num_envs, *shape)`."""


class HostVecEnv(VecEnv):
    """Keeps the counters and the current observations, and turns the arrays of one step into its return value.

    Subclasses fill new buffers at every step, because learners may keep observations beyond it, as rsl_rl's does.
    """

    cfg: Any

    def __init__(self, cfg: Any, layout: ObsLayout, actions: ActionMap) -> None:
        self.cfg = cfg
        self.device = torch.device(cfg.device)
        self._on_cpu = self.device.type == "cpu"
        self._layout = layout
        self._actions = actions
        self._lengths = np.zeros(cfg.num_envs, np.int64)
        self._success_key: str | None = None
        self._raw: Buffers = {}

    @property
    def episode_length_buf(self) -> torch.Tensor:
        """Steps taken in the current episode, int64 `(num_envs,)`, a copy; setting it moves the time limit."""
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
        """Make `buffers` the current observations."""
        self._raw, self._obs = buffers, self._tensors(buffers)
        return self._obs

    def _result(self, rewards: np.ndarray, flags: np.ndarray, terms: np.ndarray, final: Buffers) -> StepReturn:
        """The return value of a step, with the current observations.

        Args:
            rewards: float32 `(num_envs,)`.
            flags: terminated, time_outs and success, bool `(3, num_envs)`.
            terms: reward terms, float32 `(num_envs, R)`.
            final: true last observations in rows that are done.
        """
        terminated, time_outs, success = flags
        extras = {
            "terminated": self._tensor(terminated),
            "time_outs": self._tensor(time_outs),
            "log": {},
            "final_observations": self._tensors(final),
        }
        if self._success_key is not None:
            extras["success"] = self._tensor(success)
        if self.cfg.reward_terms:
            extras["reward_terms"] = self._tensor(terms)
        dones = self._tensor((terminated | time_outs).astype(np.int64))
        return self._obs, self._tensor(rewards), dones, extras

    def _declared_extras(self) -> tuple[str, ...]:
        """The optional extras that `_result` provides."""
        success = ["success"] if self._success_key is not None else []
        terms = ["reward_terms"] if self.cfg.reward_terms else []
        return ("final_observations", *success, *terms)

    def _tensors(self, buffers: Buffers) -> TensorDict:
        groups = {name: self._tensor(array) for name, array in self._layout.visible(buffers).items()}
        return TensorDict(groups, batch_size=[self.cfg.num_envs], device=self.device)

    def _tensor(self, array: np.ndarray) -> torch.Tensor:
        tensor = torch.from_numpy(array)
        return tensor if self._on_cpu else tensor.to(self.device)
