"""Distributional soft actor-critic: SAC whose critics learn the distribution of the return as a normal one.

DSAC (Duan et al. 2021, arXiv 2001.02811) has one critic and a slow copy of the policy that chooses a'; DSAC-T (2025,
arXiv 2310.05858), known as DSACT, has twins, expected targets for the mean and scales by the variance. The losses are
those of the critics' return head, `GaussianHead`; what is left are these settings of SAC.
"""

from __future__ import annotations

from ...components.actor_q import ActorQPackCfg
from ...components.return_heads import GaussianHead
from ...components.temperature import TemperatureCfg
from ...configclass import ConfigError, configclass
from ..algorithm import RunContext
from .sac import SAC, SACCfg


class DSAC(SAC):
    """SAC that insists on critics with a `GaussianHead`."""

    def __init__(self, cfg: DSACCfg, *, policy: ActorQPackCfg, context: RunContext) -> None:
        super().__init__(cfg, policy=policy, context=context)
        if not isinstance(self.critic.head, GaussianHead):
            raise ConfigError(
                f"DSAC learns normal distributions of the return, but policy.critic_cfg.head_cfg builds a "
                f"{type(self.critic.head).__name__}: use GaussianHeadCfg."
            )


@configclass
class DSACCfg(SACCfg):
    """DSAC of 2021; its critic is `QNetworkCfg(num_q=1, head_cfg=GaussianHeadCfg(version="v1"))`."""

    class_type: type = DSAC
    actor_learning_rate = 1.0e-4
    critic_learning_rate = 1.0e-4
    temperature: TemperatureCfg = TemperatureCfg(initial=2.718281828459045)
    target_actor = True
    policy_delay = 2
    delay_targets = True


@configclass
class DSACTCfg(DSACCfg):
    """DSAC-T; its critic is `QNetworkCfg(num_q=2, head_cfg=GaussianHeadCfg(version="T"))`.

    The published runs take 20 environment steps per gradient step (the runner's `train_freq` or `num_envs`).
    """
