"""Chunk replay that keeps every observation once, for observations that are large: the features of a VLA model.

The successor of a step is the observation of the next one, in the next row of the ring. Only an episode that was cut
has another, whose value counts: these final observations are kept beside, in a ring of each environment.

    row            c        c + 1      c + 2             c + 3
    observation    o0       o1         o2                o0'   (of the next episode)
    step           a0 r0    a1 r1      a2 r2, cut: 5th   ...
    successor      row c+1  row c+2    finals[5]

The newest row can be drawn when its successor has come, a step later.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from ..configclass import ConfigError, configclass
from ..envs.spec import EnvSpec
from .chunk_replay import ChunkReplayBuffer, ChunkReplayBufferCfg
from .records import Column
from .replay_batch import ReplayBatch
from .transition import default_dtype

logger = logging.getLogger(__name__)


class FeatureReplayBuffer(ChunkReplayBuffer):
    """See the module. `next_obs` of `add` is read in rows that were cut only."""

    def __init__(self, cfg: FeatureReplayBufferCfg, *, spec: EnvSpec, **options: Any) -> None:
        super().__init__(cfg, spec=spec, **options)
        if self.rows <= cfg.n_step:
            raise ConfigError(
                f"replay.capacity={cfg.capacity} leaves {self.rows} steps for each of {self.num_envs} environments, "
                f"expected more than n_step={cfg.n_step}: set it to {(cfg.n_step + 1) * self.num_envs} or more."
            )
        # An episode is cut after its horizon, whatever its first chunks were: so many cuts fit into the ring, and two.
        least = -(-spec.max_episode_length // self.schema.fields["chunk_rewards"].shape[0]) or self.rows
        self.num_finals = self.rows // least + 2
        self._cuts = torch.zeros(self.num_envs, dtype=torch.int64, device=self.device)
        """Number of episodes that were cut, by environment."""

    @cached_property
    def finals(self) -> dict[str, Tensor]:
        """Observation group -> final observations `(num_finals + 1, N, ...)`; the last row is for what is not kept."""
        return {
            name: torch.zeros(
                self.num_finals + 1,
                self.num_envs,
                *shape,
                dtype=default_dtype(self.spec.dtype_of(name)),
                device=self.device,
            )
            for name, shape in self.spec.obs_groups.items()
        }

    # -- writing ------------------------------------------------------------------------------------------------------

    @override
    def _write(self, values: dict[str, Tensor]) -> None:
        cut = values["done"].bool() & ~values["terminated"].bool()
        if "mask" in values:
            cut &= values["mask"].bool()
        cut = cut.to(self.device)
        self._cuts.add_(cut)
        row = torch.where(cut, (self._cuts - 1) % self.num_finals, self.num_finals)
        for name, finals in self.finals.items():
            finals[row, self._envs] = values[f"next_obs/{name}"].to(finals.device, finals.dtype)
        final = torch.where(cut, self._cuts, 0).to(values["done"].device)
        super()._write({"mask": torch.ones_like(values["done"]), **values, "final": final})

    @override
    def _count(self, rows: int) -> None:
        super()._count(rows)
        self._newest_slot.sub_(self.num_envs)  # the newest whose successor is there

    @torch.no_grad()
    def restart(self) -> None:
        """Forget the newest step of each environment, whose successor will not come: other episodes begin."""
        if not self._empty:
            newest = (self._newest_slot + 1 + self._envs) % self.num_slots
            self.records.put("mask", newest, torch.zeros_like(newest))
            self.records.put("done", newest, torch.ones_like(newest))

    @override
    def _end_interrupted(self, values: Mapping[str, Tensor]) -> None:
        self._resumed = False  # the learner says `restart` where episodes do not go on

    # -- sampling -----------------------------------------------------------------------------------------------------

    @override
    def _draw(self) -> Tensor:
        drawn = torch.rand(self.batch_size, dtype=torch.float64, device=self.device)
        oldest = self._cursor * (self._rows_added >= self.rows) * self.num_envs
        return (drawn.mul_(self._stored - self.num_envs).long() + oldest) % self.num_slots

    @override
    def _transitions(self, slot: Tensor) -> ReplayBatch:
        slots, steps, last = self._window(slot)
        end = slots.gather(0, last.unsqueeze(0)).squeeze(0)
        first, final = self.records.gather(slot, ("first",)), self.records.at("final", end)
        following = self.records.gather((end + self.num_envs) % self.num_slots, ("first",))
        row, env = torch.where(final > 0, (final - 1) % self.num_finals, self.num_finals), end % self.num_envs
        for name, finals in self.finals.items():
            was_cut = (final > 0).view(-1, *(1,) * (finals.dim() - 2))
            first[f"next_obs/{name}"] = torch.where(was_cut, finals[row, env], following[f"obs/{name}"])
        # A final observation that was overwritten, and a lone first row, have no successor.
        there = (final == 0) | (final > self._cuts[env] - self.num_finals)
        first["mask"] = first["mask"] * there * (self._stored > self.num_envs)
        reward, discount = self._returns(steps, last, self.records.at("terminated", end))
        return ReplayBatch(
            obs=self._groups(first, "obs"),
            action=self._send(first["action"]),
            reward=self._send(reward),
            discount=self._send(discount),
            next_obs=self._groups(first, "next_obs"),
            valid=self._send(first["mask"]),
            group_id=self._optional(first, "group_id"),
            index=self._send(slot),
        )

    # -- state --------------------------------------------------------------------------------------------------------

    @override
    def state_dict(self) -> dict[str, Any]:
        state = super().state_dict()
        if self.cfg.store:
            finals = {name: tensor.to("cpu", copy=True) for name, tensor in self.finals.items()}
            state |= {"finals": finals, "cuts": self._cuts.to("cpu", copy=True)}
        return state

    @override
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if "cuts" in state and len(state["cuts"]) != self.num_envs:
            logger.warning(
                "The checkpoint's replay is that of %d environments and this run has %d: it starts empty and learning "
                "waits until it is warm again.",
                len(state["cuts"]),
                self.num_envs,
            )
            return
        self._restore(state)
        if "cuts" in state:
            self._cuts.copy_(state["cuts"])
            for name, tensor in self.finals.items():
                tensor.copy_(state["finals"][name])

    # -- construction -------------------------------------------------------------------------------------------------

    @override
    def _columns(self) -> list[Column]:
        columns = [entry for entry in super()._columns() if entry.part != "next" and entry.name != "mask"]
        mask = Column("mask", "first", (), torch.get_default_dtype())
        return [*columns, mask, Column("final", "step", (), torch.int64)]

    @override
    def _extra_bytes_per_slot(self) -> int:
        groups = self.spec.obs_groups.items()
        row = sum(math.prod(shape) * default_dtype(self.spec.dtype_of(name)).itemsize for name, shape in groups)
        return -(-row * (self.num_finals + 1) // self.rows)


@configclass
class FeatureReplayBufferCfg(ChunkReplayBufferCfg):
    """Configuration of a `FeatureReplayBuffer`."""

    class_type: type = FeatureReplayBuffer
