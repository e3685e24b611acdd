"""Critics: state values and ensembles of action values."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Annotated

import torch
from torch import Tensor, nn

from ..configclass import Cfg, Range, configclass
from ..envs.spec import EnvSpec
from ..networks.cnn import CNNCfg
from ..networks.ensemble import EnsembleMLP
from ..networks.mlp import MLP, MLPCfg
from ..utils.distributed import DistributedContext
from .normalizer import EmpiricalNormalizerCfg, Normalizer, NormalizerCfg
from .observation import ObservationEncoder, ObservationNetwork, ObservationNetworkCfg, Observations


class VNetwork(ObservationNetwork):
    """A state value, built by `VNetworkCfg.build(spec=..., groups=[...])`.

    `critic(obs, state=None, starts=None) -> (values (...,), state)`; feed-forward critics return None as state.
    """

    def __init__(self, cfg: VNetworkCfg, spec: EnvSpec, groups: Sequence[str]) -> None:
        super().__init__(cfg, spec, groups, out_features=1)
        if isinstance(self.backbone, MLP) and self.backbone.output_layer is None:
            warnings.warn(
                f"The critic's backbone ends in {type(self.backbone.layers[-1]).__name__}, so its values can't leave "
                f"the range of that activation; end `activations` with [] for a linear output.",
                stacklevel=2,
            )

    def forward(
        self, obs: Observations, state: Tensor | None = None, starts: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Values `(...,)` of the observations, and the next state."""
        output, state = self.evaluate(obs, state, starts)
        return output.squeeze(-1), state


@configclass
class VNetworkCfg(ObservationNetworkCfg):
    """Configuration of a `VNetwork`."""

    class_type: type = VNetwork


class QNetwork(nn.Module):
    """An ensemble of action values: `q(obs, action) -> (num_q, B)`.

    Built by `QNetworkCfg.build(spec=..., groups=[...])`. The members are one batched network, so that an ensemble of
    ten costs as many kernels as a single one. Observations are normalized and images encoded once for all members;
    the action `(B, A)` follows the observation's features.
    """

    def __init__(self, cfg: QNetworkCfg, spec: EnvSpec, groups: Sequence[str]) -> None:
        super().__init__()
        if spec.action.kind != "continuous":
            raise ValueError(
                f"QNetwork scores continuous actions; '{spec.task}' has {spec.action.kind} actions "
                f"[{spec.action.dim}]: use an on-policy algorithm with CategoricalActorCfg and VNetworkCfg."
            )
        self.cfg = cfg
        self.spec = spec
        self.groups = tuple(groups)
        self.encoder = ObservationEncoder(spec, groups, cfg.normalizer_cfg, cfg.cnn_cfg)
        self.ensemble = EnsembleMLP(cfg.backbone_cfg, cfg.num_q, self.encoder.out_features + spec.action.dim, 1)

    @property
    def normalizer(self) -> Normalizer | None:
        """Normalizer of the flat observation groups."""
        return self.encoder.normalizer

    def update_normalizer(self, obs: Observations, distributed: DistributedContext | None = None) -> None:
        """Let the normalizer learn from observations of any batch shape; without effect in eval mode."""
        self.encoder.update_normalizer(obs, distributed)

    def forward(self, obs: Observations, action: Tensor) -> Tensor:
        """Values `(num_q, ...)` of `action` `(..., A)` in the states of `obs`."""
        output = self.ensemble(torch.cat([self.encoder(obs), action], dim=-1)).squeeze(-1)
        return output.float() if output.dtype in (torch.bfloat16, torch.float16) else output


@configclass
class QNetworkCfg(Cfg):
    """Configuration of a `QNetwork`."""

    class_type: type = QNetwork
    backbone_cfg: MLPCfg = MLPCfg()
    """Every member's network."""
    num_q: Annotated[int, Range(ge=1)] = 2
    """Members of the ensemble."""
    normalizer_cfg: NormalizerCfg | None = EmpiricalNormalizerCfg()
    """Normalizes the flat observation groups; None for none."""
    cnn_cfg: CNNCfg | dict[str, CNNCfg] | None = None
    """Encoder of all image groups, or of each by name."""
