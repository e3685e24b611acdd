"""An actor and an ensemble of action values, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import nn

from ..configclass import Cfg, configclass
from ..envs.spec import EnvSpec
from .actor import Actor, ActorCfg
from .critic import QNetwork, QNetworkCfg
from .gaussian_actor import TanhGaussianActorCfg


class ActorQPack(nn.Module):
    """The modules of an off-policy actor-critic, built by `ActorQPackCfg.build(spec=..., obs_groups=...)`.

    Args:
        cfg: the configuration.
        spec: what the environment provides.
        obs_groups: the groups that each reads: `{"actor": [...], "critic": [...]}`.
    """

    def __init__(self, cfg: ActorQPackCfg, spec: EnvSpec, obs_groups: Mapping[str, Sequence[str]]) -> None:
        super().__init__()
        self.cfg = cfg
        self.actor: Actor = cfg.actor_cfg.build(spec=spec, groups=obs_groups["actor"])
        self.critic: QNetwork = cfg.critic_cfg.build(spec=spec, groups=obs_groups["critic"])


@configclass
class ActorQPackCfg(Cfg):
    """Configuration of an `ActorQPack`."""

    class_type: type = ActorQPack
    actor_cfg: ActorCfg = TanhGaussianActorCfg()
    """The policy; it has to act within [-1, 1]."""
    critic_cfg: QNetworkCfg = QNetworkCfg()
    """The action values."""
