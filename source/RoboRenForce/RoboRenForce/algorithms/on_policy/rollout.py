"""Rollout storage of on-policy learners: learned rewards, reward scaling and the time-out bootstrap come first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from ...buffer.rollout import RolloutBuffer
from ...buffer.transition import Transition, TransitionSchema
from ...components.normalizer import RewardScaler
from ...components.observation import Observations
from ...configclass import ConfigError
from ...envs.spec import EnvSpec
from ...utils.cuda_graph import GraphMode, graphed
from ...utils.errors import UserError
from ..algorithm import RunContext
from ..functional import bootstrap_time_outs
from ..loss_terms import LossTerm
from ..reward_terms import RewardTerm
from .collector import ActorCriticCollector, state_value


class RolloutOptions(Protocol):
    """Options of a learner's configuration that a rollout reads."""

    gamma: float
    """Discount per step, for the bootstrap of time-outs."""
    time_out_bootstrap: Literal["final", "current", "none"]
    """Value that time-outs bootstrap with."""
    normalizer_update: Literal["iteration", "step"]
    """Time at which observation statistics change: once per iteration or at every step."""
    cuda_graph: GraphMode
    """CUDA-graph mode of the storage step."""


class OnPolicyRollout:
    """The current rollout of a learner with a state value.

    Args:
        cfg: Options.
        collector: Its critic values final observations, and its record is stored.
        context: Context of the run.
        groups: Observation groups to store.
        reward_terms: Learned rewards that are added.
        reward_scaler: Scaler of the summed reward.
        loss_terms: Regularizers; what they read is stored.
    """

    def __init__(
        self,
        cfg: RolloutOptions,
        collector: ActorCriticCollector,
        context: RunContext,
        groups: Sequence[str],
        reward_terms: Sequence[RewardTerm] = (),
        reward_scaler: RewardScaler | None = None,
        loss_terms: Sequence[LossTerm] = (),
    ) -> None:
        self.cfg, self.collector, self.groups = cfg, collector, tuple(groups)
        self.device, self.distributed = context.device, context.distributed
        self.reward_terms, self.reward_scaler = reward_terms, reward_scaler
        next_obs = any(term.needs_successors for term in [*loss_terms, *reward_terms])
        self.schema = TransitionSchema.of(
            context.spec, self.groups, next_obs=next_obs, record=collector.record_fields()
        )
        self.buffer = RolloutBuffer(self.schema, context.rollout_steps, self.device)
        self.num_steps = 0
        """Number of stored steps."""
        self._last: Transition | None = None
        known = "final_observations" in context.spec.extras
        # What the environment returns differs from the true successor only where an episode ended.
        ends = any(term.needs_successors and not term.masks_ends for term in loss_terms)
        ends = ends or any(term.needs_successors for term in reward_terms)
        self._stores_reset_obs = next_obs and not ends and not known
        self._reads_next_obs = (next_obs and not self._stores_reset_obs) or cfg.time_out_bootstrap == "final"
        self._reads_reset_obs = bool(reward_terms) or cfg.normalizer_update == "step" or self._stores_reset_obs
        if self._reads_next_obs and not known:
            raise _no_successors(context.spec, cfg.time_out_bootstrap)
        self.step = graphed(self._store, self.device, cfg.cuda_graph, "storage step")

    @torch.no_grad()
    def add(self, transition: Transition) -> None:
        """Store a step. Its last observations are read until the update."""
        if self.num_steps == self.buffer.num_steps:
            raise UserError(f"A rollout has {self.num_steps} steps, got one more: call update() after each rollout.")
        # Recurrent states are stored at the first step only: the update runs whole sequences from there.
        if self.num_steps == 0:
            self.buffer.write_states(transition.record)
        # A captured step copies its inputs, so it gets only the fields that it reads; `done` follows from the flags.
        done: Any = None
        step = replace(
            transition,
            obs=self._chosen(transition.obs),
            next_obs=self._chosen(transition.next_obs) if self._reads_next_obs else None,
            reset_obs=self._chosen(transition.reset_obs) if self._reads_reset_obs else {},
            done=done,
        )
        self.step(step)
        self._last = transition
        self.num_steps += 1

    def _chosen(self, obs: Any) -> dict[str, Tensor]:
        return {name: obs[name] for name in self.groups}

    def _store(self, step: Transition) -> None:
        step = replace(step, done=step.terminated | step.time_outs)
        if self.cfg.normalizer_update == "step":
            self.update_normalizers(step.reset_obs, step.mask)
        # Learned rewards are added before scaling, so that the scale is that of the sum.
        reward = step.reward
        for term in self.reward_terms:
            reward = reward + term.reward(step)
        if self.reward_scaler is not None:
            self.reward_scaler.update(reward, step.done, self.distributed, step.mask)
            reward = self.reward_scaler(reward)
        if self._stores_reset_obs:
            step = replace(step, next_obs=step.reset_obs)
        self.buffer.add(replace(step, reward=self._bootstrapped(reward, step)))

    def _bootstrapped(self, reward: Tensor, step: Transition) -> Tensor:
        """Add gamma V(s') to the reward of time-outs, which cut the episode before its end."""
        if self.cfg.time_out_bootstrap == "current":
            return bootstrap_time_outs(reward, step.time_outs, step.record["value"], gamma=self.cfg.gamma)
        # On a CPU the check is free and mostly saves the value's forward pass; on a GPU it would wait for the device.
        if self.cfg.time_out_bootstrap == "none" or (self.device.type == "cpu" and not bool(step.time_outs.any())):
            return reward
        # The final observation belongs to the episode that ended, so the recurrent state continues (`start` is False).
        final: Any = step.next_obs
        value = self.value(final, step.record.get("next_state/critic"), torch.zeros_like(step.done))
        return bootstrap_time_outs(reward, step.time_outs, value, gamma=self.cfg.gamma)

    def value(self, obs: Observations, state: Tensor | None, start: Tensor | None) -> Tensor:
        """Return V(s) `(N,)` in units of the reward, from the critic's recurrent state `(N, layers, features)`."""
        state = None if state is None else state.transpose(0, 1)
        return state_value(self.collector.critic, self.collector.value_normalizer, obs, state, start)[0]

    def update_normalizers(self, obs: Observations, mask: Tensor | None = None) -> None:
        """Update the statistics of networks and learned rewards from observations."""
        for network in (self.collector.actor, self.collector.critic):
            network.update_normalizer(obs, self.distributed, mask)
        for term in self.reward_terms:
            term.update_normalizer(obs, mask)

    def end(self) -> tuple[Observations, Tensor | None, Tensor | None]:
        """Return the inputs of `value` after the last step: observations, recurrent state, episode starts.

        Raises:
            UserError: The rollout is incomplete. (A complete one may be learned from again.)
        """
        # After an update there are 0 steps, but the rollout is still there, so it may be learned from once more.
        if self._last is None or self.num_steps not in (0, self.buffer.num_steps):
            raise UserError(
                f"A rollout has {self.buffer.num_steps} steps, got {self.num_steps}: collect that many between two "
                "calls of update()."
            )
        state = self._last.record.get("next_state/critic")
        return self._chosen(self._last.reset_obs), state, None if state is None else self._last.done != 0

    def restart(self) -> None:
        """Start the next rollout."""
        self.buffer.restart()
        self.num_steps = 0

    def stored(self, num_steps: int) -> Mapping[str, Tensor]:
        """Return the first `num_steps` steps, see `Algorithm.stored_steps`."""
        return {name: rows[:num_steps] for name, rows in self.buffer.rows.items()}


def _no_successors(spec: EnvSpec, time_out_bootstrap: str) -> ConfigError:
    reader, fix = "A loss or reward term", "Drop the term."
    if time_out_bootstrap == "final":
        reader, fix = "algorithm.time_out_bootstrap = 'final'", "Use algorithm.time_out_bootstrap=current."
    return ConfigError(
        f"{reader} needs final_observations, which '{spec.task}' lacks (it has: "
        f"{', '.join(spec.extras) or 'no optional extras'}). {fix}"
    )
