"""How smooth the actions of a policy are: change per step, spectrum, and slope with the observation."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from tensordict import TensorDict
from torch import Tensor

from ..algorithms.algorithm import Policy
from ..envs.spec import ActionSpec

_WINDOW = 64
"""Longest stretch of steps whose spectrum is taken."""
_SLOPE_EVERY = 16
"""Steps between two measurements of the slope."""


@dataclass(frozen=True)
class Smoothness:
    """Means over the steps of an evaluation, over environments and action dimensions; smaller is smoother."""

    action_change: float | None
    """Mean |a_t - a_{t-1}| within episodes, of actions as they are executed; None: all episodes have one step."""
    spectrum: float | None
    """Sm = 2 / (n f_s) sum_i M_i f_i over the n frequencies of windows within an episode, with M the amplitudes (CAPS,
    arXiv 2012.06644): the mean frequency of the action, weighted by amplitude. None: no episode is that long."""
    jacobian_norm: float | None
    """Mean Frobenius norm of the deterministic action's derivative by the normalized observation; None: the policy
    does not know it."""


class SmoothnessMeter:
    """Sums of what `Smoothness` needs, kept on the device.

    Args:
        policy: Policy that is played.
        action: Spec of the actions, which are continuous and come one by one.
        num_envs: Number of environments.
        horizon: Longest episode; None: unknown.
        device: Device of the actions.
    """

    def __init__(
        self, policy: Policy, action: ActionSpec, num_envs: int, horizon: int | None, device: torch.device
    ) -> None:
        self.policy = policy
        size = min(_WINDOW, horizon or _WINDOW)
        self.size = size - size % 2
        bounds = (action.low, action.high)
        self._bounds = [None if bound is None else torch.tensor(bound, device=device) for bound in bounds]
        self._window = torch.zeros(max(self.size, 1), num_envs, action.dim, device=device)
        self._age = torch.zeros(num_envs, dtype=torch.int64, device=device)
        """Steps of the running episode so far."""
        # Sum and number of: changes, spectra, slopes.
        self._sums = torch.zeros(2, 3, dtype=torch.float64, device=device)
        self._step = 0

    def add(self, action: Tensor, done: Tensor, counted: Tensor) -> None:
        """Add a step.

        Args:
            action: Actions `(N, A)`.
            done: Nonzero where the episode ended with them, `(N,)`.
            counted: bool `(N,)`: the episode is one of those that the evaluation counts.
        """
        low, high = self._bounds
        executed = action if low is None and high is None else action.clamp(low, high)
        place = self._step % len(self._window)
        before = self._window[place - 1]  # at place 0 the last row
        self._count(0, (executed - before).abs().mean(-1), counted & (self._age > 0))
        self._window[place] = executed
        self._age += 1
        if self.size > 1 and place == self.size - 1:
            self._count(1, spectrum(self._window), counted & (self._age >= self.size))
        self._age.masked_fill_(done != 0, 0)
        self._step += 1

    def add_slope(self, obs: TensorDict, counted: Tensor) -> None:
        """Add the slope of the policy at `obs` if it is time; call it before the policy acts there."""
        if self._step % _SLOPE_EVERY == 0:
            slope = self.policy.jacobian_norm(obs)
            if slope is not None:
                self._count(2, slope, counted)

    def _count(self, row: int, values: Tensor, mask: Tensor) -> None:
        self._sums[0, row] += torch.where(mask, values, 0.0).sum()
        self._sums[1, row] += mask.sum()

    def result(self) -> Smoothness:
        """Return the means."""
        sums, numbers = self._sums.tolist()
        return Smoothness(*(total / number if number else None for total, number in zip(sums, numbers, strict=True)))


def spectrum(signals: Tensor) -> Tensor:
    """Return Sm `(N,)` of signals `(T, N, A)`, T even, averaged over A.

    With frequencies in units of the sampling frequency, `f_i = i / T` for `i = 1 ... T/2`; the constant part has none.
    """
    length = signals.shape[0]
    amplitude = torch.fft.rfft(signals, dim=0)[1:].abs() * (2.0 / length)
    amplitude[-1] *= 0.5  # the highest frequency has no mirror image
    frequency = torch.arange(1, length // 2 + 1, device=signals.device) / length
    return (2.0 / len(frequency)) * (amplitude * frequency.view(-1, 1, 1)).sum(0).mean(-1)
