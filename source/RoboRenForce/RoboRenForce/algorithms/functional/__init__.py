"""Pure losses and returns: tensors in, tensors out."""

from .adversarial import discriminator_loss, gradient_penalty, imitation_reward
from .chunks import (
    Level,
    advantage_at_level,
    at_level,
    chunk_discount,
    chunk_reward,
    executed_mask,
    relative_rewards,
)
from .expectile import advantage_weight, expectile_loss
from .group_advantage import episode_weights, globally_normalized, group_advantage, informative_groups
from .jacobian import jacobian_norm, length, vjp
from .masked import masked_mean, masked_mse, masked_var
from .policy_loss import approximate_kl, clipped_surrogate, same_shape, surrogate_terms
from .returns import bootstrap_time_outs, discounted_returns, gae, normalize_advantage
from .value_loss import clipped_value_loss, value_loss, value_terms

__all__ = [
    "Level",
    "advantage_at_level",
    "advantage_weight",
    "approximate_kl",
    "at_level",
    "bootstrap_time_outs",
    "chunk_discount",
    "chunk_reward",
    "clipped_surrogate",
    "clipped_value_loss",
    "discounted_returns",
    "discriminator_loss",
    "episode_weights",
    "executed_mask",
    "expectile_loss",
    "gae",
    "globally_normalized",
    "gradient_penalty",
    "group_advantage",
    "imitation_reward",
    "informative_groups",
    "jacobian_norm",
    "length",
    "masked_mean",
    "masked_mse",
    "masked_var",
    "normalize_advantage",
    "relative_rewards",
    "same_shape",
    "surrogate_terms",
    "value_loss",
    "value_terms",
    "vjp",
]
