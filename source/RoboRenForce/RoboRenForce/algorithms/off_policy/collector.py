"""Collector of off-policy algorithms: a policy, its exploration, and the state they keep between steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from tensordict import TensorDict
from torch import Tensor

from ...buffer.transition import ActOut
from ...components.exploration import Exploration
from ...components.policy_state import ActingPolicy, PolicyState
from ...envs.obs_groups import PREVIOUS_ACTION
from ...envs.spec import EnvSpec
from ...utils.cuda_graph import GraphMode, graphed, release


class OffPolicyCollector:
    """`Collector` that acts uniformly in [-1, 1] at first, then by the policy with exploration.

    It depends on no algorithm and no replay. A copy (`copy.deepcopy`, `pickle`) acts in another process.

    Args:
        policy: Actor or planner.
        exploration: Turns the policy's distribution into the action that is executed.
        spec: Spec of the environments.
        groups: Observation groups that the policy reads.
        device: Device that it acts on.
        previous_action: True if the previous action is an observation, which is recorded then.
        random_steps: Number of environment steps with uniform actions at the start.
        cuda_graph: CUDA-graph mode of acting.
    """

    def __init__(
        self,
        policy: ActingPolicy,
        exploration: Exploration,
        *,
        spec: EnvSpec,
        groups: Sequence[str],
        device: torch.device,
        previous_action: bool = False,
        random_steps: int = 0,
        cuda_graph: GraphMode = "off",
    ) -> None:
        self.policy, self.exploration, self.groups, self.random_steps = policy, exploration, groups, random_steps
        self.policy_state = PolicyState(policy, spec.num_envs, device, previous_action=previous_action)
        self.policy_version = torch.zeros((), dtype=torch.int64, device=device)
        """Number of updates of the weights that act."""
        self._action = torch.zeros(spec.num_envs, *spec.action.shape, device=device)
        self._act_step = graphed(self._act, device, cuda_graph, "policy step")

    @torch.no_grad()
    def act(self, obs: TensorDict) -> ActOut:
        """Choose an action `(N, A)` for each environment from `obs` `[N]`."""
        if self.random_steps > 0:
            # Uniform actions cover the box before the policy knows anything; the policy did not see these observations.
            self.random_steps -= 1
            self._action.uniform_(-1.0, 1.0)
            self.policy_state.zero_state()
        else:
            self._act_step({name: obs[name] for name in self.groups})
        record = {"policy_version": self.policy_version}
        if self.policy_state.previous_action is not None:
            record[PREVIOUS_ACTION] = self.policy_state.previous_action
        return ActOut(self._action, record)

    def _act(self, obs: Mapping[str, Tensor]) -> None:
        distribution = self.policy_state.distribution(self.policy, obs)
        self._action.copy_(self.exploration.explore(distribution))

    @torch.no_grad()
    def end_step(self, done: Tensor, mask: Tensor | None = None) -> None:
        """Finish the step of the last action; the episode ended where `done` `(N,)`.

        A row that waits, `mask` False, is between two episodes.
        """
        # A waiting row starts from scratch as soon as it acts again.
        ended = done != 0 if mask is None else (done != 0) | ~mask
        self.exploration.on_done(ended)
        self.policy_state.end_step(self._action, ended)

    @torch.no_grad()
    def restart_episodes(self) -> None:
        """Reset recurrent states and held noise; no episode continues."""
        self.policy_state.restart_episodes()
        self.exploration.on_done(torch.ones_like(self.policy_state.start))

    def state_dict(self) -> dict[str, Any]:
        """Return copies of the state kept between steps, without the weights."""
        return {
            "exploration": self.exploration.state_dict(),
            "memory": self.policy_state.state_dict(),
            "random_steps": self.random_steps,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore `state_dict` in place; with another number of environments, all of them are reset."""
        self.exploration.load_state_dict(state["exploration"])
        self.policy_state.load_state_dict(state["memory"])
        self.random_steps = state["random_steps"]

    def weights(self) -> dict[str, Any]:
        """Return copies of the weights that an update changes."""
        policy = {name: value.clone() for name, value in self.policy.state_dict().items()}
        return {"policy": policy, "policy_version": self.policy_version.clone()}

    def load_weights(self, weights: Mapping[str, Any]) -> None:
        """Load the weights in place."""
        self.policy.load_state_dict(weights["policy"])
        self.policy_version.copy_(weights["policy_version"])

    def close(self) -> None:
        """Free the captured graph."""
        release(self._act_step)
