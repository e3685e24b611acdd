"""Base class of return heads, which define what a Q critic predicts about the return and how it is trained.

A head owns no weights. The network's members output `out_features` numbers per state and action; the head interprets
them (a value, a categorical or normal distribution, quantiles), computes targets from the successor's output and
compares both. An algorithm that trains its critics through a head becomes distributional by its configuration.

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
"""Combination of the members' predictions into targets.

`min`: for each sample the member with the smallest mean, as a whole (clipped double Q-learning); `mean`: all of them
mixed; `own`: each member its own.
"""
_AGGREGATES: tuple[str, ...] = get_args(Aggregate)


class ReturnHead(nn.Module, ABC):
    """Interpretation of a critic's output; see the module. Built by `ReturnHeadCfg.build(num_members=E)`.

    Everything runs on the device without waiting for the host, and state is written in place, so targets and losses can
    be part of a CUDA graph.
    """

    out_features: int
    """O, number of outputs of a member per state and action."""
    target_dims: int
    """Number of target dimensions after the batch's: 0 for values, 1 for distributions."""

    def __init__(self, cfg: ReturnHeadCfg, num_members: int) -> None:
        super().__init__()
        self.num_members = num_members

    @abstractmethod
    def mean(self, output: Tensor) -> Tensor:
        """Return the expected returns `(E, ...)` of the network's output `(E, ..., O)`."""

    @torch.no_grad()
    def target(
        self,
        next_output: Tensor,
        bonus: Tensor | float,
        reward: Tensor,
        discount: Tensor,
        aggregate: Aggregate = "min",
    ) -> Tensor:
        """Return the regression target `reward + discount * (Z(successor) + bonus)`.

        Args:
            next_output: `(E, ..., O)`, usually of a target network.
            bonus: `(...)`, added to the successor's value, like the entropy bonus `-alpha log pi`; or 0.
            reward: `(...)`.
            discount: `(...)`, 0 where the episode terminated.
            aggregate: See `Aggregate`.

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
        """Return the losses `(E, ...)`, one per member and sample.

        Args:
            output: `(E, ..., O)`.
            target: From `target`; one for all members or one for each.
            weight: `(...)`, weight of the samples in the statistics that a head keeps of its batches: 0 for padding. It
                does not enter the losses.
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
        """Return targets of the return `shift + discount * Z(successor)`."""

    @abstractmethod
    def _loss(self, output: Tensor, target: Tensor, weight: Tensor | None) -> Tensor:
        """Return `loss` for arguments whose shapes fit."""

    def metrics(self) -> dict[str, Tensor]:
        """Return 0-dim tensors about the last batch, by name; the next batch overwrites them."""
        return {}

    def warning(self, metrics: Mapping[str, float]) -> str | None:
        """Return a warning about the head's settings based on `metrics`, read on the host; None if all is well."""
        return None


@configclass
class ReturnHeadCfg(Cfg):
    """Base of every return head's configuration."""

    class_type: type = ReturnHead


def scalar_target(value: Tensor, shift: Tensor, discount: Tensor, aggregate: Aggregate) -> Tensor:
    """Return `shift + discount * value` for the members' values `(E, ...)`, aggregated over the members if asked."""
    if aggregate == "min":
        value = value.amin(0)
    elif aggregate == "mean":
        value = value.mean(0)
    return torch.addcmul(shift, discount, value)


def take_smallest(mean: Tensor, output: Tensor) -> Tensor:
    """Select per sample the output of the member with the smallest mean: `(E, ...), (E, ..., O) -> (..., O)`."""
    if output.shape[0] == 1:
        return output[0]
    index = mean.argmin(0, keepdim=True).unsqueeze(-1).expand(1, *output.shape[1:])
    return output.gather(0, index).squeeze(0)


def batch_means(x: Tensor, weight: Tensor | None) -> Tensor:
    """Return means `(K,)` of `x` `(K, ..., *batch)` with weights `(*batch)`; 0 where all weights are 0."""
    if weight is None:
        return x.flatten(1).mean(1)
    copies = x[0].numel() // weight.numel()
    total = (weight.sum() * copies).clamp(min=torch.finfo(x.dtype).tiny)
    return (x * weight).flatten(1).sum(1) / total
