"""Actor-critic networks whose actor acts on a belief: those of PPO and SAC with `BeliefNetwork`s built in.

The actor's belief is a density of what the critic observes and the actor does not (`target`), which only exists in
training, or else of the next observation. Critics that do not read the target get an encoder of their own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from torch import nn
from typing_extensions import override

from ..configclass import Cfg, ConfigError, Range, configclass
from ..envs.obs_groups import PREVIOUS_ACTION
from ..envs.spec import EnvSpec
from ..networks.belief import BeliefNetwork, BeliefNetworkCfg
from ..networks.cnn import CNNCfg
from ..networks.density import ConditionalDensityCfg, FlowDensityCfg
from ..networks.mlp import MLPCfg
from ..networks.network import NetworkCfg
from .actor import Actor, ActorCfg
from .actor_critic import ActorCriticPack, ActorCriticPackCfg
from .actor_q import ActorQPackCfg, SACNetworks
from .observation import flat_columns

ObsSets = Mapping[str, Sequence[str]]
"""Observation set -> groups."""


@configclass
class BeliefCfg(Cfg):
    """Settings of the belief encoder of an actor and, where it needs one, its critic."""

    size: Annotated[int, Range(ge=1)] = 64
    """Width of the belief."""
    update: Literal["gru", "residual"] = "gru"
    """Kind of update: a gated recurrent unit, or belief + MLP (the deterministic belief flow)."""
    slow: list[str] = []
    """Observation groups that arrive at some steps only; all others are fast."""
    arrival: str | None = None
    """Group of one number, 1 where the slow groups arrived and -1 elsewhere; None: they arrive at every step."""
    density: ConditionalDensityCfg = FlowDensityCfg()
    """Belief as a density: `FlowDensityCfg` or `GaussianDensityCfg`."""
    target: list[str] = []
    """Groups of the critic that the density is of: the hidden state. Empty: of the actor's next fast observations."""
    stop_gradient: bool = False
    """True to learn the belief from its target alone, False to learn it from the policy's loss too."""

    def before(self, actor: ActorCfg, spec: EnvSpec, sets: ObsSets) -> ActorCfg:
        """Return an actor with the encoder and its density before its backbone."""
        cnn_cfg = actor.cnn_cfg
        network = self._encoder(spec, sets["actor"], actor.backbone_cfg, cnn_cfg)
        names, is_next = list(self.target), not self.target
        if is_next:
            left_out = {*self.slow, self.arrival, PREVIOUS_ACTION}
            names = [name for name in flat_columns(spec, sets["actor"], cnn_cfg) if name not in left_out]
        elif missing := [name for name in names if name not in sets["critic"]]:
            raise ConfigError(
                f"policy.belief.target names {missing}, which the critic does not read ({', '.join(sets['critic'])}): "
                f"add them, obs_groups.critic=[{', '.join([*sets['critic'], *missing])}], or leave target empty."
            )
        network.target_groups, network.target_is_next = names, is_next
        network.target_features = spec.obs_dim(names)
        network.condition_features = spec.action.dim if is_next else 0
        network.density = self.density
        return actor.replace(backbone_cfg=network)

    def critic_encoder(
        self, spec: EnvSpec, sets: ObsSets, head: NetworkCfg, cnn_cfg: Any = None
    ) -> BeliefNetworkCfg | None:
        """Return a critic's encoder followed by `head`; None if the critic reads the target, and so needs no memory."""
        return None if self.target else self._encoder(spec, sets["critic"], head, cnn_cfg)

    def _encoder(
        self, spec: EnvSpec, groups: Sequence[str], head: NetworkCfg, cnn_cfg: CNNCfg | dict[str, CNNCfg] | None
    ) -> BeliefNetworkCfg:
        if not isinstance(head, MLPCfg):
            raise ConfigError(
                f"A belief is put before an MLP, and backbone_cfg is a {type(head).__name__}: use MLPCfg there."
            )
        columns = flat_columns(spec, groups, cnn_cfg)
        for name in [*self.slow, *([] if self.arrival is None else [self.arrival])]:
            if name not in columns:
                raise ConfigError(
                    f"policy.belief names the group '{name}', which is none of the flat groups that it reads "
                    f"({', '.join(columns)}): add it to obs_groups.actor, or drop it."
                )
        if self.arrival is not None and len(columns[self.arrival]) != 1:
            raise ConfigError(
                f"policy.belief.arrival='{self.arrival}' has {len(columns[self.arrival])} numbers; expected one, 1 "
                "where slow groups arrived and -1 elsewhere: give all of them one flag."
            )
        return BeliefNetworkCfg(
            size=self.size,
            update=self.update,
            slow_columns=[column for name in self.slow for column in columns[name]],
            arrival_column=None if self.arrival is None else columns[self.arrival][0],
            head_cfg=head,
            stop_gradient=self.stop_gradient,
        )


@configclass
class BeliefActorCriticPackCfg(ActorCriticPackCfg):
    """Configuration of an `ActorCriticPack` whose actor acts on a belief, for PPO."""

    belief: BeliefCfg = BeliefCfg()
    """Belief of the actor."""

    @override
    def with_encoders(self, spec: EnvSpec, obs_groups: ObsSets) -> ActorCriticPackCfg:
        actor, critic = self.belief.before(self.actor_cfg, spec, obs_groups), self.critic_cfg
        encoder = self.belief.critic_encoder(spec, obs_groups, critic.backbone_cfg, critic.cnn_cfg)
        critic = critic if encoder is None else critic.replace(backbone_cfg=encoder)
        return ActorCriticPackCfg(actor_cfg=actor, critic_cfg=critic)


@configclass
class BeliefActorQPackCfg(ActorQPackCfg):
    """Configuration of `SACNetworks` whose actor acts on a belief, for SAC on sequences."""

    belief: BeliefCfg = BeliefCfg()
    """Belief of the actor."""

    @override
    def with_encoders(self, spec: EnvSpec, obs_groups: ObsSets) -> ActorQPackCfg:
        actor, critic = self.belief.before(self.actor_cfg, spec, obs_groups), self.critic_cfg
        encoder = self.belief.critic_encoder(spec, obs_groups, MLPCfg(hidden_features=[]), critic.cnn_cfg)
        if encoder is not None:
            critic = critic.replace(history_cfg=encoder, history_features=self.belief.size)
        return ActorQPackCfg(actor_cfg=actor, critic_cfg=critic)


BeliefActorCriticPack, BeliefActorQPack = ActorCriticPack, SACNetworks
"""Names of the classes in files of earlier runs."""


def belief_network(actor: nn.Module) -> BeliefNetwork:
    """Return the belief network of an actor.

    Raises:
        ConfigError: It has none, or one without a density.
    """
    backbone: Any = actor.backbone if isinstance(actor, Actor) else None
    if not isinstance(backbone, BeliefNetwork) or backbone.density is None:
        raise ConfigError(
            f"BeliefLossCfg trains the belief of an actor, and this one has a {type(backbone).__name__}: use "
            "policy=BeliefActorCriticPackCfg(...) (PPO) or BeliefActorQPackCfg(...) (SAC), or drop the term."
        )
    return backbone
