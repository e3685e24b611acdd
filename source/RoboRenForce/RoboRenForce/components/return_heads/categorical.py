"""The return as a categorical distribution over fixed atoms (C51: Bellemare et al. 2017, arXiv 1707.06887).

The support `[v_min, v_max]` has to contain the returns, about `reward / (1 - gamma)`. A support that is too small clips
them silently: the probability at the outermost atoms is logged as a metric, and `warning` explains it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated

import torch
from torch import Tensor
from typing_extensions import override

from ...configclass import Range, configclass
from .return_head import Aggregate, ReturnHead, ReturnHeadCfg, batch_means, take_smallest


def project(probability: Tensor, shift: Tensor, discount: Tensor, v_min: float, v_max: float) -> Tensor:
    """Return the distribution of `shift + discount * Z` on the atoms of `Z`.

    Every moved atom splits its probability between its two neighbors in proportion to nearness, which keeps the mean;
    probability outside the support goes to the outermost atom. A GPU adds the shares in any order, so the last digit
    varies between runs unless torch.use_deterministic_algorithms(True) is set.

    Args:
        probability: `(..., n)` over `n` equidistant atoms from `v_min` to `v_max`, with any leading dimensions.
        shift: `(...)`, must broadcast against the leading dimensions of `probability`, as `discount`.
        discount: `(...)`.
        v_min: Smallest atom.
        v_max: Largest atom.
    """
    last = probability.shape[-1] - 1
    step = (v_max - v_min) / last
    # In units of atoms, atom j moves to first + discount * j: without rounding for shift 0 and discount 1.
    first = torch.add(shift, discount - 1.0, alpha=v_min) / step
    index = torch.arange(last + 1, device=probability.device, dtype=probability.dtype)
    position = torch.addcmul(first.unsqueeze(-1), discount.unsqueeze(-1), index).clamp_(0.0, last)
    # The lower neighbor is never the last atom, so that a position on an atom needs no special case. Clamped as an
    # integer, because a NaN must become a NaN loss instead of an index outside of the tensor.
    lower = position.long().clamp_(0, last - 1)
    upward = probability * (position - lower)
    lower = lower.expand_as(probability)
    projected = torch.zeros_like(probability).scatter_add_(-1, lower, probability - upward)
    projected[..., 1:].scatter_add_(-1, lower, upward)
    return projected


class CategoricalHead(ReturnHead):
    """Logits `(E, ..., num_atoms)`, trained by the cross-entropy with the projected target distribution."""

    target_dims = 1
    atoms: Tensor
    edge_mass: Tensor

    def __init__(self, cfg: CategoricalHeadCfg, num_members: int) -> None:
        super().__init__(cfg, num_members)
        self.cfg = cfg
        self.out_features = cfg.num_atoms
        self.register_buffer("atoms", torch.linspace(cfg.v_min, cfg.v_max, cfg.num_atoms), persistent=False)
        self.register_buffer("edge_mass", torch.zeros(2), persistent=False)

    @override
    def mean(self, output: Tensor) -> Tensor:
        return self._expectation(output.softmax(-1))

    def _expectation(self, probability: Tensor) -> Tensor:
        # Not a matrix product, which autocast would compute in half precision.
        return (probability * self.atoms).sum(-1)

    @override
    def _target(self, next_output: Tensor, shift: Tensor, discount: Tensor, aggregate: Aggregate) -> Tensor:
        probability = next_output.softmax(-1)
        if aggregate == "min":
            probability = take_smallest(self._expectation(probability), probability)
        elif aggregate == "mean":
            probability = probability.mean(0)
        return project(probability, shift, discount, self.cfg.v_min, self.cfg.v_max)

    @override
    def _loss(self, output: Tensor, target: Tensor, weight: Tensor | None) -> Tensor:
        edges = target.detach()[..., :: self.cfg.num_atoms - 1]  # (..., 2)
        self.edge_mass.copy_(batch_means(edges.movedim(-1, 0), weight))
        return -(target * output.log_softmax(-1)).sum(-1)

    @override
    def metrics(self) -> dict[str, Tensor]:
        """Return the mean probability of the targets' outermost atoms."""
        return {"edge_mass_low": self.edge_mass[0], "edge_mass_high": self.edge_mass[1]}

    @override
    def warning(self, metrics: Mapping[str, float]) -> str | None:
        """Return a warning if the outermost atoms hold more probability than returns inside the support explain."""
        cfg = self.cfg
        limit = max(0.05, 2.0 / cfg.num_atoms)
        crowded = [
            f"{100 * metrics[name]:.0f}% of the probability at {bound}={value:g}"
            for name, bound, value in (("edge_mass_low", "v_min", cfg.v_min), ("edge_mass_high", "v_max", cfg.v_max))
            if metrics[name] > limit
        ]
        if not crowded:
            return None
        return (
            f"CategoricalHead's targets have {' and '.join(crowded)}, expected at most {100 * limit:.0f}%: returns "
            f"beyond the support [{cfg.v_min:g}, {cfg.v_max:g}] are clipped. Widen v_min and v_max until they contain "
            f"reward / (1 - gamma), or scale the rewards down."
        )


@configclass
class CategoricalHeadCfg(ReturnHeadCfg):
    """Configuration of a `CategoricalHead`."""

    class_type: type = CategoricalHead
    num_atoms: Annotated[int, Range(ge=2)] = 101
    """Number of atoms."""
    v_min: float = -10.0
    """Smallest return that can be represented."""
    v_max: float = 10.0
    """Largest return that can be represented."""

    def check(self) -> Iterable[str]:
        """Check that the support is an interval."""
        if not self.v_min < self.v_max:
            yield f"v_min: {self.v_min} is not below v_max={self.v_max}; expected the range of the returns"
