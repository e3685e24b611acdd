"""Networks of off-policy and offline algorithms: an actor, Q critics, a state value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import nn

from ..configclass import Cfg, configclass
from ..envs.spec import EnvSpec
from .actor import Actor, ActorCfg
from .critic import QNetwork, QNetworkCfg, VNetwork, VNetworkCfg
from .gaussian_actor import TanhGaussianActorCfg


class ActorPack(nn.Module):
    """Actor alone, built by `ActorPackCfg.build(spec=..., obs_groups=...)`.

    Args:
        cfg: Configuration.
        spec: Spec of the environment.
        obs_groups: Groups that each module reads: `{"actor": [...], "critic": [...]}`.
    """

    def __init__(self, cfg: ActorPackCfg, spec: EnvSpec, obs_groups: Mapping[str, Sequence[str]]) -> None:
        super().__init__()
        self.cfg = cfg = cfg.with_encoders(spec, obs_groups)
        self.actor: Actor = cfg.actor_cfg.build(spec=spec, groups=obs_groups["actor"])


class SACNetworks(ActorPack):
    """Actor and an ensemble of Q critics, built by `ActorQPackCfg.build(spec=..., obs_groups=...)`."""

    cfg: ActorQPackCfg

    def __init__(self, cfg: ActorQPackCfg, spec: EnvSpec, obs_groups: Mapping[str, Sequence[str]]) -> None:
        super().__init__(cfg, spec, obs_groups)
        self.critic: QNetwork = self.cfg.critic_cfg.build(spec=spec, groups=obs_groups["critic"])


ActorQPack = SACNetworks
"""Name of the class in files of earlier runs."""


class ActorQVPack(SACNetworks):
    """`SACNetworks` with a state value that reads the critics' groups, built by `ActorQVPackCfg.build(...)`."""

    def __init__(self, cfg: ActorQVPackCfg, spec: EnvSpec, obs_groups: Mapping[str, Sequence[str]]) -> None:
        super().__init__(cfg, spec, obs_groups)
        self.value: VNetwork = cfg.value_cfg.build(spec=spec, groups=obs_groups["critic"])


@configclass
class ActorPackCfg(Cfg):
    """Configuration of an `ActorPack`."""

    class_type: type = ActorPack
    actor_cfg: ActorCfg = TanhGaussianActorCfg()
    """Policy; it has to act within [-1, 1]."""

    def with_encoders(self, spec: EnvSpec, obs_groups: Mapping[str, Sequence[str]]) -> ActorPackCfg:
        """Return the networks to build: these, with the encoders that a subclass puts before them."""
        return self


@configclass
class ActorQPackCfg(ActorPackCfg):
    """Configuration of `SACNetworks`."""

    class_type: type = SACNetworks
    critic_cfg: QNetworkCfg = QNetworkCfg()
    """Q critics."""


@configclass
class ActorQVPackCfg(ActorQPackCfg):
    """Configuration of an `ActorQVPack`."""

    class_type: type = ActorQVPack
    value_cfg: VNetworkCfg = VNetworkCfg()
    """State value."""
