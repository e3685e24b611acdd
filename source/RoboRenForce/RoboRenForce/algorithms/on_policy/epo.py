"""Evolutionary policy optimization: SAPG whose block vectors are a population that a genetic algorithm improves.

Wang, Su, Gupta, Pathak 2025 (arXiv 2503.19037). PPO trains the shared weights; every few updates the vectors of the
worst blocks are replaced by the mean of those of good ones. The leader's vectors are never replaced.

The paper and the released code differ, see `EvolutionCfg`; the defaults are the code's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn

from ...buffer.transition import Transition
from ...components.optimizer import FlatAdam
from ...configclass import Cfg, ConfigError, Range, configclass
from ..algorithm import RunContext
from ..functional.evolution import next_generation, random_pairs, spread_exceeds
from .sapg import SAPGPPOCfg


class Evolution:
    """Fitness of the blocks, and the replacement of their genes.

    The gene of a block is its row of all `tables`. Its fitness is the mean return (or success) of the episodes that
    began after the last replacement; there is none before every environment has finished such an episode.

    Args:
        cfg: Options.
        tables: Parameters `(num_blocks, ...)`; row 0 is the leader's, row k that of the block k before it.
        optimizer: Optimizer of the tables, which forgets the moments of replaced rows.
        context: Context of the run.
    """

    def __init__(
        self, cfg: EvolutionCfg, tables: Sequence[nn.Parameter], optimizer: FlatAdam, context: RunContext
    ) -> None:
        self.cfg, self.tables, self.optimizer, self.distributed = cfg, tables, optimizer, context.distributed
        spec, device = context.spec, context.device
        self.num_blocks = spec.num_blocks
        self.num_children = max(1, round(cfg.replaced_share * self.num_blocks)) if cfg.rule == "aggressive" else 1
        if cfg.num_elites + self.num_children > self.num_blocks:
            raise ConfigError(
                f"algorithm.evolution keeps {cfg.num_elites} elites and replaces {self.num_children} of "
                f"{self.num_blocks} blocks, which are too few: raise env.groups.num_blocks."
            )
        if cfg.fitness == "success" and "success" not in spec.extras:
            raise ConfigError(
                f"algorithm.evolution.fitness is 'success', which '{spec.task}' does not define: use 'return'."
            )
        self.updates, self.newest = 0, 0
        """Updates so far, and those when the fitness was last compared."""
        self.generations = torch.zeros((), device=device)
        """Number of replacements."""
        self._running = torch.zeros(spec.num_envs, device=device)
        self._fresh = torch.zeros(spec.num_envs, dtype=torch.bool, device=device)
        self._finished = torch.zeros_like(self._fresh)
        self._sums = torch.zeros(2, spec.num_envs, device=device)

    @torch.no_grad()
    def record(self, transition: Transition) -> None:
        """Add a step, with the environment's reward."""
        ended = transition.done != 0
        self._running.add_(transition.reward)
        score: Any = self._running if self.cfg.fitness == "return" else transition.success
        counted = ended & self._fresh
        self._sums[0].addcmul_(score, counted)
        self._sums[1].add_(counted)
        self._finished.logical_or_(counted)
        self._running.masked_fill_(ended, 0.0)
        self._fresh.logical_or_(ended)

    @torch.no_grad()
    def step(self) -> None:
        """Replace genes if it is time and every environment has finished an episode since the last replacement."""
        cfg = self.cfg
        self.updates += 1
        if self.updates < cfg.warmup_updates or self.updates - self.newest < cfg.interval_updates:
            return
        # From here on the host waits for the device, as replacements are rare.
        unfinished = (~self._finished).sum().to(self._sums.dtype)
        sums, counts = self._sums.view(2, self.num_blocks, -1).sum(-1)
        packed = self.distributed.sum_(torch.cat([sums, counts, unfinished.view(1)]))
        if float(packed[-1]):
            return
        sums, counts = packed[:-1].view(2, self.num_blocks)
        fitness = (sums / counts).flip(0)  # row 0 is the leader's, the last block
        self.newest = self.updates
        if cfg.trigger is None or bool(spread_exceeds(fitness, cfg.trigger)):
            self.replace(fitness)
        self._forget_episodes()

    @torch.no_grad()
    def replace(self, fitness: Tensor) -> None:
        """Replace the worst genes, given the fitness `(num_blocks,)` of each row."""
        genes = torch.cat([table.flatten(1) for table in self.tables], dim=1)
        noise = self.cfg.mutation * genes.std(0) * torch.randn(self.num_children, genes.shape[1], device=genes.device)
        pairs = random_pairs(self.num_children, self.cfg.num_elites, genes.device)
        genes, replaced = next_generation(genes, fitness, pairs, noise)
        # Pairs and noise are those of the main process.
        self.distributed.broadcast_(genes)
        widths = [table[0].numel() for table in self.tables]
        for table, rows in zip(self.tables, genes.split(widths, dim=1), strict=True):
            table.copy_(rows.view_as(table))
            if table.requires_grad:
                self.optimizer.forget(table, replaced)
        self.generations.add_(1.0)

    def restart_episodes(self) -> None:
        """Discard the running episodes."""
        self._running.zero_()
        self._fresh.zero_()

    def _forget_episodes(self) -> None:
        """Count only episodes that begin from now on."""
        for tensor in (self._fresh, self._finished, self._sums):
            tensor.zero_()

    def state_dict(self) -> dict[str, Any]:
        """Return counters and the episodes so far."""
        counters = {"updates": self.updates, "newest": self.newest, "generations": self.generations.clone()}
        return counters | {name: tensor.clone() for name, tensor in self._episodes().items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore `state_dict`; with another number of environments, their episodes count from now on."""
        self.updates, self.newest = int(state["updates"]), int(state["newest"])
        self.generations.copy_(state["generations"])
        for name, tensor in self._episodes().items():
            if state[name].shape == tensor.shape:
                tensor.copy_(state[name])
            else:
                tensor.zero_()

    def _episodes(self) -> dict[str, Tensor]:
        return {"running": self._running, "fresh": self._fresh, "finished": self._finished, "sums": self._sums}


@configclass
class EvolutionCfg(Cfg):
    """Options of `Evolution`. The released code has `official` and no trigger; the paper has the rest."""

    class_type: type = Evolution
    rule: Literal["official", "aggressive"] = "official"
    """official: the worst block gets the mean of the two best; aggressive: a share of them gets that of two elites."""
    interval_updates: Annotated[int, Range(ge=1)] = 50
    """Least number of updates between two replacements."""
    warmup_updates: Annotated[int, Range(ge=0)] = 500
    """Updates before the first replacement."""
    num_elites: Annotated[int, Range(ge=2)] = 2
    """Number of best blocks that parents are drawn from; they are never replaced."""
    replaced_share: Annotated[float, Range(gt=0, lt=1)] = 0.3
    """Share of blocks that `aggressive` replaces."""
    mutation: Annotated[float, Range(ge=0)] = 0.0
    """Deviation of the noise on children, relative to that of the vectors over the blocks."""
    trigger: Annotated[float, Range(gt=0)] | None = None
    """Replace only if max f - min f > trigger (|median f| + 1e-6) for the fitness f; None: always. It depends on the
    zero of the reward."""
    fitness: Literal["return", "success"] = "return"
    """Fitness: return of the environment's reward, or success."""

    def check(self) -> Iterable[str]:
        """Check that the official rule is left as it is."""
        if self.rule == "official" and self.num_elites != 2:
            yield f"num_elites: the official rule has 2 parents, got {self.num_elites}; set rule=aggressive"


@configclass
class EPOCfg(SAPGPPOCfg):
    """Configuration of EPO: SAPG with `evolution`."""

    evolution = EvolutionCfg()
