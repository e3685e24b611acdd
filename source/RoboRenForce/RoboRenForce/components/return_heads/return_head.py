"""The base of return heads: what an action-value network predicts about the return, and how it is trained.

A head owns no weights. The network's members emit `out_features` numbers per state and action; the head says what
they mean (a value, a categorical or normal distribution, quantiles), makes targets of the successor's output and
compares the two. An algorithm that trains its critics through a head is distributional by a change of configuration.

Shape letters: E members, O `out_features`; `...` are batch dimensions, `(B,)` or `(T, B)`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor, nn

from ...configclass import Cfg, ConfigError, configclass
from ...configclass.errors import did_you_mean

Aggregate: TypeAlias = Literal["min", "mean", "own"]
"""How the members' predictions for the successor become targets: per sample the one with the smallest mean as a whole
(clipped double Q-learning), all of them mixed, or every member's own."""
_AGGREGATES: tuple[str, ...] = get_args(Aggregate)


class ReturnHead(nn.Module, ABC):
    """See the module. Built by `ReturnHeadCfg.build(num_members=E)`.

    Everything runs on the device without a word to the host, and state is written in place, so that targets and losses
    can be part of a CUDA graph.
    """

    out_features: int
    """O: numbers that a member emits per state and action."""
    target_dims: int
    """Dimensions of a target behind the batch's: 0 for values, 1 for distributions."""

    def __init__(self, cfg: ReturnHeadCfg, num_members: int) -> None:
        super().__init__()
        self.num_members = num_members

    @abstractmethod
    def mean(self, output: Tensor) -> Tensor:
        """Expected returns `(E, ...)` of the network's output `(E, ..., O)`."""

    @torch.no_grad()
    def target(
        self,
        next_output: Tensor,
        bonus: Tensor | float,
        reward: Tensor,
        discount: Tensor,
        aggregate: Aggregate = "min",
    ) -> Tensor:
        """What `loss` compares with: the return `reward + discount * (Z(successor) + bonus)`.

        Args:
            next_output: `(E, ..., O)`, usually of a target network.
            bonus: `(...)`, what the successor's value is raised by, like the entropy bonus `-alpha log pi`; or 0.
            reward: `(...)`.
            discount: `(...)`, 0 where the episode terminated.
            aggregate: see `Aggregate`.

        Returns:
            `(..., *target)`, or `(E, ..., *target)` for `aggregate="own"`; without gradient.
        """
        if aggregate not in _AGGREGATES:
            raise ConfigError(f"Unknown aggregate '{aggregate}'; {did_you_mean(aggregate, _AGGREGATES)}")
        batch = next_output.shape[1:-1]
        tensors = {"reward": reward, "discount": discount}
        if isinstance(bonus, Tensor):
            tensors["bonus"] = bonus
        for name, tensor in tensors.items():
            if tensor.shape != batch:
                raise ValueError(
                    f"{type(self).__name__} got {name} of shape {tuple(tensor.shape)} for a network output of shape "
                    f"{tuple(next_output.shape)}; expected {tuple(batch)}. Squeeze or expand it."
                )
        shift = reward + discount * bonus if isinstance(bonus, Tensor) or bonus else reward
        return self._target(next_output, shift, discount, aggregate)

    def loss(self, output: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
        """Losses `(E, ...)`, one per member and sample.

        Args:
            output: `(E, ..., O)`.
            target: from `target`; one for all members or one for each.
            weight: `(...)`, how much samples count in the statistics that a head keeps of its batches: padding does
                not. It does not enter the losses.
        """
        expected, leading = output.shape[:-1], target.shape[: target.dim() - self.target_dims]
        if leading not in (expected, expected[1:]):
            raise ValueError(
                f"{type(self).__name__} got a target of shape {tuple(target.shape)} for a network output of shape "
                f"{tuple(output.shape)}; expected {tuple(expected[1:])} or {tuple(expected)}"
                f"{' and one more dimension' if self.target_dims else ''}. Take it from the head's target()."
            )
        return self._loss(output, target, weight)

    @abstractmethod
    def _target(self, next_output: Tensor, shift: Tensor, discount: Tensor, aggregate: Aggregate) -> Tensor:
        """Targets of the return `shift + discount * Z(successor)`."""

    @abstractmethod
    def _loss(self, output: Tensor, target: Tensor, weight: Tensor | None) -> Tensor:
        """`loss` of arguments whose shapes fit."""

    def metrics(self) -> dict[str, Tensor]:
        """0-dim tensors on the last batch, by name; they are overwritten by the next one."""
        return {}

    def warning(self, metrics: Mapping[str, float]) -> str | None:
        """A sentence on what `metrics`, read on the host, say is wrong with the head's settings; None if nothing."""
        return None


@configclass
class ReturnHeadCfg(Cfg):
    """Base of every return head's configuration."""

    class_type: type = ReturnHead


def take_smallest(mean: Tensor, output: Tensor) -> Tensor:
    """Per sample what the member with the smallest mean emits: `mean (E, ...)`, `output (E, ..., O) -> (..., O)`."""
    if output.shape[0] == 1:
        return output[0]
    index = mean.argmin(0, keepdim=True).unsqueeze(-1).expand(1, *output.shape[1:])
    return output.gather(0, index).squeeze(0)


def batch_means(x: Tensor, weight: Tensor | None) -> Tensor:
    """Means `(K,)` of `x` `(K, ..., *batch)` with weights `(*batch)`; 0 where all weights are."""
    if weight is None:
        return x.flatten(1).mean(1)
    copies = x[0].numel() // weight.numel()
    total = (weight.sum() * copies).clamp(min=torch.finfo(x.dtype).tiny)
    return (x * weight).flatten(1).sum(1) / total
