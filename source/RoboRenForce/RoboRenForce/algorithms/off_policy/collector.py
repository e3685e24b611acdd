"""Acting while experience is collected: a policy, its exploration, and what both remember from step to step."""

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
    """A `Collector` that acts uniformly in [-1, 1] at first, then as the exploration makes of the policy.

    It knows no algorithm and no replay. A copy (`copy.deepcopy`, `pickle`) acts in another process.

    Args:
        policy: an actor or a planner.
        exploration: turns the policy's distribution into the action that is executed.
        spec: of the environments.
        groups: observation groups that the policy reads.
        device: where it acts.
        previous_action: whether the previous action is an observation; it is in the record then.
        random_steps: steps of the environments that are acted uniformly, whatever the policy says.
        cuda_graph: whether to capture acting.
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
        """Updates behind the weights that act."""
        self._action = torch.zeros(spec.num_envs, *spec.action.shape, device=device)
        self._act_step = graphed(self._act, device, cuda_graph, "policy step")

    @torch.no_grad()
    def act(self, obs: TensorDict) -> ActOut:
        """Choose an action per environment, `(N, A)`, for `obs` `[N]`."""
        if self.random_steps > 0:
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
        """Finish the step of the last action, whose episode is over where `done` `(N,)`.

        A row that waits, `mask` False, is between two episodes.
        """
        ended = done != 0 if mask is None else (done != 0) | ~mask
        self.exploration.on_done(ended)
        self.policy_state.end_step(self._action, ended)

    @torch.no_grad()
    def restart_episodes(self) -> None:
        """Forget recurrent states and held noise: none of the episodes that they belong to continues."""
        self.policy_state.restart_episodes()
        self.exploration.on_done(torch.ones_like(self.policy_state.start))

    def state_dict(self) -> dict[str, Any]:
        """What acting remembers from step to step, as copies; without the weights."""
        return {
            "exploration": self.exploration.state_dict(),
            "memory": self.policy_state.state_dict(),
            "random_steps": self.random_steps,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore `state_dict` in place; with another number of environments all of them start anew."""
        self.exploration.load_state_dict(state["exploration"])
        self.policy_state.load_state_dict(state["memory"])
        self.random_steps = state["random_steps"]

    def weights(self) -> dict[str, Any]:
        """What an update changes of acting, as copies."""
        policy = {name: value.clone() for name, value in self.policy.state_dict().items()}
        return {"policy": policy, "policy_version": self.policy_version.clone()}

    def load_weights(self, weights: Mapping[str, Any]) -> None:
        """Restore `weights` in place."""
        self.policy.load_state_dict(weights["policy"])
        self.policy_version.copy_(weights["policy_version"])

    def close(self) -> None:
        """Free the captured graph."""
        release(self._act_step)
