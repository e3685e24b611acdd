"""Distributional soft actor-critic: SAC whose critics learn a normal distribution of the return.

DSAC (Duan et al. 2021, arXiv 2001.02811) has one critic and a target policy that chooses a'; DSAC-T (2025,
arXiv 2310.05858), also called DSACT, has twin critics, expected targets for the mean and scaling by the variance. The
losses are those of the critics' return head, `GaussianHead`; this file holds the settings of SAC.
"""

from __future__ import annotations

from typing import ClassVar

from ...components.return_heads import GaussianHead, ReturnHead
from ...components.temperature import TemperatureCfg
from ...configclass import configclass
from .sac import SAC, SACCfg

DSAC = SAC
"""Name of the class in files of earlier runs."""


@configclass
class DSACCfg(SACCfg):
    """Configuration of DSAC (2021); its critic is `QNetworkCfg(num_q=1, head_cfg=GaussianHeadCfg(version="v1"))`."""

    head_type: ClassVar[type[ReturnHead]] = GaussianHead
    actor_learning_rate = 1.0e-4
    critic_learning_rate = 1.0e-4
    temperature: TemperatureCfg = TemperatureCfg(initial=2.718281828459045)
    target_actor = True
    policy_delay = 2
    delay_targets = True


@configclass
class DSACTCfg(SACCfg):
    """Configuration of DSAC-T; its critic is `QNetworkCfg(num_q=2, head_cfg=GaussianHeadCfg(version="T"))`.

    The published runs take 20 environment steps per gradient step (the runner's `train_freq` or `num_envs`).
    """

    head_type: ClassVar[type[ReturnHead]] = GaussianHead
    actor_learning_rate = 1.0e-4
    critic_learning_rate = 1.0e-4
    temperature: TemperatureCfg = TemperatureCfg(initial=2.718281828459045)
    target_actor = True
    policy_delay = 2
    delay_targets = True
