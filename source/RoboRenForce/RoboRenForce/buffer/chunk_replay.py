"""Replay of decisions that last several environment steps: action chunks with exact ends inside them.

A decision of k executed actions with rewards r_0 ... r_{k-1} is worth

    r_0 + gamma r_1 + ... + gamma^{k-1} r_{k-1} + gamma^k (1 - terminated) V(next)

(semi-Markov options, Sutton et al. 1999; Q-chunking, arXiv 2507.07969), where k is smaller than the chunk if the
episode ended inside it. `gamma` is per environment step.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from ..configclass import ConfigError, configclass
from ..envs.spec import EnvSpec
from .records import Column
from .replay import ReplayBuffer, ReplayBufferCfg
from .replay_batch import ReplayBatch
from .transition import Field, TransitionSchema

EXECUTED, REWARDS = "executed_steps", "chunk_rewards"
"""Extras of an environment that executes chunks; rewards stay raw until they are drawn."""


class ChunkReplayBuffer(ReplayBuffer):
    """Uniform replay of chunks; `n_step` counts chunks."""

    step_fields = (EXECUTED, "terminated", "done")

    def __init__(self, cfg: ChunkReplayBufferCfg, *, spec: EnvSpec, gamma: float, **options: Any) -> None:
        if REWARDS not in spec.extra_dims:
            raise ConfigError(
                f"A ChunkReplayBuffer needs the rewards inside each chunk, and '{spec.task}' executes no chunks: set "
                "the environment's multi_modal.chunk_size, or take ReplayBufferCfg."
            )
        super().__init__(cfg, spec=spec, gamma=gamma, **options)
        chunk = spec.extra_dims[REWARDS]
        fields = dict(self.schema.fields)
        del fields["reward"]
        fields[EXECUTED] = Field(EXECUTED, (), torch.int64, "actions of the chunk that were executed")
        fields[REWARDS] = Field(REWARDS, (chunk,), torch.float32, "reward of each action, 0 where none was executed")
        self.schema = TransitionSchema(spec.num_envs, fields)
        longest = torch.arange(cfg.n_step * chunk + 1, device=self.device, dtype=torch.float64)
        self._power = (gamma**longest).to(torch.get_default_dtype())

    @override
    def _columns(self) -> list[Column]:
        rewards = Column(REWARDS, "step", self.schema.fields[REWARDS].shape, torch.get_default_dtype())
        return [*super()._columns(), rewards]

    @override
    def _transitions(self, slot: Tensor) -> ReplayBatch:
        slots, steps, last = self._window(slot)
        end = slots.gather(0, last.unsqueeze(0)).squeeze(0)
        found = {**self.records.gather(slot, ("first",)), **self.records.gather(end, ("step", "next"))}
        reward, discount = self._returns(steps, last, found["terminated"])
        return self._batch(found, slot, reward, discount)

    def _returns(self, steps: dict[str, Tensor], last: Tensor, terminated: Tensor) -> tuple[Tensor, Tensor]:
        """Return discounted rewards and the discount of the successor, `(B,)` each."""
        executed = (steps[EXECUTED] * (self._offset <= last)).long()
        rewards = steps[REWARDS] * (self._offset <= last).unsqueeze(-1)
        inside = (rewards * self._power[: rewards.shape[-1]]).sum(-1)
        before = executed.cumsum(0) - executed
        reward = (inside * self._power[before]).sum(0)
        return reward, self._power[executed.sum(0)] * (1.0 - terminated)


@configclass
class ChunkReplayBufferCfg(ReplayBufferCfg):
    """Configuration of a `ChunkReplayBuffer`."""

    class_type: type = ChunkReplayBuffer
    capacity = 100_000
