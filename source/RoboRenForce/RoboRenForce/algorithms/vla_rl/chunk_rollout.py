"""The rollout of an on-policy VLA learner: steps of all rows, decisions of the rows that acted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ...buffer.transition import Transition
from ...envs.spec import EnvSpec
from ...utils.errors import UserError
from ..functional import executed_mask, relative_rewards
from .chunk_collector import OBS, PREFIX, RECORD
from .sample_store import SampleStore


class ChunkRollout:
    """Up to T steps of N rows, of which those that acted have a stored decision each, in the same order.

    Shape letters: T steps, N rows, E actions that the environment executes per step (1 without chunks).

    Args:
        spec: Of the environment.
        num_steps: T.
        store: Of the decisions.
        value_width: 0: no values, 1: one per decision, otherwise one per action.
        reward_coef: Factor on rewards.
        step_penalty: Subtracted for every executed action.
        relative_reward: Learn from the change of the reward instead of the reward.
    """

    def __init__(
        self,
        spec: EnvSpec,
        num_steps: int,
        store: SampleStore,
        *,
        value_width: int,
        reward_coef: float = 1.0,
        step_penalty: float = 0.0,
        relative_reward: bool = False,
    ) -> None:
        self.num_steps, self.store, self.chunk = num_steps, store, max(spec.action.chunk, 1)
        self._coef, self._penalty, self._relative = reward_coef, step_penalty, relative_reward
        shape, device = (num_steps, spec.num_envs), store.device
        self.rewards = torch.zeros(*shape, self.chunk, device=device)
        """What is learned from: reward of each action `(T, N, E)`."""
        self.executed = torch.zeros(shape, dtype=torch.int64, device=device)
        self.mask = torch.zeros(shape, dtype=torch.bool, device=device)
        """bool `(T, N)`: the row acted."""
        self.done = torch.zeros(shape, dtype=torch.bool, device=device)
        self.success = torch.zeros(shape, dtype=torch.bool, device=device)
        self.values = torch.zeros(*shape, value_width, device=device)
        """V of each decision (or action) `(T, N, 1 or E)`; empty without a value head."""
        self.bootstrap = torch.zeros(shape, device=device)
        """V of the final observation where a time-out cut the episode, 0 elsewhere."""
        self.wave = torch.zeros(num_steps, dtype=torch.int64, device=device)
        """Which wave of episodes each step belongs to, where all rows start together."""
        self.last_reward = torch.zeros(spec.num_envs, device=device)
        """Reward of the newest action of each running episode."""
        self.step = 0
        """Stored steps."""
        self._acted: list[Tensor] = []

    def add(self, transition: Transition, mask: Tensor, *, wave: int = 0) -> None:
        """Store a step.

        Args:
            transition: The step; its record is that of a `ChunkCollector`.
            mask: bool `(N,)`: rows that acted; the record may have more.
            wave: See `self.wave`.
        """
        if self.step == self.num_steps:
            raise UserError(
                f"A rollout has at most {self.num_steps} steps, got one more: call update() after each rollout."
            )
        t, record = self.step, transition.record
        done = (transition.done != 0) & mask
        executed = mask.long() if transition.executed_steps is None else transition.executed_steps * mask
        rewards = transition.reward.unsqueeze(1) if transition.chunk_rewards is None else transition.chunk_rewards
        self.rewards[t] = self._learned_rewards(rewards, executed, done)
        self.executed[t], self.mask[t], self.done[t] = executed, mask, done
        if transition.success is not None:
            self.success[t] = transition.success & mask
        self.wave[t].fill_(wave)  # an assignment of a number copies it from the host
        if self.values.shape[2]:
            value = record["value"].view(len(record["rows"]), -1)[:, : self.values.shape[2]]
            self.values[t].index_copy_(0, record["rows"], value)
        self.store.add({name: tensor for name, tensor in record.items() if name.startswith((PREFIX, OBS, RECORD))})
        self._acted.append(mask[record["rows"]])
        self.step += 1

    def end(self) -> None:
        """Leave the stored rows out that did not act."""
        self.store.keep(torch.cat(self._acted))

    def decisions(self, per_step: Tensor) -> Tensor:
        """Cut `(T, N, ...)` (or as many steps as there are) to the stored decisions, `(S, ...)`, in their order."""
        return per_step[: self.step][self.mask[: self.step]]

    def episode_index(self) -> Tensor:
        """int64 `(T, N)` of the stored steps: number of the episode, where rows start together wave by wave."""
        rows = self.mask.shape[1]
        return self.wave[: self.step].unsqueeze(1) * rows + torch.arange(rows, device=self.wave.device)

    def per_episode(self, per_step: Tensor, waves: int) -> Tensor:
        """Sum `(T, N)` over the steps of each episode: `(waves, N)`."""
        total = torch.zeros(waves, self.mask.shape[1], device=self.wave.device)
        return total.index_add(0, self.wave[: self.step], per_step[: self.step].to(total.dtype))

    def restart(self) -> None:
        """Begin the next rollout; running episodes go on."""
        self.step = 0
        self.bootstrap.zero_()
        self.values.zero_()
        self._acted.clear()
        self.store.restart()

    def restart_episodes(self) -> None:
        """Begin the next rollout with new episodes."""
        self.restart()
        self.last_reward.zero_()

    def stored(self, num_steps: int) -> dict[str, Tensor]:
        """Return the first `num_steps` steps for a dump, see `Algorithm.stored_steps`."""
        count = min(num_steps, self.step)
        return {"reward": self.rewards[:count].sum(-1), "executed": self.executed[:count], "done": self.done[:count]}

    def state_dict(self) -> dict[str, Any]:
        """Return what goes on between two rollouts."""
        return {"last_reward": self.last_reward.clone()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore `state_dict`; with another number of rows, new episodes begin."""
        if state["last_reward"].shape == self.last_reward.shape:
            self.last_reward.copy_(state["last_reward"])

    def _learned_rewards(self, rewards: Tensor, executed: Tensor, done: Tensor) -> Tensor:
        mask = executed_mask(executed, self.chunk)
        rewards = torch.where(mask, rewards, 0.0)
        if self._relative:
            rewards, last = relative_rewards(rewards, executed, self.last_reward)
            self.last_reward.copy_(torch.where(done, 0.0, last))
        return self._coef * rewards - self._penalty * mask
