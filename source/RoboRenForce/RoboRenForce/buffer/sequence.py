"""Replay of sequences for recurrent networks (Ni et al. 2022, arXiv 2110.05038; R2D2, Kapturowski et al. 2019).

A sample is a window of T steps that starts at any stored step and stays in one episode: it ends with the episode or
with the newest stored step, and the rest is padding, which isn't valid. With T = 4, `|` the end of an episode:

    stored       s0 s1 s2 | s0 s1 ...        row      0    1    2    3    4
    window of s1:                            obs      o1   o2   o3   o3   o3     o3: the final observation
                                             action   a1   a2   a2   a2
                                             valid    1    1    0    0
                                             start    1    0    0    0    0

Padding repeats the last step, so a sample contains nothing of another episode. The previous action is an observation:
at row k it is the action that led to that row, also at the first row of a window that starts amid an episode, and zeros
at the start of an episode.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

import torch
from torch import Tensor
from typing_extensions import override

from ..configclass import ConfigError, Range, configclass
from ..envs.obs_groups import PREVIOUS_ACTION, with_previous_action
from ..envs.spec import EnvSpec
from .replay import ReplayBuffer, ReplayBufferCfg
from .replay_batch import ReplayBatch


class SequenceReplayBuffer(ReplayBuffer):
    """Replay of windows of consecutive steps; their starts are uniform over the stored steps."""

    cfg: SequenceReplayBufferCfg
    step_fields = ("reward", "terminated", "done", "begins")
    """`begins`: True if the step is the first of an episode."""

    def __init__(
        self, cfg: SequenceReplayBufferCfg, *, spec: EnvSpec, gamma: float, batch_size: int, device: torch.device
    ) -> None:
        if cfg.previous_action and spec.action.kind != "continuous":
            raise ConfigError(
                f"The previous action as an observation needs continuous actions, got {spec.action.kind} ones of "
                f"'{spec.task}': set replay.previous_action=false."
            )
        super().__init__(cfg, spec=spec, gamma=gamma, batch_size=batch_size, device=device)
        self._start = torch.zeros(cfg.length + 1, batch_size, dtype=torch.bool, device=device)
        self._start[0] = True

    @property
    @override
    def window(self) -> int:
        return self.cfg.length

    @override
    def _write(self, values: dict[str, Tensor]) -> None:
        # The previous action is read from the newest row, so a resumed replay continues like one that never stopped.
        newest, device = self._newest(), values["action"].device
        begins = (self.records.at("done", newest) != 0) | (self._rows_added == 0)
        values["begins"] = begins.to(device)
        if self.cfg.previous_action:
            before = self.records.at("action", newest)
            before = before.masked_fill(begins.view(-1, *[1] * (before.dim() - 1)), 0.0)
            values[f"obs/{PREVIOUS_ACTION}"] = before.to(device)
            values[f"next_obs/{PREVIOUS_ACTION}"] = values["action"]
        super()._write(values)

    @override
    @torch.no_grad()
    def sample(self) -> ReplayBatch:
        """Draw `batch_size` windows, on the learner's device."""
        self._require_contents()
        return self._sequences(self._draw())

    def _sequences(self, slot: Tensor) -> ReplayBatch:
        """Return the windows that start at `slot` `(B,)`."""
        slots, steps, last = self._window(slot)
        inside = self._offset <= last  # (T, B)
        slots = slots.gather(0, torch.minimum(self._offset, last))
        first, rest = self.records.gather(slot, ("first",)), self.records.gather(slots, ("step", "next"))
        obs = {
            name: self._send(torch.cat([first[f"obs/{name}"].unsqueeze(0), rest[f"next_obs/{name}"]]))
            for name in self.spec.obs_groups
        }
        if self.cfg.burn_in:
            # A recurrent state that starts with the episode is valid from the first step on.
            inside = inside & ((self._offset >= self.cfg.burn_in) | (steps["begins"][0] != 0))
        if "mask" in first:  # a waiting row ends a window, so one that starts there holds nothing else
            inside = inside & (first["mask"] != 0)
        reward = rest["reward"]
        return ReplayBatch(
            obs=obs,
            action=self._send(self.records.at("action", slots)),
            reward=self._send(reward),
            discount=self._send(rest["terminated"].mul(-self.gamma).add_(self.gamma)),
            valid=self._send(inside.to(reward.dtype)),
            start=self._start,
            index=self._send(slot),
            group_id=self._optional(first, "group_id"),
        )


@configclass
class SequenceReplayBufferCfg(ReplayBufferCfg):
    """Configuration of the replay of sequences; `batch_size` then counts sequences."""

    class_type: type = SequenceReplayBuffer
    length: Annotated[int, Range(ge=1)] = 64
    """T, number of steps of a window."""
    burn_in: Annotated[int, Range(ge=0)] = 0
    """Number of first steps of a window that only warm up the recurrent state; none at the start of an episode."""
    previous_action: bool = True
    """True to add the previous action to the observations, as group `previous_action`."""

    @override
    def stored_spec(self, spec: EnvSpec) -> EnvSpec:
        """Return `spec`, with the group `previous_action` if that is an observation."""
        return with_previous_action(spec) if self.previous_action else spec

    @override
    def check(self) -> Iterable[str]:
        if self.burn_in >= self.length:
            yield f"burn_in: {self.burn_in} leaves nothing of windows of length={self.length}; it has to be shorter."
        if self.n_step != 1:
            yield f"n_step: {self.n_step} has no meaning for sequences, whose learner sees every step; set it to 1."
