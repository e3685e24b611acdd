"""Data of follower blocks, relabelled as the leader's (SAPG, arXiv 2407.20230, section 4.2).

    rollout           (T, N)   | block 0 | block 1 | ... | leader |
    relabelled        (T, n)        `-- k random followers --> `block` = 0, the leader's V and log pi

What the leader would have thought of the followers' steps, before it changes:

    y = r + gamma (1 - d) V(s'),   A = y - V(s),   mu = pi(a|s) / pi_follower(a|s)

The rest is PPO. The paper's clip interval [mu (1 - c), mu (1 + c)] of the ratio pi / pi_follower is the usual one of
pi / pi_before with the advantage mu A; the released code clips pi / pi_follower around 1.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from tensordict import TensorDict
from torch import Tensor

from ...buffer.rollout import Epochs, RolloutBatch, RolloutBuffer
from ...buffer.transition import Field, TransitionSchema
from ...components.normalizer import ValueNormalizer
from ...components.observation import Observations
from ...envs.obs_groups import BLOCK
from ..functional import gae
from .collector import ActorCriticCollector, state_value


class RelabelledRollout:
    """Steps of `k` randomly chosen follower blocks of a rollout, with the fields that a policy loss reads.

    Time-outs are left out by `mask`: their reward holds the value of a final observation to the follower, and what it
    is worth to the leader is not known.

    Args:
        cfg: `SAPGPPOCfg`.
        rollout: Rollout that they are taken from.
        schema: Its fields.
        collector: Actor and critic before the update.
        num_blocks: Number of blocks, the last of which is the leader.
        whole: True if a term of the loss reads whole transitions.
    """

    def __init__(
        self,
        cfg: Any,
        rollout: RolloutBuffer,
        schema: TransitionSchema,
        collector: ActorCriticCollector,
        num_blocks: int,
        *,
        whole: bool,
    ) -> None:
        self.cfg, self.rollout, self.collector = cfg, rollout, collector
        device, size = rollout.reward.device, schema.num_envs // num_blocks
        self._num_chosen = min(cfg.off_policy_blocks, num_blocks - 1)
        self._order = torch.arange(num_blocks - 1, device=device)
        self._within = torch.arange(size, device=device)
        self.rows = torch.zeros(self._num_chosen * size, dtype=torch.int64, device=device)
        """Environments of the chosen blocks, `(n,)`."""
        used = Field("mask", (), torch.bool, "False: the step is left out")
        own = TransitionSchema(len(self.rows), {**schema.fields, "mask": used})
        self.buffer = RolloutBuffer(own, rollout.num_steps, device)
        self.epochs = Epochs.of(cfg, self.buffer, bool(self.buffer.states), whole=whole)
        self.ratio = torch.zeros_like(self.buffer.reward)
        """mu, `(T, n)`."""
        self.used = self.buffer.rows["mask"]
        """bool `(T, n)`, False at time-outs."""

    @property
    def per_mini_batch(self) -> int:
        """Size of a mini-batch along its last leading dimension."""
        return len(self.epochs.orders[0]) // self.epochs.num_mini_batches

    def draw(self) -> None:
        """Choose the blocks and shuffle, in place, outside of the captured update."""
        torch.randperm(len(self._order), out=self._order)
        size = len(self._within)
        self.rows.copy_((self._order[: self._num_chosen].unsqueeze(1) * size + self._within).flatten())
        self.epochs.shuffle()

    @torch.no_grad()
    def relabel(self, last_obs: Observations) -> None:
        """Copy the chosen rows and compute the leader's view of them; `last_obs` `[N]` follow the rollout."""
        own, source, acting = self.buffer, self.rollout, self.collector
        for name, rows in own.rows.items():
            if name in source.rows:
                torch.index_select(source.rows[name], 1, self.rows, out=rows)
        for name, state in own.states.items():
            torch.index_select(source.states[name], 1, self.rows, out=state)
        last: dict[str, Tensor] = {name: last_obs[name].index_select(0, self.rows) for name, _ in source.obs.items()}
        # The leader's block is 0.
        for name in (f"obs/{BLOCK}", f"next_obs/{BLOCK}"):
            if name in own.rows:
                own.rows[name].zero_()
        last[BLOCK].zero_()
        # Recurrent states before the rollout are the followers': those of the leader are not known.
        start = own.rows["start"]
        distribution, _ = acting.actor(own.obs, own.states.get("actor"), start)
        critic, normalizer = acting.critic, acting.value_normalizer
        value, state = state_value(critic, normalizer, own.obs, own.states.get("critic"), start)
        last_value, _ = state_value(critic, normalizer, last, state, own.done[-1])
        # A longer trace would follow the follower, so the trace decay is 0.
        advantage, target = gae(own.reward, value, own.done, last_value, gamma=self.cfg.gamma, lam=0.0)
        self.used.copy_(~own.time_outs)
        own.value.copy_(value)
        own.return_.copy_(target)
        own.advantage.copy_(advantage)
        log_prob = distribution.log_prob(own.action)
        self.ratio.copy_((log_prob - own.log_prob).exp())
        if self.cfg.off_policy_clip == "mu":
            own.log_prob.copy_(log_prob)

    def weigh(self, advantage: Tensor) -> None:
        """Store normalized advantages `(T, n)`, times mu where the clip interval lies around it."""
        if self.cfg.off_policy_clip == "mu":
            advantage = advantage * self.ratio.clamp(max=self.cfg.max_importance_ratio or torch.inf)
        self.buffer.advantage.copy_(advantage)

    def normalize_values(self, normalizer: ValueNormalizer) -> None:
        """Convert values and targets to the critic's units."""
        for tensor in (self.buffer.value, self.buffer.return_):
            tensor.copy_(normalizer.normalize(tensor))


def joined(batch: RolloutBatch, relabelled: RolloutBatch) -> RolloutBatch:
    """Append relabelled rows to a mini-batch; `dist_params`, for the KL divergence, stay those of the first rows."""
    dim = batch.advantage.dim() - 1  # sequences are (T, B)

    def cat(first: Any, second: Any) -> Any:
        if isinstance(first, Tensor):
            return torch.cat([first, second], dim)
        if first is None:
            return None
        both: dict[str, Any] = {name: cat(x, second[name]) for name, x in first.items()}
        size = (*batch.advantage.shape[:-1], batch.advantage.shape[-1] + relabelled.advantage.shape[-1])
        return TensorDict(both, batch_size=size) if isinstance(first, TensorDict) else both

    first = {name: x for name, x in batch.record.items() if not name.startswith("dist/")}
    return replace(
        batch,
        obs=cat(batch.obs, relabelled.obs),
        next_obs=cat(batch.next_obs, relabelled.next_obs),
        action=cat(batch.action, relabelled.action),
        advantage=cat(batch.advantage, relabelled.advantage),
        return_=cat(batch.return_, relabelled.return_),
        mask=cat(torch.ones_like(batch.advantage, dtype=torch.bool), relabelled.mask),
        record={**batch.record, **cat(first, relabelled.record)},
        states={name: torch.cat([x, relabelled.states[name]], dim=1) for name, x in batch.states.items()},
    )
