"""Behavior cloning: supervised learning of the actions in the data.

    L_pi = -log pi(a|s),   or |pi(s) - a|^2 for a deterministic policy

It uses neither rewards nor successors, and is the baseline of every other offline algorithm.
"""

from __future__ import annotations

from typing import Annotated

from torch import Tensor

from ...buffer.replay_batch import ReplayBatch
from ...components.actor_q import ActorPackCfg
from ...components.deterministic_actor import Deterministic
from ...components.distributions import Distribution
from ...configclass import Range, configclass
from ...utils.precision import autocast
from ...utils.stateful import Stateful
from ..algorithm import RunContext
from ..off_policy.off_policy_algorithm import OffPolicyAlgorithm, OffPolicyAlgorithmCfg
from ..off_policy.q_losses import actor_at_obs


def imitation_loss(distribution: Distribution, action: Tensor) -> Tensor:
    """Return -log pi(a|s) `(...)` of `action` `(..., A)`, or the squared error of a deterministic policy."""
    if isinstance(distribution, Deterministic):
        return (distribution.action - action).square().sum(-1)
    return -distribution.log_prob(action)


class BC(OffPolicyAlgorithm):
    """Actor that imitates the actions in the data."""

    cfg: BCCfg
    needs_data = True

    def __init__(self, cfg: BCCfg, *, policy: ActorPackCfg, context: RunContext) -> None:
        super().__init__(cfg, policy=policy, context=context)
        self.actor_optimizer = self.make_optimizer({"actor": self.actor}, cfg.learning_rate)
        self._policy_loss = self.compiled(self.policy_loss)

    def train_step(self, batch: ReplayBatch, update_actor: bool) -> dict[str, Tensor]:
        """Take a gradient step of the policy; returns metrics."""
        loss = self._policy_loss(batch)
        return {"Loss/actor": loss.detach(), **self.actor_optimizer.step(loss)}

    def policy_loss(self, batch: ReplayBatch) -> Tensor:
        """Return L_pi, 0-dim."""
        with autocast(self.cfg.precision, self.device):
            output = actor_at_obs(self.actor, batch)
        return batch.mean(imitation_loss(self.actor.distribution(output), batch.action))

    def parts(self) -> dict[str, Stateful]:
        """Return the optimizer."""
        return {"actor_optimizer": self.actor_optimizer}


@configclass
class BCCfg(OffPolicyAlgorithmCfg):
    """Configuration of behavior cloning. Its policy is `ActorPackCfg`: there is no critic."""

    class_type: type = BC

    learning_starts = 0
    learning_rate: Annotated[float, Range(gt=0)] = 3.0e-4
    """Learning rate of the actor."""
