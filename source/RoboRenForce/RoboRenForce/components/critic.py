"""Critics: state values, and ensembles of Q-values."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Annotated

import torch
from torch import Tensor, nn

from ..configclass import Cfg, ConfigError, Range, configclass
from ..envs.spec import EnvSpec
from ..networks.cnn import CNNCfg
from ..networks.mlp import MLP, MLPCfg
from ..networks.network import NetworkCfg, RecurrentNetwork
from ..utils.distributed import DistributedContext
from .normalizer import EmpiricalNormalizerCfg, Normalizer, NormalizerCfg
from .observation import ObservationEncoder, ObservationNetwork, ObservationNetworkCfg, Observations
from .return_heads import ReturnHead, ReturnHeadCfg, ScalarHeadCfg


class VNetwork(ObservationNetwork):
    """State value, built by `VNetworkCfg.build(spec=..., groups=[...])`.

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
        """Return the values `(...,)` of the observations, and the next state."""
        output, state = self.evaluate(obs, state, starts)
        return output.squeeze(-1), state


@configclass
class VNetworkCfg(ObservationNetworkCfg):
    """Configuration of a `VNetwork`."""

    class_type: type = VNetwork


class QNetwork(nn.Module):
    """Ensemble of Q-values: `q(obs, action) -> (num_q, B)`.

    Built by `QNetworkCfg.build(spec=..., groups=[...])`. The members are one batched network, so that an ensemble of
    ten takes as many kernels as a single one. Observations are normalized and images encoded once for all members;
    the action `(B, A)` is concatenated to the observation's features. `head` defines the members' output: a value,
    or the distribution of the return.

    With a history network the features summarize the observations so far. Such a critic reads sequences
    `(T, B, ...)`; compute `features` once and evaluate actions on its rows.
    """

    def __init__(self, cfg: QNetworkCfg, spec: EnvSpec, groups: Sequence[str]) -> None:
        super().__init__()
        if spec.action.kind != "continuous":
            raise ConfigError(
                f"QNetwork scores continuous actions; '{spec.task}' has {spec.action.kind} actions "
                f"[{spec.action.dim}]: use an on-policy algorithm with CategoricalActorCfg and VNetworkCfg."
            )
        self.cfg = cfg
        self.spec = spec
        self.groups = tuple(groups)
        self.encoder = ObservationEncoder(spec, groups, cfg.normalizer_cfg, cfg.cnn_cfg)
        self.history = _build_history(cfg, self.encoder.out_features)
        self.head: ReturnHead = cfg.head_cfg.build(num_members=cfg.num_q)
        size = self.encoder.out_features if self.history is None else self.history.out_features
        self.ensemble = cfg.backbone_cfg.build_ensemble(cfg.num_q, size + spec.action.dim, self.head.out_features)

    @property
    def is_recurrent(self) -> bool:
        """True if the features depend on a recurrent state."""
        return self.history is not None

    def initial_state(self, num_envs: int) -> Tensor | None:
        """Return the zero state `(L, num_envs, S)`, None if the network is not recurrent."""
        return None if self.history is None else self.history.initial_state(num_envs)

    @property
    def normalizer(self) -> Normalizer | None:
        """Normalizer of the flat observation groups."""
        return self.encoder.normalizer

    def update_normalizer(self, obs: Observations, distributed: DistributedContext | None = None) -> None:
        """Update the normalizer from observations of any batch shape; no effect in eval mode."""
        self.encoder.update_normalizer(obs, distributed)

    def features(
        self, obs: Observations, start: Tensor | None = None, state: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Return the features of `obs` that all members share.

        Args:
            obs: Groups `(..., *group)`; with a history network `(B, ...)` for a step or `(T, B, ...)` for a sequence.
            start: bool `(...)`, True where an episode starts; ignored without a history network, as is `state`.
            state: Recurrent state `(L, B, S)`; None for the zero state.

        Returns:
            Features `(..., F)`, and the next state (None without a history network).
        """
        encoded = self.encoder(obs)
        if self.history is None:
            return encoded, None
        if state is None:
            state = self.history.initial_state(encoded.shape[-2])
        return self.history(encoded, state, start)

    def outputs(self, features: Tensor, action: Tensor) -> Tensor:
        """Return member outputs `(num_q, ..., O)` for `features` `(..., F)` and `action` `(..., A)`; see `head`."""
        output = self.ensemble(torch.cat([features, action], dim=-1))
        # Returns stay in float32 under autocast.
        return output.float() if output.dtype in (torch.bfloat16, torch.float16) else output

    def forward(
        self, obs: Observations, action: Tensor, start: Tensor | None = None, state: Tensor | None = None
    ) -> Tensor:
        """Return the Q-values `(num_q, ...)` of `action` `(..., A)` at `obs`: the means of the predicted returns."""
        return self.head.mean(self.outputs(self.features(obs, start, state)[0], action))


@configclass
class QNetworkCfg(Cfg):
    """Configuration of a `QNetwork`."""

    class_type: type = QNetwork
    backbone_cfg: NetworkCfg = MLPCfg()
    """Network of each member (`MLPCfg`, `FlashNetCfg`)."""
    head_cfg: ReturnHeadCfg = ScalarHeadCfg()
    """Prediction of the members: the mean of the return (`ScalarHeadCfg`) or its distribution."""
    num_q: Annotated[int, Range(ge=1)] = 2
    """Number of members."""
    normalizer_cfg: NormalizerCfg | None = EmpiricalNormalizerCfg()
    """Normalizer of the flat observation groups, or None."""
    cnn_cfg: CNNCfg | dict[str, CNNCfg] | None = None
    """Encoder of all image groups, or one for each by name."""
    history_cfg: NetworkCfg | None = None
    """Recurrent network (`RNNCfg`, `TransformerCfg`) over the observations so far, shared by the members, or None.
    none."""
    history_features: Annotated[int, Range(ge=1)] = 128
    """Number of features that the history network passes to the members."""


def _build_history(cfg: QNetworkCfg, in_features: int) -> RecurrentNetwork | None:
    if cfg.history_cfg is None:
        return None
    network = cfg.history_cfg.build(in_features, cfg.history_features)
    if not isinstance(network, RecurrentNetwork):
        raise ConfigError(
            f"history_cfg builds a {type(network).__name__}, which has no memory; expected a recurrent network: use "
            f"RNNCfg or TransformerCfg, or None and a larger backbone_cfg."
        )
    return network
