"""Conservative Q-learning: SAC whose critics are pushed down on actions outside the data.

Kumar et al. 2020 (arXiv 2006.04779), CQL(H) with sampled actions:

    L_Q += sum_j alpha_c ( T log sum_a exp[ (Q_j(s, a) - log q(a)) / T ] - Q_j(s, a_data) )

The sum runs over actions of three sources, uniform ones, those of pi(.|s) and those of pi(.|s'), all evaluated at s.
Each is corrected by the density q of its source, so the sum estimates an integral over all actions.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor, nn

from ...buffer.replay_batch import ReplayBatch
from ...configclass import Range, configclass
from ...utils.precision import autocast
from ...utils.stateful import Stateful
from ..off_policy.q_losses import features_of, output_of
from ..off_policy.sac import SAC, SACCfg

CQL = SAC
"""Name of the class in files of earlier runs; CQL is SAC with the critic term that `CQLCfg` names."""


class ConservativeTerm:
    """Conservative term of the critics and, optionally, the multiplier that keeps it at a target."""

    def __init__(self, learner: SAC) -> None:
        self.actor, self.critic = learner.actor, learner.critic
        self.cfg: Any = learner.cfg
        if self.cfg.target_gap is not None:
            self.multiplier = Multiplier(self.cfg.target_gap).to(learner.device)
            rate = self.cfg.multiplier_learning_rate
            self.multiplier_optimizer = learner.make_optimizer(
                {"multiplier": self.multiplier}, rate, max_grad_norm=None, weight_decay=0.0
            )

    def loss(self, batch: ReplayBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return alpha_c times the sum of the critics' gaps, and 0-dim metrics."""
        term, metrics = self.gap(batch)
        return self.weight() * term.sum(), metrics

    def gap(self, batch: ReplayBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return `T log sum exp - Q` of each critic `(E,)`, averaged over the batch, and 0-dim metrics."""
        count, temperature = self.cfg.num_actions, self.cfg.conservative_temperature
        # The data's action and the sampled ones are evaluated at s in one pass.
        with autocast(self.cfg.precision, batch.reward.device):
            actions, log_density = self.sample_actions(batch)
            features = batch.forward_obs(features_of(self.critic))
            actions = torch.cat([batch.action.unsqueeze(0), actions])
            output = self.critic.outputs(features.expand(len(actions), *features.shape), actions)
        values = self.critic.head.mean(output)
        data, sampled = values[:, 0], values[:, 1:]  # (E, B), (E, 3 count, B)
        # log-sum-exp with importance weights 1 / q(a) estimates the soft maximum over all actions.
        soft_maximum = temperature * ((sampled - log_density) / temperature).logsumexp(1)
        gap = soft_maximum - data
        term = torch.stack([batch.weighted_mean(member) for member in gap])
        metrics = {
            "Loss/conservative": batch.mean(gap.detach()),
            "Policy/q_gap": batch.mean((data - sampled[:, count : 2 * count].mean(1)).detach()),
            "Policy/q_gap_random": batch.mean((data - sampled[:, :count].mean(1)).detach()),
        }
        return term, metrics

    @torch.no_grad()
    def sample_actions(self, batch: ReplayBatch) -> tuple[Tensor, Tensor]:
        """Sample actions `(3 num_actions, B, A)`, uniform, of pi(.|s) and of pi(.|s'), with their log-densities."""
        count = self.cfg.num_actions
        # Uniform actions cover what the policy never proposes; log 1/2 per dimension is their density in [-1, 1].
        uniform = torch.empty(count, *batch.action.shape, device=batch.action.device).uniform_(-1.0, 1.0)
        actions, log_density = [uniform], [uniform.new_full(uniform.shape[:-1], uniform.shape[-1] * math.log(0.5))]
        # Actions of pi(.|s') are evaluated at s too, as in the paper's code.
        forward = output_of(self.actor)
        for output in (batch.forward_obs(forward), batch.forward_next_obs(forward)):
            distribution: Any = self.actor.distribution(output.expand(count, *output.shape))
            action, log_prob = distribution.rsample_with_log_prob()
            actions.append(action)
            log_density.append(log_prob)
        return torch.cat(actions), torch.cat(log_density)

    def weight(self) -> Tensor | float:
        """Return alpha_c, times the multiplier if there is one, without gradient."""
        weight = self.cfg.conservative_weight
        return weight if self.cfg.target_gap is None else weight * self.multiplier().detach()

    def train_step(self, metrics: dict[str, Tensor]) -> None:
        """Update the multiplier with the conservative term of the critics' step."""
        if self.cfg.target_gap is not None:
            self.multiplier_optimizer.step(self.multiplier.loss(metrics["Loss/conservative"]))

    def parts(self) -> dict[str, Stateful]:
        """Return the multiplier and its optimizer."""
        if self.cfg.target_gap is None:
            return {}
        return {"multiplier": self.multiplier, "multiplier_optimizer": self.multiplier_optimizer}


class Multiplier(nn.Module):
    """Lagrange multiplier, stored as its logarithm, that grows while the conservative term is above `target_gap`."""

    def __init__(self, target_gap: float) -> None:
        super().__init__()
        self.target_gap = target_gap
        self.log_value = nn.Parameter(torch.zeros(()))

    def forward(self) -> Tensor:
        """Return the multiplier, 0-dim and at most a million."""
        return self.log_value.exp().clamp(max=1.0e6)

    def loss(self, term: Tensor) -> Tensor:
        """Return the 0-dim loss of the multiplier for a `term` of the current critics."""
        return -self() * (term.detach() - self.target_gap)


@configclass
class CQLCfg(SACCfg):
    """Configuration of CQL(H). Defaults are those of CORL for locomotion."""

    critic_term: ClassVar[type | None] = ConservativeTerm

    learning_starts = 0
    actor_learning_rate = 3.0e-5
    backup_entropy = False
    conservative_weight: Annotated[float, Range(ge=0)] = 10.0
    """alpha_c, weight of the conservative term; 5 in the code of the paper."""
    num_actions: Annotated[int, Range(ge=1)] = 10
    """Number of actions sampled from each of the three sources."""
    conservative_temperature: Annotated[float, Range(gt=0)] = 1.0
    """T: towards 0 the soft maximum becomes a maximum."""
    target_gap: float | None = None
    """Value at which a learned factor of `conservative_weight` keeps the conservative term; None: no factor."""
    multiplier_learning_rate: Annotated[float, Range(gt=0)] = 3.0e-4
    """Learning rate of the logarithm of that factor."""
