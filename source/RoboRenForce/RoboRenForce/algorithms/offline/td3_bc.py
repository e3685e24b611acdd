"""TD3+BC: TD3 whose policy stays close to the data's actions.

Fujimoto and Gu 2021 (arXiv 2106.06860):

    L_mu = -lambda Q_1(s, mu(s)) + mean_d (mu_d(s) - a_d)^2,   lambda = alpha / mean |Q_1(s, mu(s))|

lambda gives the first term the size alpha whatever the scale of the rewards; it carries no gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, ClassVar

from torch import Tensor

from ...buffer.replay_batch import ReplayBatch
from ...configclass import Range, configclass
from ..off_policy.td3 import TD3, TD3Cfg

TD3BC = TD3
"""Name of the class in files of earlier runs; TD3+BC is TD3 with the objective that `TD3BCCfg` names."""


def imitating_objective(cfg: TD3BCCfg, batch: ReplayBatch, action: Tensor, value: Tensor) -> Tensor:
    """Return L_mu, 0-dim, for the policy's actions `(..., A)` with values `(...)`."""
    # The mean over dimensions, so that alpha does not depend on the size of the action.
    imitation = (action - batch.action).square().mean(-1)
    return batch.mean(imitation) - cfg.alpha * relative(batch, value)


def relative(batch: ReplayBatch, value: Tensor) -> Tensor:
    """Return the mean of `value` `(...)` divided by its mean absolute value (a constant to the gradient), 0-dim."""
    return batch.mean(value) / batch.mean(value.abs()).detach().clamp(min=1.0e-6)


@configclass
class TD3BCCfg(TD3Cfg):
    """Configuration of TD3+BC. Defaults are those of the paper, which normalizes observations."""

    objective: ClassVar[Callable[..., Tensor]] = staticmethod(imitating_objective)

    learning_starts = 0
    alpha: Annotated[float, Range(ge=0)] = 2.5
    """Weight of the value relative to imitation; 0 is behavior cloning."""
