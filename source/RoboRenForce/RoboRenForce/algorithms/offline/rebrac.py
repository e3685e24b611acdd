"""ReBRAC: TD3+BC with the distance to the data penalized in policy and target, and larger, normalized critics.

Tarasov et al. 2023 (arXiv 2305.09836), behavior-regularized actor-critic revisited:

    y    = r + gamma (1 - terminated) [ min_j Qbar_j(s', a') - beta_Q |a' - a'_data|^2 ]
    L_mu = beta_mu |mu(s) - a|^2 - lambda min_j Q_j(s, mu(s)),   lambda = 1 / mean |min_j Q_j(s, mu(s))|

a' is TD3's, with its noise; a'_data is the next action in the data, so transitions at which an episode was cut are
left out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, ClassVar, Literal

from torch import Tensor

from ...buffer.replay_batch import ReplayBatch
from ...configclass import ConfigError, Range, configclass
from ..off_policy.td3 import TD3, TD3Cfg
from .td3_bc import relative

ReBRAC = TD3
"""Name of the class in files of earlier runs; ReBRAC is TD3 with the two functions that `ReBRACCfg` names."""


def penalty_in_target(cfg: ReBRACCfg, batch: ReplayBatch, next_action: Tensor) -> Tensor:
    """Return -beta_Q |a' - a'_data|^2 `(...)`, which the target adds to the value of `next_action` `(..., A)`."""
    if batch.next_action is None:
        raise ConfigError("ReBRAC needs the data's next actions, which a replay doesn't know: use TD3Cfg online.")
    return -cfg.critic_penalty * (next_action - batch.next_action).square().sum(-1)


def penalized_objective(cfg: ReBRACCfg, batch: ReplayBatch, action: Tensor, value: Tensor) -> Tensor:
    """Return L_mu, 0-dim, for the policy's actions `(..., A)` with values `(...)`."""
    # The sum over dimensions, unlike TD3+BC: the paper's penalties are in these units.
    distance = (action - batch.action).square().sum(-1)
    return cfg.actor_penalty * batch.mean(distance) - relative(batch, value)


@configclass
class ReBRACCfg(TD3Cfg):
    """Configuration of ReBRAC. Defaults are those of CORL, penalties those of HalfCheetah-medium.

    The penalties depend on the data set. The networks of the paper are
    `MLPCfg(hidden_features=[256, 256, 256], layer_norm=True)` for the critics and the same without normalization for
    the actor.
    """

    needs_next_action: ClassVar[bool] = True
    bonus: ClassVar[Callable[..., Tensor]] = staticmethod(penalty_in_target)
    objective: ClassVar[Callable[..., Tensor]] = staticmethod(penalized_objective)

    learning_starts = 0
    batch_size = 1024
    actor_learning_rate = 1.0e-3
    critic_learning_rate = 1.0e-3
    policy_value: Literal["first", "min", "mean"] = "min"
    actor_penalty: Annotated[float, Range(ge=0)] = 0.001
    """beta_mu: weight of the squared distance to the data's action, summed over action dimensions."""
    critic_penalty: Annotated[float, Range(ge=0)] = 0.01
    """beta_Q: weight of the squared distance to the data's next action, in units of the reward."""
