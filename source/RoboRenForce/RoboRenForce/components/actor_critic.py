"""Actor and V critic of on-policy algorithms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import nn

from ..configclass import Cfg, configclass
from ..envs.spec import EnvSpec
from .actor import Actor, ActorCfg
from .critic import VNetwork, VNetworkCfg
from .gaussian_actor import StateIndStdActorCfg


class ActorCriticPack(nn.Module):
    """Modules of an actor-critic algorithm, built by `ActorCriticPackCfg.build(spec=..., obs_groups=...)`.

    Args:
        cfg: Configuration.
        spec: Spec of the environment.
        obs_groups: Groups that each network reads: `{"actor": [...], "critic": [...]}`.
    """

    def __init__(self, cfg: ActorCriticPackCfg, spec: EnvSpec, obs_groups: Mapping[str, Sequence[str]]) -> None:
        super().__init__()
        self.cfg = cfg = cfg.with_encoders(spec, obs_groups)
        self.actor: Actor = cfg.actor_cfg.build(spec=spec, groups=obs_groups["actor"])
        self.critic: VNetwork = cfg.critic_cfg.build(spec=spec, groups=obs_groups["critic"])

    @property
    def is_recurrent(self) -> bool:
        """True if the actor or the critic is recurrent."""
        return self.actor.is_recurrent or self.critic.is_recurrent


@configclass
class ActorCriticPackCfg(Cfg):
    """Configuration of an `ActorCriticPack`."""

    class_type: type = ActorCriticPack
    actor_cfg: ActorCfg = StateIndStdActorCfg()
    """Policy."""
    critic_cfg: VNetworkCfg = VNetworkCfg()
    """State value."""

    def with_encoders(self, spec: EnvSpec, obs_groups: Mapping[str, Sequence[str]]) -> ActorCriticPackCfg:
        """Return the networks to build: these, with the encoders that a subclass puts before them."""
        return self
