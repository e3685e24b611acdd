"""Pure losses and returns: tensors in, tensors out."""

from .expectile import advantage_weight, expectile_loss
from .masked import masked_mean, masked_mse, masked_var
from .policy_loss import clipped_surrogate, same_shape
from .returns import bootstrap_time_outs, gae, normalize_advantage
from .value_loss import clipped_value_loss, value_loss

__all__ = [
    "advantage_weight",
    "bootstrap_time_outs",
    "clipped_surrogate",
    "clipped_value_loss",
    "expectile_loss",
    "gae",
    "masked_mean",
    "masked_mse",
    "masked_var",
    "normalize_advantage",
    "same_shape",
    "value_loss",
]
