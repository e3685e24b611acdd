"""Steps of a genetic algorithm over the rows of a table. Pure functions."""

from __future__ import annotations

import torch
from torch import Tensor


def next_generation(genes: Tensor, fitness: Tensor, parents: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Replace the worst genes by the mean of two good ones (Wang et al. 2025, arXiv 2503.19037).

    Args:
        genes: `(M, D)`; row 0 is the leader's and never replaced.
        fitness: `(M,)`, higher is better.
        parents: int64 `(R, 2)`, ranks of the parents of each child: 0 is the best.
        noise: `(R, D)`, added to the children (mutation).

    Returns:
        The new genes, and bool `(M,)`: True where a gene was replaced. The worst of all gets the first child.
    """
    by_fitness = fitness.argsort(descending=True, stable=True)
    first, second = genes[by_fitness[parents]].unbind(1)
    leader_last = fitness.index_fill(0, torch.zeros(1, dtype=torch.int64, device=fitness.device), torch.inf)
    worst = leader_last.argsort(stable=True)[: len(parents)]
    replaced = torch.zeros_like(fitness, dtype=torch.bool).index_fill(0, worst, True)
    return genes.index_copy(0, worst, 0.5 * (first + second) + noise), replaced


def random_pairs(count: int, num_elites: int, device: torch.device) -> Tensor:
    """Return ranks of two different parents among the `num_elites` best for each child, int64 `(count, 2)`."""
    first = torch.randint(num_elites, (count,), device=device)
    step = torch.randint(1, num_elites, (count,), device=device)
    return torch.stack([first, (first + step) % num_elites], dim=1)


def spread_exceeds(fitness: Tensor, factor: float, eps: float = 1e-6) -> Tensor:
    """Return bool 0-dim: max f - min f > factor (|median f| + eps), by which the paper decides on a new generation."""
    return fitness.max() - fitness.min() > factor * (fitness.median().abs() + eps)
