"""Policy made of an actor alone, for play, evaluation and export."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from tensordict import TensorDict
from torch import Tensor, nn

from ..components.actor import Actor
from ..components.observation import ObservationEncoder
from ..envs.spec import EnvSpec
from ..utils.export import Exportable
from .algorithm import Policy
from .functional import jacobian_norm


class ActorPolicy(Policy):
    """Play the mode (or a sample) of an actor's distribution; keeps the recurrent state between calls."""

    def __init__(self, actor: Actor, *, deterministic: bool = True) -> None:
        super().__init__()
        self.actor = actor
        self.deterministic = deterministic
        self._state: Tensor | None = None
        self._start: Tensor | None = None

    @torch.no_grad()
    def forward(self, obs: TensorDict) -> Tensor:
        """Return actions `(N, *action.shape)` for observations `[N]`."""
        self._prepare(obs)
        distribution, self._state = self.actor(obs, self._state, self._start)
        if self._start is not None:
            self._start = torch.zeros_like(self._start)
        return distribution.mode if self.deterministic else distribution.sample()

    def reset(self, dones: Tensor | None = None) -> None:
        """Start new episodes where `dones` `(N,)` is set; everywhere if it is None."""
        if dones is None:
            self._state = self._start = None
        elif self._start is not None:
            self._start = self._start | (dones != 0)

    def _prepare(self, obs: TensorDict) -> None:
        """Make the state of a recurrent actor, if there is none for so many environments."""
        if self.actor.is_recurrent and (self._start is None or self._start.shape[0] != obs.batch_size[0]):
            self.reset()
            self._state = self.actor.initial_state(obs.batch_size[0])
            self._start = torch.ones(obs.batch_size[0], dtype=torch.bool, device=obs.device)

    @torch.no_grad()
    def jacobian_norm(self, obs: TensorDict) -> Tensor | None:
        """Return the norm as `Policy.jacobian_norm`, exact; None if actions are discrete."""
        actor = self.actor
        if actor.spec.action.kind != "continuous":
            return None
        self._prepare(obs)

        def action(features: Tensor) -> Tensor:
            return actor.mode(actor.evaluate_features(features, self._state, self._start)[0])

        return jacobian_norm(action, actor.encoder(obs))

    def exportable(self) -> Exportable:
        """Export as `Policy.exportable`: `obs` concatenates the flat groups, images are separate inputs."""
        actor = copy.deepcopy(self.actor).cpu().eval()
        spec, encoder = actor.spec, actor.encoder
        inputs = {"obs": torch.zeros(2, encoder.flat_features)} if encoder.flat_groups else {}
        for group in encoder.image_groups:
            inputs[group] = torch.zeros(2, *spec.obs_groups[group], dtype=spec.dtype_of(group))
        outputs, state = ("actions",), None
        memory = actor.initial_state(2)
        if memory is not None:
            state = ("state_in", "state_out")
            inputs[state[0]] = memory.cpu()
            outputs = ("actions", state[1])
        metadata = {
            "task": spec.task,
            **describe_observations(spec, encoder.flat_groups, encoder.image_groups),
            "normalization": "none" if encoder.normalizer is None else "inside",
            "action_kind": spec.action.kind,
            "action_dim": spec.action.dim,
            "step_dt": spec.step_dt,
            "spec": spec.to_dict(),
        }
        return Exportable(_ExportedActor(actor), inputs, outputs, state, metadata, _typical(encoder))


def describe_observations(spec: EnvSpec, flat_groups: Sequence[str], image_groups: Sequence[str]) -> dict[str, Any]:
    """Return metadata about the inputs: the groups in order, and the columns of the input that each fills."""
    sizes = [spec.obs_dim([group]) for group in flat_groups]
    observations = []
    for index, group in enumerate([*flat_groups, *image_groups]):
        is_flat = index < len(flat_groups)
        observations.append(
            {
                "group": group,
                "input": "obs" if is_flat else group,
                "column": sum(sizes[:index]) if is_flat else None,
                "size": spec.obs_dim([group]),
                "shape": list(spec.obs_groups[group]),
                "dtype": str(torch.float32 if is_flat else spec.dtype_of(group)).removeprefix("torch."),
                "source": None,
                "parts": None,
            }
        )
    return {
        "obs_groups": list(flat_groups),
        "obs_sizes": sizes,
        "image_groups": list(image_groups),
        "observations": observations,
    }


def _typical(encoder: ObservationEncoder) -> dict[str, tuple[Tensor, Tensor]]:
    """Return mean and standard deviation of the flat observations, from the normalizer."""
    if encoder.normalizer is None:
        return {}
    mean = encoder.normalizer.inverse(torch.zeros(encoder.flat_features))
    return {"obs": (mean, encoder.normalizer.inverse(torch.ones(encoder.flat_features)) - mean)}


class _ExportedActor(nn.Module):
    """Actor whose inputs are tensors in a fixed order: flat observations, images, recurrent state."""

    def __init__(self, actor: Actor) -> None:
        super().__init__()
        self.actor = actor
        self.flat_groups = list(actor.encoder.flat_groups)
        self.image_groups = list(actor.encoder.image_groups)
        self.shapes = [tuple(actor.spec.obs_groups[group]) for group in self.flat_groups]
        self.sizes = [actor.spec.obs_dim([group]) for group in self.flat_groups]

    def forward(self, *inputs: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Return deterministic actions, and the next state of a recurrent actor."""
        if not self.image_groups:
            return self.actor.forward_flat(*inputs)
        obs: dict[str, Tensor] = {}
        rest = list(inputs)
        if self.flat_groups:
            parts = rest.pop(0).split(self.sizes, dim=-1)
            shaped = [part.reshape(-1, *shape) for part, shape in zip(parts, self.shapes, strict=True)]
            obs |= dict(zip(self.flat_groups, shaped, strict=True))
        obs |= {group: rest.pop(0) for group in self.image_groups}
        output, state = self.actor.evaluate(obs, rest[0] if rest else None, None)
        actions = self.actor.mode(output)
        return actions if state is None else (actions, state)
