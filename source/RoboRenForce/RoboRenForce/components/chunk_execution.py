"""Execution of action chunks: receding horizon, temporal ensembling, real-time chunking.

An executor holds the chunks of N environments on their device, in the units of its caller, and never reads a value
back from it. A step is

    executor.reset(starts)  # environments whose episode begins: what was planned for them is dropped
    if bool(executor.needs_chunk.any()):  # reads one value back; leave the question out to plan at every step
        executor.add(plan(executor.continuation()))
    action = executor.next_action()

Shape letters: N environments, H actions of a chunk, A dimensions of an action.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Annotated

import torch
from torch import Tensor
from typing_extensions import override

from ..configclass import Cfg, ConfigError, Range, configclass
from .action_heads import Continuation, Schedule, continuation_weights


class ChunkExecutor(ABC):
    """Built by `ChunkExecutorCfg.build(num_envs=, chunk_size=, action_dim=, device=)`."""

    @property
    @abstractmethod
    def needs_chunk(self) -> Tensor:
        """Bool `(N,)`: environments that need a chunk before their next action."""

    @abstractmethod
    def reset(self, starts: Tensor) -> None:
        """Drop what is planned for environments whose episode begins, bool `(N,)`."""

    def continuation(self) -> Continuation | None:
        """Return what a chunk that begins now has to go on from; None if it is free."""
        return None

    @abstractmethod
    def add(self, chunks: Tensor) -> None:
        """Take chunks `(N, H, A)` that begin now; environments that need none ignore theirs."""

    @abstractmethod
    def next_action(self) -> Tensor:
        """Return `(N, A)`, and step on."""


@configclass
class ChunkExecutorCfg(Cfg):
    """Base of the configurations of executors."""

    class_type: type = ChunkExecutor


class RecedingHorizon(ChunkExecutor):
    """Execute the first `num_executed` actions of a chunk, then take a new one."""

    def __init__(
        self, cfg: RecedingHorizonCfg, *, num_envs: int, chunk_size: int, action_dim: int, device: torch.device
    ) -> None:
        self.num_executed = cfg.num_executed or chunk_size
        if self.num_executed > chunk_size:
            raise ConfigError(
                f"num_executed is {cfg.num_executed}, and the policy's chunks have {chunk_size} actions: take at most "
                f"{chunk_size}, or None for all."
            )
        self.chunks = torch.zeros(num_envs, chunk_size, action_dim, device=device)
        self.position = torch.full((num_envs,), self.num_executed, device=device)  # of the next action
        self._rows = torch.arange(num_envs, device=device)

    @property
    @override
    def needs_chunk(self) -> Tensor:
        return self.position >= self.num_executed

    @override
    def reset(self, starts: Tensor) -> None:
        self.position.masked_fill_(starts, self.num_executed)

    @override
    def add(self, chunks: Tensor) -> None:
        needed = self.needs_chunk
        torch.where(needed.view(-1, 1, 1), chunks, self.chunks, out=self.chunks)
        self.position.masked_fill_(needed, 0)

    @override
    def next_action(self) -> Tensor:
        action = self.chunks[self._rows, self.position]
        self.position += 1
        return action


@configclass
class RecedingHorizonCfg(ChunkExecutorCfg):
    """Configuration of a `RecedingHorizon`."""

    class_type: type = RecedingHorizon
    num_executed: Annotated[int, Range(ge=1)] | None = None
    """Actions of a chunk that are executed; None for all."""


class TemporalEnsemble(ChunkExecutor):
    """Average what all chunks so far say of a step, the i-th oldest with weight exp(-decay i) (ACT, arXiv 2304.13705).

    Takes a new chunk at every step.
    """

    def __init__(
        self, cfg: TemporalEnsembleCfg, *, num_envs: int, chunk_size: int, action_dim: int, device: torch.device
    ) -> None:
        self.decay = cfg.decay
        self.mean = torch.zeros(num_envs, chunk_size, action_dim, device=device)
        self.count = torch.zeros(num_envs, chunk_size, device=device)  # chunks in the mean of each coming step
        self.weight = torch.zeros(num_envs, chunk_size, device=device)  # the sum of their weights
        self._always = torch.ones(num_envs, dtype=torch.bool, device=device)

    @property
    @override
    def needs_chunk(self) -> Tensor:
        return self._always

    @override
    def reset(self, starts: Tensor) -> None:
        for sums in (self.count, self.weight):
            sums.masked_fill_(starts.unsqueeze(-1), 0.0)

    @override
    def add(self, chunks: Tensor) -> None:
        weight = torch.exp(-self.decay * self.count)
        self.weight += weight
        self.count += 1
        self.mean.lerp_(chunks, (weight / self.weight).unsqueeze(-1))

    @override
    def next_action(self) -> Tensor:
        action = self.mean[:, 0].clone()
        for sums in (self.mean, self.count, self.weight):
            sums[:, :-1] = sums[:, 1:].clone()
            sums[:, -1] = 0.0
        return action


@configclass
class TemporalEnsembleCfg(ChunkExecutorCfg):
    """Configuration of a `TemporalEnsemble`."""

    class_type: type = TemporalEnsemble
    decay: float = 0.01
    """Above 0, old chunks count more; below, new ones."""


class RealTimeChunking(ChunkExecutor):
    """Go on from the running chunk, which is executed while a new one is computed (RTC, arXiv 2506.07339).

    A new chunk is begun every `num_executed` steps and arrives `delay` steps later: its first actions are those of the
    running one, and the head is asked to agree with them.
    """

    def __init__(
        self, cfg: RealTimeChunkingCfg, *, num_envs: int, chunk_size: int, action_dim: int, device: torch.device
    ) -> None:
        if not cfg.delay <= cfg.num_executed <= chunk_size - cfg.delay:
            raise ConfigError(
                f"num_executed is {cfg.num_executed} with delay={cfg.delay} and chunks of {chunk_size} actions; take "
                f"one from {cfg.delay} to {chunk_size - cfg.delay} (delay <= num_executed <= chunk - delay)."
            )
        queue = RecedingHorizonCfg(num_executed=cfg.num_executed)
        self.queue: RecedingHorizon = queue.build(
            num_envs=num_envs, chunk_size=chunk_size, action_dim=action_dim, device=device
        )
        self.cfg = cfg
        self.has_chunk = torch.zeros(num_envs, dtype=torch.bool, device=device)
        self._step = torch.arange(chunk_size, device=device)

    @property
    @override
    def needs_chunk(self) -> Tensor:
        return self.queue.needs_chunk

    @override
    def reset(self, starts: Tensor) -> None:
        self.queue.reset(starts)
        self.has_chunk.masked_fill_(starts, False)

    @override
    def continuation(self) -> Continuation:
        size = len(self._step)
        index = self._step + self.queue.position.unsqueeze(-1)  # (N, H) into the running chunk
        left = (index < size) & self.has_chunk.unsqueeze(-1)
        index = index.clamp(max=size - 1).unsqueeze(-1).expand_as(self.queue.chunks)
        actions = torch.where(left.unsqueeze(-1), self.queue.chunks.gather(1, index), 0.0)
        delay = self.has_chunk * self.cfg.delay
        weights = continuation_weights(delay, left.sum(1), size, self.cfg.schedule)
        return Continuation(actions, delay, weights, self.cfg.max_guidance_weight)

    @override
    def add(self, chunks: Tensor) -> None:
        running = self.continuation()
        kept = (self._step < running.delay.unsqueeze(-1)).unsqueeze(-1)
        self.queue.add(torch.where(kept, running.actions, chunks))
        self.has_chunk.fill_(True)  # those without one needed one

    @override
    def next_action(self) -> Tensor:
        return self.queue.next_action()


@configclass
class RealTimeChunkingCfg(ChunkExecutorCfg):
    """Configuration of `RealTimeChunking`, for flow heads."""

    class_type: type = RealTimeChunking
    num_executed: Annotated[int, Range(ge=1)] = 4
    """Steps between the beginnings of two chunks (the execution horizon s)."""
    delay: Annotated[int, Range(ge=0)] = 1
    """Steps that computing a chunk takes (d)."""
    schedule: Schedule = "exp"
    """Fading of the guidance towards the rest of the running chunk, behind the delay."""
    max_guidance_weight: Annotated[float, Range(gt=0)] = 10.0
    """Upper bound of the gain of the guidance; a head that was trained with `max_delay` takes none."""
