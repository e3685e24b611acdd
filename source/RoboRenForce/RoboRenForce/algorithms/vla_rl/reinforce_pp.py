"""REINFORCE++ for vision-language-action policies: returns, normalized over all decisions of the batch.

Hu et al. 2025 (arXiv 2501.03262): neither a critic nor groups. The return of a decision is what follows it, minus the
divergence from the reference policy that follows it; the batch gives mean and scale.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

import torch
from torch import Tensor
from typing_extensions import override

from ...configclass import Range, configclass
from ..functional import (
    at_level,
    chunk_discount,
    chunk_reward,
    discounted_returns,
    executed_mask,
    globally_normalized,
)
from ..vla_training.supervised_module import Micro
from .chunk_collector import RECORD, part_of
from .chunk_rollout import ChunkRollout
from .options import PolicyGradientOptions
from .policy_gradient import PolicyGradientModule
from .vla_on_policy import Targets, VLAOnPolicy


class ReinforcePP(VLAOnPolicy):
    """An iteration is one wave of whole episodes."""

    cfg: ReinforcePPCfg

    @override
    def needs_reference(self) -> bool:
        return super().needs_reference() or bool(self.cfg.kl_reward_coef)

    @override
    def targets(self, rollout: ChunkRollout) -> Targets:
        cfg, steps = self.cfg, rollout.step
        mask = rollout.mask[:steps]
        discount = chunk_discount(rollout.executed[:steps], cfg.gamma)
        reward = chunk_reward(rollout.rewards[:steps], cfg.gamma)
        metrics = {}
        if cfg.kl_reward_coef:
            divergence = torch.zeros_like(reward).masked_scatter(mask, self._divergence(rollout))
            reward = reward - cfg.kl_reward_coef * divergence
            metrics["rollout/kl_reference"] = divergence[mask].mean()
        returns = discounted_returns(reward, rollout.done[:steps], discount, mask)
        advantage = rollout.decisions(globally_normalized(returns, mask, total=self.context.distributed.sum_))
        return Targets(
            advantage=advantage,
            weight=torch.ones_like(advantage),
            returns=torch.zeros(len(advantage), 0, device=self.device),
            metrics=metrics | {"rollout/returns_mean": returns[mask].mean()},
        )

    def _divergence(self, rollout: ChunkRollout) -> Tensor:
        """Return log pi(a) - log reference(a) of each decision, `(S,)`: an estimate of the divergence (k1)."""
        if self.reference is None:
            raise RuntimeError("There is no reference, although kl_reward_coef asks for one.")
        parts = []
        executed = self.counted_actions(rollout)
        module: PolicyGradientModule = self.plain_module
        size = self.epochs.micro_batch_size or rollout.mask.shape[1]
        for index in torch.arange(len(executed), device=self.device).split(size):
            samples = rollout.store.take(index)
            record = part_of(samples, RECORD)
            prefix = self.reference.encode(self.module, samples)
            prefix = module.encode(Micro(samples)) if prefix is None else prefix
            with module.precision():
                other = self.reference.head.evaluate(prefix, record).log_prob
            chosen = executed_mask(executed[index], other.shape[1])
            parts.append(at_level(record["log_prob"] - other, chosen, "chunk")[0].squeeze(1))
        return torch.cat(parts)


@configclass
class ReinforcePPCfg(PolicyGradientOptions):
    """Configuration of `ReinforcePP`; `kl_coef` puts the divergence into the loss, `kl_reward_coef` into the reward."""

    class_type: type = ReinforcePP

    kl_reward_coef: Annotated[float, Range(ge=0)] = 0.0
    """Subtracted from the reward, times log pi(a) - log reference(a) of the chunk."""
    gamma: float = 1.0

    def check(self) -> Iterable[str]:
        """Sentences on options that contradict one another."""
        yield from super().check()
        if self.kl_coef and self.kl_reward_coef:
            yield "kl_reward_coef: the divergence is in the loss already (kl_coef); keep one of them"
