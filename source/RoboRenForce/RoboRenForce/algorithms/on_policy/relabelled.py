"""Data of follower blocks, relabelled as the leader's (SAPG, arXiv 2407.20230, section 4.2).

    rollout           (T, N)   | block 0 | block 1 | ... | leader |
    relabelled        (T, n)        `-- k random followers --> `block` = 0, the leader's V and log pi

What the leader would have thought of the followers' steps, before it changes:

    y = r + gamma (1 - d) V(s'),   A = y - V(s),   mu = pi(a|s) / pi_follower(a|s)

The rest is PPO. The paper's clip interval [mu (1 - c), mu (1 + c)] of the ratio pi / pi_follower is the usual one of
pi / pi_before with the advantage mu A; the released code clips pi / pi_follower around 1.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...buffer.rollout import Epochs, RolloutBuffer
from ...buffer.transition import Field, TransitionSchema
from ...components.normalizer import ValueNormalizer
from ...components.observation import Observations
from ...envs.obs_groups import BLOCK
from ..functional import gae
from .collector import state_value
from .rollout import OnPolicyRollout


class RelabelledRollout:
    """Steps of `k` randomly chosen follower blocks of a rollout, with the fields that a policy loss reads.

    Time-outs are left out by `mask`: their reward holds the value of a final observation to the follower, and what it
    is worth to the leader is not known.

    Args:
        cfg: `SAPGPPOCfg`.
        rollout: Rollout that they are taken from, with the actor and the critic that it was collected with.
        num_blocks: Number of blocks, the last of which is the leader.
        whole: True if a term of the loss reads whole transitions.
    """

    def __init__(self, cfg: Any, rollout: OnPolicyRollout, num_blocks: int, *, whole: bool) -> None:
        self.cfg, self.source, self.collector = cfg, rollout.buffer, rollout.collector
        schema, device = rollout.schema, rollout.device
        size = schema.num_envs // num_blocks
        self._num_chosen = min(cfg.off_policy_blocks, num_blocks - 1)
        self._order = torch.arange(num_blocks - 1, device=device)
        self._within = torch.arange(size, device=device)
        self.rows = torch.zeros(self._num_chosen * size, dtype=torch.int64, device=device)
        """Environments of the chosen blocks, `(n,)`."""
        used = Field("mask", (), torch.bool, "False: the step is left out")
        own = TransitionSchema(len(self.rows), {**schema.fields, "mask": used})
        self.buffer = RolloutBuffer(own, self.source.num_steps, device)
        self.epochs = Epochs.of(cfg, self.buffer, bool(self.buffer.states), whole=whole)
        self.ratio = torch.zeros_like(self.buffer.reward)
        """mu, `(T, n)`."""
        self.used = self.buffer.rows["mask"]
        """bool `(T, n)`, False at time-outs."""

    def draw(self) -> None:
        """Choose the blocks and shuffle, in place, outside of the captured update."""
        torch.randperm(len(self._order), out=self._order)
        size = len(self._within)
        self.rows.copy_((self._order[: self._num_chosen].unsqueeze(1) * size + self._within).flatten())
        self.epochs.shuffle()

    @torch.no_grad()
    def relabel(self, last_obs: Observations) -> None:
        """Copy the chosen rows and compute the leader's view of them; `last_obs` `[N]` follow the rollout."""
        own, source, acting = self.buffer, self.source, self.collector
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
