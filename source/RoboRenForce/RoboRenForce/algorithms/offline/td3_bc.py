"""TD3+BC: TD3 whose policy stays near the data's actions.

Fujimoto and Gu 2021 (arXiv 2106.06860):

    L_mu = -lambda Q_1(s, mu(s)) + mean_d (mu_d(s) - a_d)^2,   lambda = alpha / mean |Q_1(s, mu(s))|

lambda makes the first term as large as alpha whatever the scale of the rewards; no gradient flows through it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, ClassVar

from torch import Tensor

from ...buffer.replay_batch import ReplayBatch
from ...configclass import Range, configclass
from ..off_policy.td3 import TD3, TD3Cfg

TD3BC = TD3
"""Its name in the files of earlier runs; what differs from TD3 is the policy's objective, which `TD3BCCfg` names."""


def imitating_objective(cfg: TD3BCCfg, batch: ReplayBatch, action: Tensor, value: Tensor) -> Tensor:
    """L_mu, 0-dim, of actions `(..., A)` of the policy that are worth `value` `(...)`."""
    imitation = (action - batch.action).square().mean(-1)
    return batch.mean(imitation) - cfg.alpha * relative(batch, value)


def relative(batch: ReplayBatch, value: Tensor) -> Tensor:
    """Mean of `value` `(...)` in units of its mean size, which is a constant to the gradient; 0-dim."""
    return batch.mean(value) / batch.mean(value.abs()).detach().clamp(min=1.0e-6)


@configclass
class TD3BCCfg(TD3Cfg):
    """TD3+BC. Defaults are those of the paper, in which observations are normalized."""

    objective: ClassVar[Callable[..., Tensor]] = staticmethod(imitating_objective)

    learning_starts = 0
    alpha: Annotated[float, Range(ge=0)] = 2.5
    """Weight of the value against imitation; 0 is behavior cloning."""
