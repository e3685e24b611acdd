"""From a step to what is learned from: learned rewards, reward scale, bootstrap of time-outs, storage."""

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
from ..reward_terms import RewardTerm
from .collector import ActorCriticCollector, state_value


class RolloutOptions(Protocol):
    """What a rollout reads of a learner's configuration."""

    gamma: float
    """Discount per step, for the bootstrap of time-outs."""
    time_out_bootstrap: Literal["final", "current", "none"]
    """Value that they bootstrap with."""
    normalizer_update: Literal["iteration", "step"]
    """Whether observation statistics change at every step."""
    cuda_graph: GraphMode
    """Whether storing is captured."""


class OnPolicyRollout:
    """The running rollout of a learner with a state value.

    Args:
        cfg: options.
        collector: whose critic values final observations, and whose record is stored.
        context: of the run.
        groups: observation groups to store.
        reward_terms: learned rewards, which are added.
        reward_scaler: what then scales the sum.
        next_obs: whether true successors are stored.
    """

    def __init__(
        self,
        cfg: RolloutOptions,
        collector: ActorCriticCollector,
        context: RunContext,
        groups: Sequence[str],
        reward_terms: Sequence[RewardTerm] = (),
        reward_scaler: RewardScaler | None = None,
        *,
        next_obs: bool = False,
    ) -> None:
        self.cfg, self.collector, self.groups = cfg, collector, tuple(groups)
        self.device, self.distributed = context.device, context.distributed
        self.reward_terms, self.reward_scaler = reward_terms, reward_scaler
        self.schema = TransitionSchema.of(
            context.spec, self.groups, next_obs=next_obs, record=collector.record_fields()
        )
        self.buffer = RolloutBuffer(self.schema, context.rollout_steps, self.device)
        self.num_steps = 0
        """Steps that are stored."""
        self._last: Transition
        self._reads_next_obs = next_obs or cfg.time_out_bootstrap == "final"
        self._reads_reset_obs = bool(reward_terms) or cfg.normalizer_update == "step"
        if self._reads_next_obs and "final_observations" not in context.spec.extras:
            raise _no_successors(context.spec, cfg.time_out_bootstrap)
        self.step = graphed(self._store, self.device, cfg.cuda_graph, "storage step")

    @torch.no_grad()
    def add(self, transition: Transition) -> None:
        """Store a step. Its last observations are read until the rollout is learned from."""
        if self.num_steps == self.buffer.num_steps:
            raise UserError(f"A rollout has {self.num_steps} steps, got one more: call update() after each rollout.")
        if self.num_steps == 0:
            self.buffer.write_states(transition.record)
        done: Any = None  # follows from the flags
        # Only what is read: a graph copies all that it is given.
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
        # Learned rewards come first, so that the scale is that of the sum.
        reward = step.reward
        for term in self.reward_terms:
            reward = reward + term.reward(step)
        if self.reward_scaler is not None:
            self.reward_scaler.update(reward, step.done, self.distributed, step.mask)
            reward = self.reward_scaler(reward)
        self.buffer.add(replace(step, reward=self._bootstrapped(reward, step)))

    def _bootstrapped(self, reward: Tensor, step: Transition) -> Tensor:
        """A time-out only cuts the episode: gamma V(s') stands for the rest."""
        if self.cfg.time_out_bootstrap == "current":
            return bootstrap_time_outs(reward, step.time_outs, step.record["value"], gamma=self.cfg.gamma)
        # On a CPU looking is free and time-outs are rare; on a GPU looking would stall the queue, so don't.
        if self.cfg.time_out_bootstrap == "none" or (self.device.type == "cpu" and not bool(step.time_outs.any())):
            return reward
        # The final observation belongs to the episode that ends, and so does the recurrent state.
        final: Any = step.next_obs
        value = self.value(final, step.record.get("next_state/critic"), torch.zeros_like(step.done))
        return bootstrap_time_outs(reward, step.time_outs, value, gamma=self.cfg.gamma)

    def value(self, obs: Observations, state: Tensor | None, start: Tensor | None) -> Tensor:
        """V(s) `(N,)` in units of the reward, from the critic's recurrent state `(N, layers, features)`."""
        state = None if state is None else state.transpose(0, 1)
        return state_value(self.collector.critic, self.collector.value_normalizer, obs, state, start)[0]

    def update_normalizers(self, obs: Observations, mask: Tensor | None = None) -> None:
        """Let networks and learned rewards take observations into their statistics."""
        for network in (self.collector.actor, self.collector.critic):
            network.update_normalizer(obs, self.distributed, mask)
        for term in self.reward_terms:
            term.update_normalizer(obs, mask)

    def end(self) -> tuple[Observations, Tensor | None, Tensor | None]:
        """What `value` needs behind the last step: observations, recurrent state, where new episodes begin.

        Raises:
            UserError: the rollout is not complete. (One that was learned from may be learned from again.)
        """
        if self.num_steps not in (0, self.buffer.num_steps):
            raise UserError(
                f"A rollout has {self.buffer.num_steps} steps, got {self.num_steps}: collect that many between two "
                "calls of update()."
            )
        state = self._last.record.get("next_state/critic")
        return self._chosen(self._last.reset_obs), state, None if state is None else self._last.done != 0

    def restart(self) -> None:
        """Begin the next rollout."""
        self.buffer.restart()
        self.num_steps = 0

    def stored(self, num_steps: int) -> Mapping[str, Tensor]:
        """The first `num_steps` steps, see `Algorithm.stored_steps`."""
        return {name: rows[:num_steps] for name, rows in self.buffer.rows.items()}


def _no_successors(spec: EnvSpec, time_out_bootstrap: str) -> ConfigError:
    reader, fix = "A loss or reward term", "Drop the term."
    if time_out_bootstrap == "final":
        reader, fix = "algorithm.time_out_bootstrap = 'final'", "Use algorithm.time_out_bootstrap=current."
    return ConfigError(
        f"{reader} needs final_observations, which '{spec.task}' lacks (it has: "
        f"{', '.join(spec.extras) or 'no optional extras'}). {fix}"
    )
