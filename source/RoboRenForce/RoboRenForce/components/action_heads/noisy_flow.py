"""A flow with noise in its steps: a Markov chain of normal distributions from noise to actions, which has densities.

What is drawn is recorded, point by point. Its log-probability under other weights takes the network at the recorded
points only; nothing is drawn or integrated again.

Shape letters: B observations, K steps, H actions of a chunk, A dimensions of an action.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from .action_head import Evaluation
from .normal import normal_entropy, normal_kl, normal_log_prob

Record = Mapping[str, Tensor]


@dataclass
class NoisyFlow:
    """The steps of B observations, under the weights of one network."""

    velocity: Callable[[Tensor, Tensor], Tensor]
    """From noisy chunks `(B, H, A)` and times `(B,)` to velocities."""
    law: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
    """From noisy chunks, velocities and times to mean and log-std of the next points, `(B, H, A)` each."""
    num_steps: int
    """K."""
    average: bool
    """Divide the log-probability of a whole chain by the number of its terms, K + 1."""

    def draw_one(self, x: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Record]:
        """Go from noise `x` to actions, with one noisy step for each observation and Euler steps otherwise."""
        step = torch.randint(self.num_steps, (len(x),), device=x.device, generator=generator)
        noise = torch.empty_like(x).normal_(generator=generator)
        before, after, log_prob = torch.zeros_like(x), torch.zeros_like(x), torch.zeros_like(x)
        for number, time in enumerate(self._times(x)):
            velocity = self.velocity(x, time)
            mean, log_std = self.law(x, velocity, time)
            drawn = mean + log_std.exp() * noise
            here = (step == number).view(-1, 1, 1)
            before = torch.where(here, x, before)
            after = torch.where(here, drawn, after)
            log_prob = torch.where(here, normal_log_prob(drawn, mean, log_std), log_prob)
            x = torch.where(here, drawn, x + velocity / self.num_steps)
        return x, {"before": before, "after": after, "step": step, "log_prob": log_prob}

    def draw_all(self, x: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Record]:
        """Go from noise `x` to actions by noisy steps."""
        chain, log_prob = [x], _start_log_prob(x)
        for time in self._times(x):
            mean, log_std = self.law(x, self.velocity(x, time), time)
            x = mean + log_std.exp() * torch.empty_like(x).normal_(generator=generator)
            log_prob = log_prob + normal_log_prob(x, mean, log_std)
            chain.append(x)
        return x, {"chain": torch.stack(chain, 1), "log_prob": log_prob / self._terms}

    def evaluate(self, record: Record) -> Evaluation:
        """Return log-probability and entropy `(B, H, A)` of the recorded steps; that of the start noise is constant."""
        if "step" in record:
            ((before, after, time),) = self._recorded(record)
            mean, log_std = self._step(before, time)
            return Evaluation(normal_log_prob(after, mean, log_std), normal_entropy(log_std))
        start = record["chain"][:, 0]
        log_prob, entropy = _start_log_prob(start), normal_entropy(torch.zeros_like(start))
        for before, after, time in self._recorded(record):
            mean, log_std = self._step(before, time)
            log_prob = log_prob + normal_log_prob(after, mean, log_std)
            entropy = entropy + normal_entropy(log_std)
        return Evaluation(log_prob / self._terms, entropy / self._terms)

    def divergence(self, reference: NoisyFlow, record: Record) -> Tensor:
        """KL(self || reference) `(B, H, A)` of the recorded steps' distributions, reduced as log-probabilities are."""
        steps = []
        for before, _, time in self._recorded(record):
            with torch.no_grad():
                other = reference._step(before, time)
            steps.append(normal_kl(*self._step(before, time), *other))
        return steps[0] if "step" in record else torch.stack(steps).sum(0) / self._terms

    def _step(self, x: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
        return self.law(x, self.velocity(x, time), time)

    @property
    def _terms(self) -> int:
        return self.num_steps + 1 if self.average else 1

    def _grid(self, device: torch.device) -> Tensor:
        """Times of the steps `(K,)`: the one place that knows them, for drawing and for evaluating."""
        return torch.arange(self.num_steps, device=device) / self.num_steps

    def _times(self, x: Tensor) -> Iterator[Tensor]:
        return (time.expand(len(x)) for time in self._grid(x.device).unbind())

    def _recorded(self, record: Record) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield points before and behind each recorded step, and its times."""
        if "step" in record:
            yield record["before"], record["after"], self._grid(record["step"].device)[record["step"]]
        else:
            points = record["chain"].unbind(1)
            yield from zip(points, points[1:], self._times(points[0]), strict=False)


def _start_log_prob(noise: Tensor) -> Tensor:
    zero = torch.zeros_like(noise)
    return normal_log_prob(noise, zero, zero)
