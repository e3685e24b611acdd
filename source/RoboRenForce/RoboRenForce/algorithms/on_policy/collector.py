"""Collector of policy-gradient algorithms: samples from the actor and records what the update needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from tensordict import TensorDict
from torch import Tensor, nn

from ...buffer.transition import ActOut, Field
from ...components.normalizer import ValueNormalizer
from ...components.observation import Observations
from ...envs.spec import EnvSpec
from ...utils.cuda_graph import GraphMode, graphed


class ActorCriticCollector:
    """`Collector` of an actor and a critic, with their recurrent states.

    The record of a step holds `log_prob` and `value` `(N,)`, the value in units of the reward; `dist/<parameter>`
    `(N, ...)` of the distribution; `start`, bool `(N,)`, where the observation is the first of an episode; of recurrent
    networks `state/<network>` `(N, layers, features)` before the step and `next_state/critic` after it.
    """

    def __init__(
        self,
        actor: Any,
        critic: Any,
        spec: EnvSpec,
        groups: Sequence[str],
        device: torch.device,
        value_normalizer: ValueNormalizer | None = None,
        cuda_graph: GraphMode = "off",
    ) -> None:
        self.networks = nn.ModuleDict({"actor": actor, "critic": critic})
        if value_normalizer is not None:
            self.networks["value_normalizer"] = value_normalizer
        self.actor, self.critic, self.value_normalizer = actor, critic, value_normalizer
        self.spec, self.groups = spec, tuple(groups)
        self.policy_version = torch.zeros((), dtype=torch.int64, device=device)
        self.start = torch.ones(spec.num_envs, dtype=torch.bool, device=device)
        """bool `(N,)`, True if the next observation is the first of an episode."""
        self.states: dict[str, Tensor] = {
            name: network.initial_state(spec.num_envs).to(device)
            for name, network in (("actor", actor), ("critic", critic))
            if network.is_recurrent
        }
        """Recurrent state of each recurrent network, `(layers, N, features)`."""
        self.step = graphed(self._sample, device, cuda_graph, "policy step")

    @torch.no_grad()
    def act(self, obs: TensorDict) -> ActOut:
        """Sample an action for each environment, `(N, *action.shape)`."""
        action, record, self.states = self.step({name: obs[name] for name in self.groups}, self.states)
        return ActOut(action, record)

    def _sample(
        self, obs: Observations, states: Mapping[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
        # Both networks reset the recurrent state where `start` says that an episode begins.
        distribution, actor_state = self.actor(obs, states.get("actor"), self.start)
        value, critic_state = state_value(self.critic, self.value_normalizer, obs, states.get("critic"), self.start)
        action = distribution.sample()
        # Everything that the update compares with is recorded now: the policy will have changed by then.
        record = {"log_prob": distribution.log_prob(action), "value": value, "start": self.start.clone()}
        record |= {f"dist/{name}": parameter for name, parameter in distribution.params.items()}
        record |= {f"state/{name}": state.transpose(0, 1) for name, state in states.items()}
        if critic_state is not None:
            record["next_state/critic"] = critic_state.transpose(0, 1)
        after = {"actor": actor_state, "critic": critic_state}
        return action, record | {"policy_version": self.policy_version}, {name: after[name] for name in states}

    @torch.no_grad()
    def record_fields(self) -> list[Field]:
        """Return the fields that `act` records beside `policy_version`; one forward pass finds them."""
        device, training = self.start.device, self.networks.training
        obs = {
            name: torch.zeros(1, *self.spec.obs_groups[name], dtype=self.spec.dtype_of(name), device=device)
            for name in self.groups
        }
        # In evaluation mode, so that the dummy pass moves no batch statistics.
        self.networks.eval()
        state = self.actor.initial_state(1).to(device) if self.actor.is_recurrent else None
        parameters = self.actor(obs, state, self.start[:1])[0].params
        self.networks.train(training)

        def state_field(name: str, network: str, when: str) -> Field:
            layers, _, features = self.states[network].shape
            return Field(name, (layers, features), torch.float32, f"recurrent state of the {network} {when} the step")

        fields = [
            Field("log_prob", (), torch.float32, "log pi(a|s) of the policy that acted"),
            Field("value", (), torch.float32, "V(s) of the critic beside it, in units of the reward"),
            Field("start", (), torch.bool, "the observation is the first of an episode"),
        ]
        for name, tensor in parameters.items():
            meaning = f"{name} of the distribution that acted"
            fields.append(Field(f"dist/{name}", tuple(tensor.shape[1:]), tensor.dtype, meaning))
        fields += [state_field(f"state/{name}", name, "before") for name in self.states]
        return fields + ([state_field("next_state/critic", "critic", "after")] if "critic" in self.states else [])

    def end_step(self, done: Tensor, mask: Tensor | None = None) -> None:
        """Start new episodes where `done` `(N,)` is nonzero; rows with `mask` False keep their state."""
        self.start.copy_(done if mask is None else torch.where(mask, done != 0, self.start))

    def restart_episodes(self) -> None:
        """Start new episodes in all environments at the next step."""
        self.start.fill_(True)
        # Zeros, because a bad observation may have left NaN; new tensors, because the last record shares the old ones.
        self.states = {name: torch.zeros_like(state) for name, state in self.states.items()}

    def state_dict(self) -> dict[str, Any]:
        """Return episode starts and recurrent states."""
        return {
            "start": self.start.clone(),
            "states": {name: state.clone() for name, state in self.states.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore `state_dict`; with another number of environments, start new episodes in all of them."""
        if state["start"].shape != self.start.shape:
            self.restart_episodes()
            return
        self.start.copy_(state["start"])
        self.states = {name: torch.empty_like(own).copy_(state["states"][name]) for name, own in self.states.items()}

    def weights(self) -> dict[str, Any]:
        """Return copies of the networks' parameters and statistics."""
        copies = {name: value.clone() for name, value in self.networks.state_dict().items()}
        return copies | {"policy_version": self.policy_version.clone()}

    def load_weights(self, weights: Mapping[str, Any]) -> None:
        """Load the networks' parameters and statistics from `weights`."""
        self.policy_version.copy_(weights["policy_version"])
        self.networks.load_state_dict({name: value for name, value in weights.items() if name != "policy_version"})


def state_value(
    critic: Any, normalizer: ValueNormalizer | None, obs: Observations, state: Tensor | None, start: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """Return V(s) `(N,)` in units of the reward, and the critic's next recurrent state."""
    value, state = critic(obs, state, start)
    return (value if normalizer is None else normalizer.denormalize(value)), state
