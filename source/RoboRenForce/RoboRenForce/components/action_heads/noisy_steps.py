"""Denoising with noise in its steps: normal distributions from noise to actions, which have densities.

What is drawn is recorded, point by point. Its log-probability under other weights takes the network at the recorded
points only; nothing is drawn or integrated again.

Shape letters: B observations, K steps, H actions of a chunk, A dimensions of an action.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import override

from .action_head import Evaluation
from .normal import normal_entropy, normal_kl, normal_log_prob

Record = Mapping[str, Tensor]
Law = tuple[Tensor, Tensor]
"""Mean and log-std `(B, H, A)` of a normal distribution."""


@dataclass
class NoisySteps(ABC):
    """The steps of B observations, under the weights of one network."""

    num_steps: int
    """K."""

    @abstractmethod
    def draw(self, x: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Record]:
        """Go from noise `x` `(B, H, A)` to actions; returns the record, with `log_prob`, too."""

    @abstractmethod
    def evaluate(self, record: Record) -> Evaluation:
        """Return log-probability and entropy `(B, H, A)` of what was drawn."""

    @abstractmethod
    def laws(self, record: Record) -> list[Law]:
        """Return the distribution of each recorded draw, at the recorded points."""

    def divergence(self, reference: NoisySteps, record: Record) -> Tensor:
        """KL(self || reference) `(B, H, A)` of the distributions that were drawn from, reduced as log-probabilities."""
        with torch.no_grad():
            others = reference.laws(record)
        steps = [normal_kl(*mine, *other) for mine, other in zip(self.laws(record), others, strict=True)]
        return torch.stack(steps).sum(0) / self._terms

    @property
    def _terms(self) -> int:
        """What log-probabilities are divided by."""
        return 1


@dataclass
class NoisyChain(NoisySteps):
    """Noise in every step: the density is that of the whole path, with the constant one of the start noise."""

    law: Callable[[Tensor, int], Law]
    """From points `(B, H, A)` and the number of the step to the distribution of the next points."""
    average: bool
    """Divide by the number of the terms, K + 1."""

    @override
    def draw(self, x: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Record]:
        """As in the base class; the record has all points, `chain` `(B, K + 1, H, A)`."""
        chain, log_prob = [x], _standard_log_prob(x)
        for number in range(self.num_steps):
            mean, log_std = self.law(x, number)
            x = mean + log_std.exp() * torch.empty_like(x).normal_(generator=generator)
            log_prob = log_prob + normal_log_prob(x, mean, log_std)
            chain.append(x)
        return x, {"chain": torch.stack(chain, 1), "log_prob": log_prob / self._terms}

    @override
    def evaluate(self, record: Record) -> Evaluation:
        """As in the base class."""
        start, *points = record["chain"].unbind(1)
        log_prob, entropy = _standard_log_prob(start), normal_entropy(torch.zeros_like(start))
        for after, (mean, log_std) in zip(points, self.laws(record), strict=True):
            log_prob = log_prob + normal_log_prob(after, mean, log_std)
            entropy = entropy + normal_entropy(log_std)
        return Evaluation(log_prob / self._terms, entropy / self._terms)

    @override
    def laws(self, record: Record) -> list[Law]:
        """As in the base class; one pass of the network for each step."""
        return [self.law(point, number) for number, point in enumerate(record["chain"].unbind(1)[:-1])]

    @property
    @override
    def _terms(self) -> int:
        return self.num_steps + 1 if self.average else 1


@dataclass
class OneNoisyStep(NoisySteps):
    """Noise in one step of a flow, another one for each observation, and Euler steps otherwise."""

    velocity: Callable[[Tensor, Tensor], Tensor]
    """From points `(B, H, A)` and times `(B,)` to velocities."""
    law: Callable[[Tensor, Tensor, Tensor], Law]
    """From points, velocities and times to the distribution of the next points, if the step is noisy."""

    @override
    def draw(self, x: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Record]:
        """As in the base class; the record has the number of the step, and the points `before` and `after` it."""
        step = torch.randint(self.num_steps, (len(x),), device=x.device, generator=generator)
        noise = torch.empty_like(x).normal_(generator=generator)
        before, after, log_prob = torch.zeros_like(x), torch.zeros_like(x), torch.zeros_like(x)
        for number, time in enumerate(step_times(self.num_steps, x.device)):
            time = time.expand(len(x))
            velocity = self.velocity(x, time)
            mean, log_std = self.law(x, velocity, time)
            drawn = mean + log_std.exp() * noise
            here = (step == number).view(-1, 1, 1)
            before = torch.where(here, x, before)
            after = torch.where(here, drawn, after)
            log_prob = torch.where(here, normal_log_prob(drawn, mean, log_std), log_prob)
            x = torch.where(here, drawn, x + velocity / self.num_steps)
        return x, {"before": before, "after": after, "step": step, "log_prob": log_prob}

    @override
    def evaluate(self, record: Record) -> Evaluation:
        """As in the base class, by one pass of the network."""
        ((mean, log_std),) = self.laws(record)
        return Evaluation(normal_log_prob(record["after"], mean, log_std), normal_entropy(log_std))

    @override
    def laws(self, record: Record) -> list[Law]:
        """As in the base class: of the one noisy step."""
        before, step = record["before"], record["step"]
        time = step_times(self.num_steps, step.device)[step]
        return [self.law(before, self.velocity(before, time), time)]


def step_times(num_steps: int, device: torch.device) -> Tensor:
    """Times of Euler steps `(K,)`: the one place that knows them, for drawing and for evaluating."""
    return torch.arange(num_steps, device=device) / num_steps


def _standard_log_prob(noise: Tensor) -> Tensor:
    zero = torch.zeros_like(noise)
    return normal_log_prob(noise, zero, zero)
