"""Mini-batches of a rollout in blocks (SAPG): with the leader's view of its followers' steps, and entropy weights."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from tensordict import TensorDict
from torch import Tensor

from ...buffer.rollout import RolloutBatch
from ...components.observation import Observations
from ...envs.obs_groups import BLOCK
from ..functional import normalize_advantage
from .mini_batches import MiniBatches
from .relabelled import RelabelledRollout
from .rollout import OnPolicyRollout


class BlockMiniBatches(MiniBatches):
    """`MiniBatches` of several blocks; relabelled rows stand behind those that the blocks collected themselves.

    Args:
        cfg: `SAPGPPOCfg`.
        rollout: The rollout of all blocks.
        num_blocks: Their number; the last one is the leader.
        recurrent: See `MiniBatches`.
        whole: See `MiniBatches`.
    """

    def __init__(self, cfg: Any, rollout: OnPolicyRollout, num_blocks: int, *, recurrent: bool, whole: bool) -> None:
        super().__init__(cfg, rollout, recurrent=recurrent, whole=whole)
        self.num_blocks = num_blocks
        self.relabelled: RelabelledRollout | None = None
        if num_blocks > 1 and cfg.off_policy_blocks:
            self.relabelled = RelabelledRollout(cfg, rollout, num_blocks, whole=whole)

    def shuffle(self) -> None:
        """Choose the blocks to relabel, and draw new permutations."""
        if self.relabelled is not None:
            self.relabelled.draw()
        super().shuffle()

    @torch.no_grad()
    def prepare(self, obs: Observations, state: Tensor | None, start: Tensor | None) -> Tensor:
        """Compute advantages and value targets of both parts, see `MiniBatches`."""
        if self.relabelled is None:
            return super().prepare(obs, state, start)
        # Both before the statistics of the returns change.
        self.relabelled.relabel(obs)
        explained_variance = self._estimate(obs, state, start)
        if self.value_normalizer is not None:
            self.relabelled.normalize_values(self.value_normalizer)
        # Both parts estimate the same advantages, so they are normalized together.
        own, more = self.buffer.advantage, self.relabelled.buffer.advantage
        used = torch.cat([torch.ones_like(own, dtype=torch.bool), self.relabelled.used], dim=1)
        both = normalize_advantage(torch.cat([own, more], dim=1), mask=used)
        own.copy_(both[:, : own.shape[1]])
        self.relabelled.weigh(both[:, own.shape[1] :])
        return explained_variance

    def __iter__(self) -> Iterator[RolloutBatch]:
        """Yield the mini-batches of all epochs, each with the same share of relabelled rows."""
        relabelled = iter(() if self.relabelled is None else self.relabelled.epochs)
        for batch in super().__iter__():
            # From 1/2 for the first block to 0 for the leader, which only exploits.
            weight = 0.5 * batch.obs[BLOCK].squeeze(-1) / max(self.num_blocks - 1, 1)
            more = next(relabelled, None)
            joint = batch if more is None else joined(batch, more)
            yield replace(joint, record={**joint.record, "entropy_weight": weight})


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
