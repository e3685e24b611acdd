"""A VLA policy as it is played and evaluated in an environment."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from tensordict import TensorDict
from torch import Tensor
from typing_extensions import override

from ...components.action_heads import FlowHead
from ...components.chunk_execution import ChunkExecutor, ChunkExecutorCfg, RealTimeChunkingCfg
from ...components.vla_export import export_vla
from ...components.vla_policy import VLAPolicy
from ...envs.spec import EnvSpec
from ...utils.cuda_graph import GraphMode, graphed, release
from ...utils.errors import SpecMismatch
from ..algorithm import Policy


class VLAPlayPolicy(Policy):
    """The first actions of each predicted chunk, as many as the environment executes per step, or as `execution` says.

    On a GPU everything from the images to the actions is one CUDA graph, after two eager calls: at batch size 1 most of
    the time would be spent launching kernels. Real-time chunking acts eagerly, because its guidance needs a gradient.

    Args:
        policy: The policy to play; it shares parameters with the learner.
        env: Spec of the environment to act in, after `MultiModal`.
        deterministic: No exploration.
        cuda_graph: `auto` acts eagerly where the capture fails, and says why.
        execution: How chunks become single actions, in an environment without chunks.
    """

    exports_folder = True

    def __init__(
        self,
        policy: VLAPolicy,
        env: EnvSpec,
        *,
        deterministic: bool = True,
        cuda_graph: GraphMode = "auto",
        execution: ChunkExecutorCfg | None = None,
    ) -> None:
        super().__init__()
        policy.require_env(env)
        _require_executable(policy, env, execution)
        self.policy, self.chunk, self.deterministic = policy, env.action.chunk, deterministic
        self.execution = execution
        if execution is not None:
            self._build_executor(execution, env.num_envs, next(policy.parameters()).device)
        self._mode: GraphMode = cuda_graph
        self._captured_for: tuple[int, int, bool] | None = None
        self._act: Callable[[Mapping[str, Tensor]], Tensor] = self._chunks

    @override
    def export_folder(self, folder: Path) -> Path:
        return export_vla(self.policy, folder)

    @property
    @override
    def has_samples(self) -> bool:
        """False for a head without density and for real-time chunking, which draw their start noise in either mode."""
        return self.policy.head.has_density and not isinstance(self.execution, RealTimeChunkingCfg)

    @torch.no_grad()
    def forward(self, obs: TensorDict) -> Tensor:
        """Return actions `(N, chunk, A)`, or `(N, A)` in an environment without chunks."""
        if self.execution is not None:
            return self._execute(obs, self.execution)
        chunks = self._new_chunks(obs)
        return (chunks[:, : self.chunk] if self.chunk else chunks[:, 0]).clone()  # a graph overwrites its results

    @override
    def reset(self, dones: Tensor | None = None) -> None:
        """Drop what is planned for environments whose episode ended, `(N,)`; for all of them if `dones` is None."""
        if self.execution is not None:
            self._starts |= True if dones is None else dones.bool()

    def _execute(self, obs: TensorDict, execution: ChunkExecutorCfg) -> Tensor:
        """Return the next action `(N, A)` of each environment, from new chunks where they are needed."""
        device = obs["instruction_id"].device
        if len(self._starts) != len(obs) or self._starts.device != device:
            self._build_executor(execution, len(obs), device)
        executor = self._executor
        executor.reset(self._starts)
        self._starts.zero_()
        if bool(executor.needs_chunk.any()):
            running = executor.continuation()
            if running is None:
                executor.add(self._new_chunks(obs))
            else:
                executor.add(self.policy.go_on(self.policy.encode(dict(obs.items())), running))
        return executor.next_action()

    def _build_executor(self, execution: ChunkExecutorCfg, num_envs: int, device: torch.device) -> None:
        self._executor: ChunkExecutor = execution.build(
            num_envs=num_envs,
            chunk_size=self.policy.chunk_size,
            action_dim=self.policy.spec.action.dim,
            device=device,
        )
        self._starts = torch.ones(num_envs, dtype=torch.bool, device=device)

    def _new_chunks(self, obs: TensorDict) -> Tensor:
        """Return chunks `(N, H, A)`, which the next call may overwrite."""
        # More texts live in new buffers, and another number of environments has other shapes.
        now = len(self.policy.preprocessing.instructions.table), len(obs), self.deterministic
        if now != self._captured_for:
            release(self._act)
            self._act = graphed(self._chunks, obs["instruction_id"].device, self._mode, "acting")
            self._captured_for = now
        groups: dict[str, Any] = dict(obs.items())
        return self._act(groups)

    def _chunks(self, obs: Mapping[str, Tensor]) -> Tensor:
        return self.policy(obs, deterministic=self.deterministic)


def _require_executable(policy: VLAPolicy, env: EnvSpec, execution: ChunkExecutorCfg | None) -> None:
    chunk = env.action.chunk
    if execution is not None and chunk:
        raise SpecMismatch(
            f"'{env.task}' executes {chunk} actions per step, and {type(execution).__name__} decides for every action: "
            "set the environment's multi_modal.chunk_size to null."
        )
    if chunk > policy.chunk_size:
        raise SpecMismatch(
            f"'{env.task}' executes {chunk} actions per step, and the policy predicts chunks of {policy.chunk_size}: "
            "set the environment's chunk_size to at most that."
        )
    if isinstance(execution, RealTimeChunkingCfg) and not isinstance(policy.head, FlowHead):
        raise SpecMismatch(
            f"Real-time chunking guides a flow head as it samples, and the policy has a {type(policy.head).__name__}: "
            "take receding_horizon or temporal_ensemble."
        )
