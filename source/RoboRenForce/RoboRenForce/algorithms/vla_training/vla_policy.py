"""A VLA policy as it is played and evaluated in an environment."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from tensordict import TensorDict
from torch import Tensor

from ...components.vla_policy import VLAPolicy
from ...envs.spec import EnvSpec
from ...utils.cuda_graph import GraphMode, graphed, release
from ...utils.errors import SpecMismatch
from ..algorithm import Policy


class VLAPlayPolicy(Policy):
    """The first actions of every predicted chunk: as many as the environment executes per step.

    On a GPU everything from the images to the actions is one CUDA graph, after two eager calls: at batch size 1 most of
    the time would be spent launching kernels.

    Args:
        policy: The policy to play; it shares parameters with the learner.
        env: Spec of the environment to act in, after `MultiModal`.
        deterministic: No exploration.
        cuda_graph: `auto` acts eagerly where the capture fails, and says why.
    """

    def __init__(
        self, policy: VLAPolicy, env: EnvSpec, *, deterministic: bool = True, cuda_graph: GraphMode = "auto"
    ) -> None:
        super().__init__()
        policy.require_env(env)
        if env.action.chunk > policy.chunk_size:
            raise SpecMismatch(
                f"'{env.task}' executes {env.action.chunk} actions per step, and the policy predicts chunks of "
                f"{policy.chunk_size}: set the environment's chunk_size to at most that."
            )
        self.policy, self.chunk, self.deterministic = policy, env.action.chunk, deterministic
        self._mode: GraphMode = cuda_graph
        self._captured_for: tuple[int, int, bool] | None = None
        self._act: Callable[[Mapping[str, Tensor]], Tensor] = self._actions

    @torch.no_grad()
    def forward(self, obs: TensorDict) -> Tensor:
        """Return actions `(N, chunk, A)`, or `(N, A)` in an environment without chunks."""
        # More texts live in new buffers, and another number of environments has other shapes.
        now = len(self.policy.preprocessing.instructions.table), len(obs), self.deterministic
        if now != self._captured_for:
            release(self._act)
            self._act = graphed(self._actions, obs["instruction_id"].device, self._mode, "acting")
            self._captured_for = now
        return self._act(dict(obs.items())).clone()  # a graph overwrites its results

    def _actions(self, obs: Mapping[str, Tensor]) -> Tensor:
        actions = self.policy(obs, deterministic=self.deterministic)
        return actions[:, : self.chunk] if self.chunk else actions[:, 0]
