"""Episode statistics, gathered on the environments' device and read once per iteration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

Ratio = tuple[Tensor, Tensor]
"""A mean as `(sum, count)`, both 0-dim; a count of zero means that there is nothing to report."""


class EpisodeStatistics:
    """Return, length and success of finished episodes, averaged over the last `window` of them.

    `record` takes a few in-place operations per step and never reads a value. Finished episodes are moved to the window
    once per iteration:

        step          t=0   t=1   t=2
        env 0 done     .     x     .       env 1 done     x     .     x
        window (oldest first)      [..., env1@0, env0@1, env1@2]

    Args:
        num_envs: Number of environments.
        steps: Maximum number of steps of an iteration.
        device: Device of the steps.
        success: True if the environment defines success.
        terms: Names of reward terms whose sums over an episode are averaged too; their extra is `reward_terms`.
        window: Number of episodes in the averages.
        counted: Environments whose episodes count, if not all: the leader's, where the others explore.
    """

    def __init__(
        self,
        num_envs: int,
        steps: int,
        device: torch.device,
        *,
        success: bool = False,
        terms: Sequence[str] = (),
        window: int = 100,
        counted: slice | None = None,
    ) -> None:
        self.window, self._counted = window, counted
        num_envs = len(range(num_envs)[counted or slice(None)])
        self._with_success, self._terms = success, tuple(terms)
        # Rows of return, length and reward terms; success, which no step adds to, comes last where finished.
        rows = 2 + len(self._terms)
        self._running = torch.zeros(rows, num_envs, device=device)
        self._returns, self._lengths, self._term_sums = self._running[0], self._running[1], self._running[2:]
        # One row per step of the iteration, filled in place.
        self._finished = torch.zeros(steps, rows + 1, num_envs, device=device)
        self._done = torch.zeros(steps, num_envs, dtype=torch.bool, device=device)
        # Views are made once: making them at every step would cost as much as the arithmetic.
        self._rows = [(done, row[:-1], row[-1]) for done, row in zip(self._done, self._finished, strict=True)]
        self._step = 0
        # The last slot takes the writes of episodes that are not finished and is never read.
        self._ring = torch.zeros(rows + 1, window + 1, device=device)
        self._count = torch.zeros((), dtype=torch.int64, device=device)

    def record(
        self,
        reward: Tensor,
        done: Tensor,
        success: Tensor | None = None,
        reward_terms: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> None:
        """Add one step of all environments, `(num_envs,)` each.

        Args:
            reward: Reward of the step, 0 in rows that waited.
            done: Nonzero where the episode ended.
            success: Success, if the environment defines it.
            reward_terms: `(num_envs, K)`, if their means are wanted.
            mask: False in rows that waited, or the number of actions that each row executed; None: one each.
        """
        ended, totals, succeeded = self._rows[self._step]
        ended.copy_(self._of(done))
        self._returns.add_(self._of(reward))
        self._lengths.add_(1.0 if mask is None else self._of(mask))
        if reward_terms is not None:
            self._term_sums.add_(self._of(reward_terms).t())
        totals.copy_(self._running)
        if success is not None:
            succeeded.copy_(self._of(success))
        self._running.masked_fill_(ended, 0.0)
        self._step += 1

    def collect(self) -> dict[str, Ratio]:
        """Move the finished episodes of this iteration to the window and return its means."""
        finished = self._finished[: self._step].transpose(0, 1).flatten(1)  # (rows, steps * num_envs), in order of time
        done = self._done[: self._step].flatten() & ~finished[0].isnan()
        rank = done.cumsum(0)
        newest = done & (rank > rank[-1] - self.window)  # more than fit would write one slot twice
        slot = torch.where(newest, (self._count + rank - 1) % self.window, self.window)
        self._ring[:, slot] = finished
        self._ring[:, -1] = 0.0
        self._count += rank[-1]
        self._step = 0
        count = self._count.clamp(max=self.window).float()
        returns, lengths, *terms, success = self._ring.sum(1)
        means = {"Train/mean_reward": (returns, count), "Train/mean_episode_length": (lengths, count)}
        means |= {f"Reward/{name}": (total, count) for name, total in zip(self._terms, terms, strict=True)}
        return means | ({"Train/success_rate": (success, count)} if self._with_success else {})

    @property
    def steps(self) -> int:
        """Return the number of steps since the last `collect`."""
        return self._step

    def state_dict(self) -> dict[str, Any]:
        """Return window and current episodes, between two iterations."""
        return {"running": self._running, "ring": self._ring, "count": self._count}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore `state_dict`; entries of another shape (other environments or terms) are reset."""
        if state["ring"].shape != self._ring.shape:
            return
        for name, here in self.state_dict().items():
            if state[name].shape == here.shape:
                here.copy_(state[name])

    def restart(self, ages: Tensor | None = None) -> None:
        """Start new episodes in all environments; the window stays.

        Args:
            ages: Steps `(num_envs,)` at which the first episodes start; those that do not start at 0 are only parts of
                episodes and are not counted. None: all start at 0.
        """
        self._running.zero_()
        if ages is not None:
            self._returns.masked_fill_(self._of(ages) != 0, torch.nan)  # stays NaN until the episode ends

    def _of(self, values: Tensor) -> Tensor:
        """Return the rows that count."""
        return values if self._counted is None else values[self._counted]


class EnvLog:
    """Means over an iteration of the values that environments put into `extras["log"]`.

    A value counts at the steps where it is present and not NaN: an environment that can't know without a host sync
    whether any episode ended writes NaN at steps where none did.
    """

    def __init__(self) -> None:
        self._chunks: dict[tuple[str, ...], list[Tensor]] = {}
        self._numbers: dict[str, list[float]] = {}

    def record(self, log: Mapping[str, Tensor | float]) -> None:
        """Add one step."""
        if not log:
            return
        by_device: dict[torch.device, dict[str, Tensor]] = {}  # mjlab, for one, mixes them
        for key, value in log.items():
            if torch.is_tensor(value):
                by_device.setdefault(value.device, {})[key] = value
            else:
                self._numbers.setdefault(key, []).append(float(value))
        for tensors in by_device.values():
            # Stacking copies: environments may reuse the tensors at the next step.
            stacked = torch.stack([value.float() for value in tensors.values()])
            self._chunks.setdefault(tuple(tensors), []).append(stacked)

    def collect(self) -> tuple[dict[str, Ratio], dict[str, float]]:
        """Return means of device values as ratios, and means of host values; resets both."""
        ratios: dict[str, Ratio] = {}
        for keys, chunks in self._chunks.items():
            values = torch.stack(chunks)  # (steps, keys)
            sums, counts = values.nansum(0), (~values.isnan()).sum(0)
            for index, key in enumerate(keys):
                earlier = ratios.get(_tag(key))
                ratio = (sums[index], counts[index])
                ratios[_tag(key)] = (earlier[0] + ratio[0], earlier[1] + ratio[1]) if earlier else ratio
        numbers = {_tag(key): values for key, values in self._numbers.items()}
        valid = {tag: [value for value in values if value == value] for tag, values in numbers.items()}
        self._chunks, self._numbers = {}, {}
        return ratios, {tag: sum(values) / len(values) for tag, values in valid.items() if values}


def _tag(key: str) -> str:
    """Return `Episode/<key>`, or the key itself if the environment chose the group."""
    return key if "/" in key else f"Episode/{key}"
