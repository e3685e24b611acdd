"""Policy over bounded actions with a Beta distribution."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor
from typing_extensions import override

from ..configclass import configclass
from ..envs.spec import EnvSpec
from .actor import Actor, ActorCfg, require_action_kind, require_unit_box
from .bounded import bounded
from .distributions import Beta

CONCENTRATION = (1.001, 1000.0)
"""Range of both parameters. Above 1 there is one peak; beyond 1000 `lgamma` loses too much precision in float32."""


class BetaActor(Actor):
    """Beta distribution per action dimension, for actions in [-1, 1]; both parameters depend on the state."""

    def __init__(self, cfg: BetaActorCfg, spec: EnvSpec, groups: Sequence[str]) -> None:
        require_action_kind(spec, "continuous", "BetaActor", "CategoricalActorCfg")
        require_unit_box(spec, "BetaActor")
        super().__init__(cfg, spec, groups, outputs_per_action=2)

    @override
    def distribution(self, output: Tensor) -> Beta:
        return Beta(*bounded(1.0 + F.softplus(output), *CONCENTRATION).chunk(2, dim=-1))

    @override
    def mode(self, output: Tensor) -> Tensor:
        return self.distribution(output).mode


@configclass
class BetaActorCfg(ActorCfg):
    """Configuration of a `BetaActor`."""

    class_type: type = BetaActor
