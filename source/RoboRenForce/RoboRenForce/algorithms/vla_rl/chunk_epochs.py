"""Epochs of gradient steps over the decisions of a rollout: mini-batches, and micro-batches that add up to them."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ...components.lr_schedule import adapt_to_kl_
from ...components.torch_optimizer import TorchOptimizer
from ...utils.distributed import DistributedContext
from ...utils.errors import NotEnoughMemory
from ..vla_training.memory import memory_shortage
from ..vla_training.reference import Reference
from .acting_memory import LESS
from .chunk_collector import RECORD
from .co_training import CoTraining
from .options import PolicyGradientOptions
from .policy_gradient import ChunkBatch
from .sample_store import SampleStore

logger = logging.getLogger(__name__)


class ChunkEpochs:
    """Takes the gradient steps of an update.

    Args:
        cfg: Options.
        module: A `PolicyGradientModule`, parallel if there are several processes.
        optimizer: Of its trained parameters.
        distributed: Processes of the run.
        co_training: Demonstrations to go on learning from, if any.
    """

    def __init__(
        self,
        cfg: PolicyGradientOptions,
        module: nn.Module,
        optimizer: TorchOptimizer,
        distributed: DistributedContext,
        co_training: CoTraining | None,
    ) -> None:
        self.cfg, self.module, self.optimizer, self.distributed = cfg, module, optimizer, distributed
        self.co_training = co_training
        self.micro_batch_size = cfg.micro_batch_size
        """Most decisions of a forward pass; None: a mini-batch."""

    def run(
        self, store: SampleStore, batch: ChunkBatch, reference: Reference | None, *, trains_policy: bool
    ) -> dict[str, Tensor]:
        """Take all steps of an update; returns 0-dim means over the steps.

        Args:
            store: Samples of the decisions.
            batch: Everything else about them, without samples.
            reference: The policy to stay close to, if there is one.
            trains_policy: False to train the value alone.
        """
        used = batch.weight.nonzero().squeeze(1)
        mini_batches = self._mini_batches(len(used))
        if not mini_batches:
            return self._numbers({}, steps=0)
        history: list[dict[str, Tensor]] = []
        for _ in range(self.cfg.num_learning_epochs):
            order = used[torch.randperm(len(used), device=used.device)]
            for index in order.tensor_split(mini_batches):
                metrics = self._backward(store, batch, index, reference, trains_policy)
                if trains_policy and self._too_far(metrics["actor/approx_kl"]):
                    self.optimizer.accumulate(1)
                    return self._numbers(_means([*history, metrics]), steps=len(history))
                metrics["actor/grad_norm"] = self.optimizer.step()["all"]
                history.append(metrics)
        return self._numbers(_means(history), steps=len(history))

    def _backward(
        self, store: SampleStore, batch: ChunkBatch, index: Tensor, reference: Reference | None, trains_policy: bool
    ) -> dict[str, Tensor]:
        """Compute the gradient of one mini-batch, in micro-batches half as large where memory runs out."""
        demonstrations = None if self.co_training is None or not trains_policy else self.co_training.next()
        while True:
            size = max(min(self.micro_batch_size or len(index), len(index)), 1)
            try:
                return self._accumulate(store, batch, index.split(size), demonstrations, reference, trains_policy)
            except RuntimeError as error:
                if memory_shortage(error) is None:
                    raise
                if size == 1 or self.distributed.is_distributed:  # other processes would wait for this one
                    raise NotEnoughMemory(
                        f"A micro-batch of {size} decisions does not fit into the memory of the device: set "
                        "algorithm.micro_batch_size lower, algorithm.parallel.activation_checkpointing=true, or take "
                        f"fewer environments; {LESS}"
                    ) from error
            # Outside of `except`, whose traceback keeps the activations alive.
            self.micro_batch_size = -(-size // 2)
            torch.cuda.empty_cache()
            logger.info("Memory ran out: micro-batches have %d decisions from now on.", self.micro_batch_size)

    def _accumulate(
        self,
        store: SampleStore,
        batch: ChunkBatch,
        parts: tuple[Tensor, ...],
        demonstrations: Mapping[str, Any] | None,
        reference: Reference | None,
        trains_policy: bool,
    ) -> dict[str, Tensor]:
        totals = self._totals(batch.rows(torch.cat(parts)), dims=store.rows[RECORD + "log_prob"].shape[2])
        self.optimizer.accumulate(len(parts))
        sums: dict[str, Tensor] = {}
        for number, index in enumerate(parts):
            if len(index):
                micro = batch.rows(index)
            else:  # other processes have decisions left, and wait for gradients of this one
                index = index.new_zeros(1)
                micro = batch.rows(index).without_weight()
            micro.samples, micro.totals = store.take(index), totals
            if reference is not None and trains_policy:
                micro.reference_prefix = reference.encode(self.module, micro.samples)
            data = demonstrations if number == 0 else None
            loss, metrics = self.module(micro, data, trains_policy=trains_policy)
            # The parts of the loss add up, and the optimizer takes means.
            self.optimizer.backward(loss * len(parts))
            sums = {name: sums[name] + value if name in sums else value for name, value in metrics.items()}
        return sums

    def _totals(self, batch: ChunkBatch, dims: int) -> dict[str, Tensor]:
        """Weights of all elements of a mini-batch, by level; over all processes, whose gradients are averaged."""
        executed = batch.executed.to(batch.weight.dtype)
        width = batch.value.shape[1]
        judged = executed.clamp(max=max(width, 1)).sum()
        weights = {"chunk": batch.weight.sum(), "action": (batch.weight * executed).sum(), "value": judged}
        weights["token"] = weights["action"] * dims
        stacked = torch.stack(list(weights.values()))
        stacked = self.distributed.sum_(stacked) / self.distributed.world_size
        return dict(zip(weights, stacked.clamp(min=1e-6).unbind(0), strict=True))

    def _too_far(self, kl: Tensor) -> bool:
        """Adapt the learning rate to the KL, and tell whether to stop."""
        cfg = self.cfg
        kl = self.distributed.sum_(kl.clone()) / self.distributed.world_size
        if cfg.desired_kl is not None:
            adapt_to_kl_(self.optimizer.lr, kl, cfg.desired_kl, lowest=cfg.min_lr, highest=cfg.max_lr)
        return cfg.kl_stop is not None and bool(kl > cfg.kl_stop)

    def _mini_batches(self, samples: int) -> int:
        """As many as configured, but none is empty in all processes, which take as many steps; 0 without samples."""
        distributed = self.distributed
        if distributed.is_distributed:
            counts = torch.zeros(distributed.world_size, device=self.optimizer.lr.device)
            counts[distributed.rank] = samples
            samples = int(distributed.sum_(counts).max())
        return min(self.cfg.num_mini_batches, samples)

    def _numbers(self, means: dict[str, Tensor], steps: int) -> dict[str, Tensor]:
        """Add what is known also if no step was taken."""
        lr = self.optimizer.current_lr
        return means | {"actor/lr": lr.clone(), "actor/num_steps": torch.full_like(lr, float(steps))}


def _means(history: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Average each metric over the steps that have it."""
    names = dict.fromkeys(name for step in history for name in step)
    return {name: torch.stack([step[name] for step in history if name in step]).mean() for name in names}
