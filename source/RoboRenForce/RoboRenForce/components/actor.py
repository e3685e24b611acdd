"""Base class of actors: observations in, an action distribution out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch import Tensor
from typing_extensions import override

from ..configclass import ConfigError, configclass
from ..envs.spec import EnvSpec
from .distributions import Categorical, Distribution
from .observation import ObservationNetwork, ObservationNetworkCfg, Observations


class Actor(ObservationNetwork, ABC):
    """Stochastic policy, built by `ActorCfg.build(spec=..., groups=[...])`.

    `actor(obs, state=None, starts=None) -> (distribution, state)`; feed-forward actors return None as state.
    """

    def __init__(self, cfg: ActorCfg, spec: EnvSpec, groups: Sequence[str], outputs_per_action: int = 1) -> None:
        super().__init__(cfg, spec, groups, spec.action.dim * outputs_per_action)
        self.action_shape = spec.action.shape

    @abstractmethod
    def distribution(self, output: Tensor) -> Distribution:
        """Return the action distribution for the backbone's output `(..., out)`."""

    @abstractmethod
    def mode(self, output: Tensor) -> Tensor:
        """Return the deterministic action `(..., *action_shape)` for the backbone's output `(..., out)`."""

    def forward(
        self, obs: Observations, state: Tensor | None = None, starts: Tensor | None = None
    ) -> tuple[Distribution, Tensor | None]:
        """Return the action distribution for `obs`, and the next state."""
        output, state = self.evaluate(obs, state, starts)
        return self.distribution(output), state

    def forward_flat(self, x: Tensor, state: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor]:
        """Return the deterministic action from plain tensors, for export.

        Args:
            x: Flat observations `(B, obs_dim)`, the groups concatenated in the order of `groups`, not normalized.
            state: Recurrent state `(L, B, S)` of a recurrent actor.

        Returns:
            The action `(B, *action_shape)`, with the next state if the actor is recurrent.
        """
        output, next_state = self.evaluate_flat(x, state)
        action = self.mode(output)
        return action if next_state is None else (action, next_state)


@configclass
class ActorCfg(ObservationNetworkCfg):
    """Base of every actor's configuration."""

    class_type: type = Actor


class CategoricalActor(Actor):
    """Policy over discrete actions; the backbone's outputs are the logits."""

    def __init__(self, cfg: CategoricalActorCfg, spec: EnvSpec, groups: Sequence[str]) -> None:
        require_action_kind(spec, "discrete", "CategoricalActor", "StateIndStdActorCfg or TanhGaussianActorCfg")
        super().__init__(cfg, spec, groups)

    @override
    def distribution(self, output: Tensor) -> Categorical:
        return Categorical(output)

    @override
    def mode(self, output: Tensor) -> Tensor:
        return output.argmax(-1)


@configclass
class CategoricalActorCfg(ActorCfg):
    """Configuration of a `CategoricalActor`."""

    class_type: type = CategoricalActor


def require_action_kind(spec: EnvSpec, kind: str, actor: str, alternative: str) -> None:
    """Raise a ConfigError unless the actions of `spec` are of `kind`."""
    if spec.action.kind != kind:
        raise ConfigError(
            f"{actor} needs {kind} actions; '{spec.task}' has {spec.action.kind} actions "
            f"[{spec.action.dim}]: use {alternative}."
        )


def require_unit_box(spec: EnvSpec, actor: str) -> None:
    """Raise a ConfigError if the actions of `spec` have bounds other than [-1, 1]."""
    low, high = spec.action.low, spec.action.high
    if (low is not None and any(bound != -1.0 for bound in low)) or (
        high is not None and any(bound != 1.0 for bound in high)
    ):
        raise ConfigError(
            f"{actor} samples actions in [-1, 1]; '{spec.task}' declares low={low}, high={high}: "
            f"let the environment adapter rescale its actions to [-1, 1], or use StateIndStdActorCfg."
        )
