"""Deterministic policy, for TD3 and its variants."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor
from typing_extensions import override

from ..configclass import configclass
from ..envs.spec import EnvSpec
from .actor import Actor, ActorCfg, require_action_kind, require_unit_box
from .distributions import Distribution

_NO_DENSITY = "A deterministic policy has no {what}; use TanhGaussianActorCfg with algorithms that need one."


class Deterministic(Distribution):
    """Distribution with all probability on one action `(..., A)`, through which gradients flow."""

    def __init__(self, action: Tensor) -> None:
        self.action = action

    @override
    def sample(self) -> Tensor:
        return self.action.detach()

    @property
    @override
    def mode(self) -> Tensor:
        return self.action

    @property
    @override
    def params(self) -> dict[str, Tensor]:
        return {"action": self.action}

    @classmethod
    @override
    def from_params(cls, params: Mapping[str, Tensor]) -> Deterministic:
        return cls(params["action"])

    @override
    def log_prob(self, action: Tensor) -> Tensor:
        raise TypeError(_NO_DENSITY.format(what="log-probability"))

    @override
    def entropy(self) -> Tensor:
        raise TypeError(_NO_DENSITY.format(what="entropy"))

    @override
    def kl_from(self, old_params: Mapping[str, Tensor]) -> Tensor:
        raise TypeError(_NO_DENSITY.format(what="KL divergence"))


class DeterministicActor(Actor):
    """Policy whose action is the tanh of the backbone's output, in [-1, 1]."""

    def __init__(self, cfg: DeterministicActorCfg, spec: EnvSpec, groups: Sequence[str]) -> None:
        require_action_kind(spec, "continuous", "DeterministicActor", "CategoricalActorCfg")
        require_unit_box(spec, "DeterministicActor")
        super().__init__(cfg, spec, groups)

    @override
    def distribution(self, output: Tensor) -> Deterministic:
        return Deterministic(output.tanh())

    @override
    def mode(self, output: Tensor) -> Tensor:
        return output.tanh()


@configclass
class DeterministicActorCfg(ActorCfg):
    """Configuration of a `DeterministicActor`."""

    class_type: type = DeterministicActor
