"""A VLA policy as it is played and evaluated in an environment."""

from __future__ import annotations

import torch
from tensordict import TensorDict
from torch import Tensor

from ...components.vla_policy import VLAPolicy
from ...envs.spec import EnvSpec
from ...utils.errors import SpecMismatch
from ..algorithm import Policy


class VLAPlayPolicy(Policy):
    """The first actions of every predicted chunk: as many as the environment executes per step.

    Args:
        policy: What acts; it shares parameters with the learner.
        env: Where it acts, after `MultiModal`.
        deterministic: No exploration.
    """

    def __init__(self, policy: VLAPolicy, env: EnvSpec, *, deterministic: bool = True) -> None:
        super().__init__()
        policy.require_env(env)
        if env.action.chunk > policy.chunk_size:
            raise SpecMismatch(
                f"'{env.task}' executes {env.action.chunk} actions per step, and the policy predicts chunks of "
                f"{policy.chunk_size}: set the environment's chunk_size to at most that."
            )
        self.policy, self.chunk, self.deterministic = policy, env.action.chunk, deterministic

    @torch.no_grad()
    def forward(self, obs: TensorDict) -> Tensor:
        """Actions `(N, chunk, A)`, or `(N, A)` in an environment without chunks."""
        actions = self.policy(obs, deterministic=self.deterministic)
        return actions[:, : self.chunk] if self.chunk else actions[:, 0]
