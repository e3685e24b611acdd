"""Losses and rewards of adversarial imitation, from the logit `l` of a discriminator.

GAIL: Ho, Ermon 2016 (arXiv 1606.03476); AIRL: Fu et al. 2017 (arXiv 1710.11248); AMP: Peng et al. 2021 (arXiv
2104.02180), with the least-squares loss of Mao et al. 2016 (arXiv 1611.04076).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from .masked import masked_mean

GanLoss = Literal["lsgan", "bce"]
RewardForm = Literal["lsgan", "gail+", "gail-", "airl"]

LARGEST_REWARD = 9.21034
"""-log(1e-4): released code bounds 1 - D from below by 1e-4."""
LARGEST_LOGIT = 10.0


def discriminator_loss(
    expert_logit: Tensor, policy_logit: Tensor, form: GanLoss, policy_mask: Tensor | None = None
) -> Tensor:
    """Return the 0-dim loss that pulls `expert_logit` up and `policy_logit` down.

    lsgan: mean (l_e - 1)^2 + mean (l_p + 1)^2. bce: -mean log D(l_e) - mean log(1 - D(l_p)) with D the sigmoid.

    Args:
        expert_logit: `(B,)`.
        policy_logit: `(B,)`.
        form: Form of the loss.
        policy_mask: bool `(B,)`, False in rows that don't count; None: all count.
    """
    if form == "lsgan":
        expert, policy = (expert_logit - 1.0).square(), (policy_logit + 1.0).square()
    else:
        expert, policy = nn.functional.softplus(-expert_logit), nn.functional.softplus(policy_logit)
    return expert.mean() + masked_mean(policy, policy_mask)


def gradient_penalty(logit: Tensor, inputs: Tensor) -> Tensor:
    """Return 1/2 mean ||grad_x l(x)||^2, which can be differentiated again; `inputs` `(B, D)` require gradients."""
    (gradient,) = torch.autograd.grad(logit.sum(), inputs, create_graph=True)
    return 0.5 * gradient.square().sum(-1).mean()


def imitation_reward(logit: Tensor, form: RewardForm) -> Tensor:
    """Return the reward of transitions with these logits, of the same shape.

    lsgan: max(0, 1 - (l - 1)^2 / 4), in [0, 1]. gail+: -log(1 - D), never below 0. gail-: log D, never above 0. airl:
    l = log D - log(1 - D), of either sign. All are bounded.
    """
    if form == "lsgan":
        return (1.0 - 0.25 * (logit - 1.0).square()).clamp(min=0.0)
    if form == "gail+":
        return nn.functional.softplus(logit).clamp(max=LARGEST_REWARD)
    if form == "gail-":
        return -nn.functional.softplus(-logit).clamp(max=LARGEST_REWARD)
    return logit.clamp(-LARGEST_LOGIT, LARGEST_LOGIT)
