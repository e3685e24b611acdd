"""Actor and Q critics with a history encoder each, whose kind is chosen by name.

Ni, Eysenbach, Salakhutdinov 2022 (arXiv 2110.05038): a recurrent actor-critic is a strong baseline for hidden states if
actor and critics have separate encoders; a shared one would get gradients of conflicting losses. As in the paper, the
MLP after a recurrent network also sees its input, so that the recurrent state only has to carry the past.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

from typing_extensions import override

from ..configclass import ConfigError, Range, configclass
from ..envs.spec import EnvSpec
from ..networks.mlp import MLPCfg
from ..networks.network import NetworkCfg
from ..networks.rnn import RNNCfg
from ..networks.stack import StackCfg
from ..networks.transformer import TransformerCfg
from .actor_q import ActorQPackCfg, SACNetworks

HistoryEncoder = Literal["none", "stack", "gru", "lstm", "transformer"]


HistoryActorQPack = SACNetworks
"""Name of the class in files of earlier runs."""


@configclass
class HistoryActorQPackCfg(ActorQPackCfg):
    """Configuration of `SACNetworks` with history encoders before the MLPs of `actor_cfg` and `critic_cfg`."""

    history_encoder: HistoryEncoder = "gru"
    """Encoder: none, the last inputs concatenated, a recurrent network, or attention over the last inputs."""
    history_size: Annotated[int, Range(ge=1)] = 128
    """Width of the encoder (of the tokens of a transformer), and number of features it passes to the critics."""
    history_layers: Annotated[int, Range(ge=1)] = 1
    """Number of layers of recurrent networks and transformers."""
    history_heads: Annotated[int, Range(ge=1)] = 4
    """Number of attention heads of transformers."""
    history_window: Annotated[int, Range(ge=2)] = 16
    """Number of inputs that a stack, or each layer of a transformer, sees."""

    @override
    def with_encoders(self, spec: EnvSpec, obs_groups: Mapping[str, Sequence[str]]) -> ActorQPackCfg:
        actor, critic = self.actor_cfg, self.critic_cfg
        features = self._encoder(None)
        if features is not None:
            if not isinstance(actor.backbone_cfg, MLPCfg):
                raise ConfigError(
                    f"history_encoder='{self.history_encoder}' is put before an MLP, and actor_cfg.backbone_cfg "
                    f"is a {type(actor.backbone_cfg).__name__}: use MLPCfg there, or ActorQPackCfg with your networks."
                )
            actor = actor.replace(backbone_cfg=self._encoder(actor.backbone_cfg))
            critic = critic.replace(history_cfg=features, history_features=self.history_size)
        return ActorQPackCfg(actor_cfg=actor, critic_cfg=critic)

    def _encoder(self, head: MLPCfg | None) -> NetworkCfg | None:
        """Return the encoder followed by `head` (by default a linear layer), None for no encoder."""
        size, layers, window = self.history_size, self.history_layers, self.history_window
        match self.history_encoder:
            case "none":
                return None
            case "stack":
                return StackCfg(window=window, head_cfg=head or MLPCfg(hidden_features=[]))
            case "transformer":
                heads = self.history_heads
                return TransformerCfg(dim=size, num_layers=layers, num_heads=heads, window=window, head_cfg=head)
            case cell:
                return RNNCfg(cell=cell, hidden_size=size, num_layers=layers, head_cfg=head, shortcut=True)
