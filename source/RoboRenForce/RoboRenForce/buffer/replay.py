"""Ring buffer of the newest transitions of `N` environments, sampled uniformly, with n-step returns.

All counters are tensors on the device of the contents, nothing is read back and no shape depends on data, so `add` and
`sample` can be part of a CUDA graph.

n-step transitions are assembled when sampled. A window starts anywhere and stops at the first of: n steps, the end
of an episode (termination or truncation), the newest stored step. With n = 3, `|` an end of an episode and `^` the
write pointer, in one environment's ring:

    r0 r1 r2 r3 | r4 r5 ^      window of r1: r1 r2 r3       gamma^3, times 0 if r3 terminated
                               window of r2: r2 r3          gamma^2, times 0 if r3 terminated
                               window of r5: r5             gamma
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, Any, Literal

import torch
from torch import Tensor

from ..configclass import Cfg, ConfigError, Range, configclass
from ..envs.spec import EnvSpec
from ..utils.errors import NotEnoughMemory
from .records import Column, Records, bytes_per_slot, free_bytes
from .relayout import relaid
from .replay_batch import ReplayBatch
from .transition import Field, TransitionSchema, default_dtype

logger = logging.getLogger(__name__)


class ReplayBuffer:
    """Uniform replay; transitions are drawn with replacement."""

    step_fields: tuple[str, ...] = ("reward", "terminated", "done")
    """Scalars stored with every step."""

    def __init__(
        self, cfg: ReplayBufferCfg, *, spec: EnvSpec, gamma: float, batch_size: int, device: torch.device
    ) -> None:
        self.cfg, self.gamma, self.batch_size, self.learner = cfg, gamma, batch_size, device
        self.device = torch.device("cpu") if cfg.device == "cpu" else device
        self.num_envs, self.rows = spec.num_envs, cfg.capacity // spec.num_envs
        self.num_slots = self.rows * self.num_envs
        self.schema = _schema(spec)
        """Fields that `add` takes."""
        self._env_groups = tuple(spec.obs_groups)
        self.spec = cfg.stored_spec(spec)
        """Spec of the environment with the observations of the samples."""
        if self.rows < self.window:
            raise ConfigError(
                f"replay.capacity={cfg.capacity} leaves {self.rows} steps for each of {self.num_envs} "
                f"environments, expected at least {self.window}: set it to {self.window * self.num_envs} or more."
            )
        self._rows_added = torch.zeros(1, dtype=torch.int64, device=self.device)
        self._cursor = torch.zeros(1, dtype=torch.int64, device=self.device)
        """Row to write next."""
        self._stored = torch.zeros(1, dtype=torch.int64, device=self.device)
        """Number of transitions that can be drawn: slots `0 ... stored - 1`."""
        self._newest_slot = torch.zeros(1, dtype=torch.int64, device=self.device)
        """Last slot of the newest row."""
        self._offset = torch.arange(self.window, device=self.device).unsqueeze(1)
        self._stride = self._offset * self.num_envs
        exponent = torch.arange(cfg.n_step + 1, device=self.device, dtype=torch.float64)
        self._gamma_power = (gamma**exponent).to(torch.get_default_dtype())
        self._envs = torch.arange(self.num_envs, device=self.device)
        self._empty, self._resumed, self._lost = True, False, False

    @property
    def window(self) -> int:
        """Maximum number of steps that one sample spans."""
        return self.cfg.n_step

    @property
    def captured(self) -> bool:
        """True if `sample` may be part of a CUDA graph: the contents are on the learner's device."""
        return self.device == self.learner

    @property
    def num_added(self) -> int:
        """Number of transitions ever added. Reads the device, because `add` may be part of a CUDA graph."""
        return int(self._rows_added) * self.num_envs

    def __len__(self) -> int:
        """Return the number of transitions that can be drawn; reads the device."""
        return int(self._stored)

    @cached_property
    def records(self) -> Records:
        """Contents, allocated at the first transition, so that only playing a policy costs no memory."""
        columns = self._columns()
        self._require_memory(bytes_per_slot(columns) + self._extra_bytes_per_slot())
        pinned = self.device != self.learner and self.learner.type == "cuda"
        return Records(columns, self.rows, self.num_envs, self.device, pinned=pinned)

    # -- writing ------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def add(self, step: Mapping[str, Tensor]) -> None:
        """Store one step of every environment.

        Args:
            step: Fields of `schema`, `(N, ...)` each. `next_obs` are true successors, final observations where
                done. Rows where `mask` is False take up a slot, but are never learned from.
        """
        values = dict(step)
        values["done"] = values["done"] != 0
        if "mask" in values:  # a waiting row belongs to no episode, so no window continues from or through it
            values["done"] = values["done"] | ~values["mask"]
        if self._resumed:
            self._end_interrupted(values)
        if self._lost:
            self._lost = False
            logger.warning(
                "The checkpoint has no replay contents (replay.store was off): the replay starts empty and learning "
                "waits until it is warm again."
            )
        self._write(values)

    def _write(self, values: dict[str, Tensor]) -> None:
        """Store the fields at the cursor and advance it."""
        self.records.write(self._cursor, values)
        self._count(1)

    def _count(self, rows: int) -> None:
        self._rows_added.add_(rows)
        torch.remainder(self._rows_added, self.rows, out=self._cursor)
        torch.sub(self._cursor * self.num_envs, 1, out=self._newest_slot)
        torch.mul(self._rows_added.clamp(max=self.rows), self.num_envs, out=self._stored)
        self._empty = False

    def _newest(self) -> Tensor:
        """Return the slots `(N,)` of the newest row, in the order of the environments."""
        return (self._newest_slot - (self.num_envs - 1) + self._envs) % self.num_slots

    def _end_interrupted(self, values: Mapping[str, Tensor]) -> None:
        """Truncate, after a resume, the episodes that don't continue from their newest stored step."""
        newest, continues = self._newest(), torch.ones(self.num_envs, dtype=torch.bool, device=self.device)
        for name in self._env_groups:
            reached = self.records.at(f"next_obs/{name}", newest)
            obs = values[f"obs/{name}"].to(reached.device, reached.dtype)
            continues &= (reached == obs).reshape(self.num_envs, -1).all(1)
        self.records.put("done", newest, (self.records.at("done", newest) != 0) | ~continues)
        self._resumed = False

    # -- sampling -----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def sample(self) -> ReplayBatch:
        """Draw `batch_size` transitions, on the learner's device."""
        self._require_contents()
        return self._transitions(self._draw())

    def _require_contents(self) -> None:
        if self._empty:
            raise RuntimeError("The replay is empty: add transitions before sampling.")

    def _draw(self) -> Tensor:
        """Draw uniform slots `(B,)`, in float64, since float32 can't represent every slot of a large replay."""
        return torch.rand(self.batch_size, dtype=torch.float64, device=self.device).mul_(self._stored).long()

    def _transitions(self, slot: Tensor) -> ReplayBatch:
        """Return the transitions that start at `slot` `(B,)`."""
        if self.cfg.n_step == 1:
            found = self.records.gather(slot)
            reward, discount = found["reward"], found["terminated"].mul(-self.gamma).add_(self.gamma)
        else:
            slots, steps, last = self._window(slot)
            reward = (steps["reward"] * self._gamma_power[:-1].unsqueeze(1) * (self._offset <= last)).sum(0)
            end = slots.gather(0, last.unsqueeze(0)).squeeze(0)
            found = {**self.records.gather(slot, ("first",)), **self.records.gather(end, ("step", "next"))}
            discount = self._gamma_power[1:].index_select(0, last)
            discount = discount.addcmul_(discount, found["terminated"], value=-1.0)
        return self._batch(found, slot, reward, discount)

    def _batch(self, found: Mapping[str, Tensor], slot: Tensor, reward: Tensor, discount: Tensor) -> ReplayBatch:
        """Return what was gathered for the transitions that start at `slot`, on the learner's device."""
        return ReplayBatch(
            obs=self._groups(found, "obs"),
            action=self._send(found["action"]),
            reward=self._send(reward),
            discount=self._send(discount),
            next_obs=self._groups(found, "next_obs"),
            valid=self._optional(found, "mask"),
            group_id=self._optional(found, "group_id"),
            index=self._send(slot),
        )

    def _window(self, slot: Tensor) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """Return the steps from `slot` `(B,)` on: slots `(T, B)`, scalars `(T, B)`, and the last valid slots `(B,)`."""
        slots = (slot + self._stride) % self.num_slots
        steps = self.records.gather(slots, ("step",))
        # The newest row ends every window: what comes after it in the ring are the oldest steps, or nothing yet.
        to_newest = (self._newest_slot - slot) % self.num_slots
        ends = torch.logical_or(steps["done"], self._stride + self.num_envs > to_newest)
        return slots, steps, torch.where(ends, self._offset, self.window - 1).amin(0)

    def _groups(self, found: Mapping[str, Tensor], kind: str) -> dict[str, Tensor]:
        return {name: self._send(found[f"{kind}/{name}"]) for name in self.spec.obs_groups}

    def _optional(self, found: Mapping[str, Tensor], name: str) -> Tensor | None:
        return self._send(found[name]) if name in found else None

    def _send(self, tensor: Tensor) -> Tensor:
        """Move a batch to the learner's device."""
        return tensor if self.device == self.learner else tensor.to(self.learner, non_blocking=True)

    def update_priorities(self, index: Tensor, td_error: Tensor) -> None:
        """Do nothing: draws are uniform."""

    def newest_steps(self, num_steps: int) -> dict[str, Tensor]:
        """Return the newest steps, at most `num_steps`, `(steps, N, ...)` by name; reads the device."""
        num_steps = min(num_steps, len(self) // self.num_envs)
        row = (self._cursor + torch.arange(-num_steps, 0, device=self.device)) % self.rows
        found = self.records.gather(row.unsqueeze(1) * self.num_envs + self._envs)
        return {name: values for name, values in found.items() if name in self.schema.fields}

    # -- state --------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return the counters, and the contents if `cfg.store`."""
        state: dict[str, Any] = {"rows_added": self._rows_added.clone(), "capacity": self.rows}
        if self.cfg.store:
            state["contents"] = self.records.state_dict(len(self) // self.num_envs)
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore `state_dict`; without contents the replay is empty afterwards.

        The next `add` continues the contents: where an environment starts a new episode after the resume, the newest
        stored step becomes a truncation. Contents of another number of environments are laid out anew.
        """
        if "contents" in state:
            num_before = next(iter(state["contents"].values())).shape[1]
            if num_before != self.num_envs:
                state = relaid(state, self.num_envs, self.rows)
                logger.info(
                    "The replay of %d environments is laid out for %d: %d transitions stay.",
                    num_before,
                    self.num_envs,
                    int(state["rows_added"]) * self.num_envs,
                )
        self._restore(state)

    def _restore(self, state: Mapping[str, Any]) -> None:
        """Restore `state_dict` with the current number of environments."""
        self._rows_added.zero_()
        if "contents" in state:
            self.records.check_state(state["contents"])
            if state["capacity"] != self.rows:
                raise ValueError(
                    f"The checkpoint's replay has a capacity of {state['capacity']} steps per environment and this one "
                    f"of {self.rows}: resume with the same replay.capacity."
                )
            self.records.load_state_dict(state["contents"])
            if "seams" in state:
                seams = state["seams"].to(self.device)
                self.records.put("done", seams, torch.ones_like(seams))
            self._count(int(state["rows_added"]))
        else:
            self._lost = int(state["rows_added"]) > 0
            self._count(0)
        self._empty = not len(self)
        self._resumed = not self._empty

    # -- construction -------------------------------------------------------------------------------------------------

    def _columns(self) -> list[Column]:
        spec, scalar = self.spec, torch.get_default_dtype()
        groups = {name: (tuple(shape), default_dtype(spec.dtype_of(name))) for name, shape in spec.obs_groups.items()}
        return [
            *(Column(f"obs/{name}", "first", *kind) for name, kind in groups.items()),
            Column("action", "first", spec.action.shape, default_dtype(spec.action.dtype)),
            *(Column("mask", "first", (), scalar) for name in self.schema.fields if name == "mask"),
            *(Column("group_id", "first", (), torch.int64) for name in self.schema.fields if name == "group_id"),
            *(Column(name, "step", (), scalar) for name in self.step_fields),
            *(Column(f"next_obs/{name}", "next", *kind) for name, kind in groups.items()),
        ]

    def _extra_bytes_per_slot(self) -> int:
        """Return the memory per transition beside its fields, in bytes."""
        return 0

    def _require_memory(self, slot_bytes: int) -> None:
        free, needed = free_bytes(self.device), slot_bytes * self.num_slots
        if free is None or needed <= free:
            return
        # Leave some memory to the learner and to other processes.
        fits = int(0.8 * free) // (slot_bytes * self.num_envs) * self.num_envs
        elsewhere = "" if self.device.type == "cpu" else ", or keep it in host memory with replay.device=cpu"
        raise NotEnoughMemory(
            f"A replay of {self.num_slots:,} transitions needs {needed / 2**30:.1f} GiB on {self.device}, "
            f"where {free / 2**30:.1f} GiB are free: set replay.capacity to {fits:,} or less{elsewhere}."
        )


def _schema(spec: EnvSpec) -> TransitionSchema:
    """Return the stored fields: `done` instead of `time_outs`, and no `policy_version`."""
    done = Field("done", (), torch.int64, "the episode ended, for either reason")
    fields = dict(TransitionSchema.of(spec, spec.obs_groups, next_obs=True, record=[done]).fields)
    del fields["time_outs"], fields["policy_version"]
    return TransitionSchema(spec.num_envs, fields)


@configclass
class ReplayBufferCfg(Cfg):
    """Configuration of the uniform replay and base of the others."""

    class_type: type = ReplayBuffer
    capacity: Annotated[int, Range(ge=1)] = 1_000_000
    """Number of transitions kept, over all environments."""
    n_step: Annotated[int, Range(ge=1)] = 1
    """Number of rewards summed before the bootstrap; fewer at the end of an episode."""
    device: Literal["auto", "cpu", "learner"] = "auto"
    """Device of the contents. auto: that of the learner. cpu: host memory, for replays larger than the GPU's."""
    store: bool = False
    """True to save the contents in checkpoints; a resumed run starts with an empty replay otherwise."""

    def stored_spec(self, spec: EnvSpec) -> EnvSpec:
        """Return the spec of the environment with the observations of the samples."""
        return spec
