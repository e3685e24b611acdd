"""Base classes of networks: tensor in, tensor out, independent of reinforcement learning."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor, nn
from typing_extensions import override

from ..configclass import Cfg, configclass

RunSequence: TypeAlias = Callable[[Tensor, Tensor, "Tensor | None"], tuple[Tensor, Tensor]]
"""Inputs `(T, N, in)`, state and starts to outputs `(T, N, ...)` and last state."""


class Network(nn.Module):
    """Module from `in_features` to `out_features`, built by `NetworkCfg.build(in_features, out_features)`.

    Feed-forward networks map `net(x: (..., in)) -> (..., out)`; any number of leading dimensions. Networks over
    images take their shape as `in_features` and map `(..., *image) -> (..., out)`.
    """

    is_recurrent: bool = False

    def __init__(self, in_features: int | tuple[int, ...], out_features: int) -> None:
        super().__init__()
        self.in_features = in_features
        self.out_features = out_features

    @property
    def output_layer(self) -> nn.Linear | None:
        """Linear layer whose result is the network's output, None if something follows it."""
        return None


class RecurrentNetwork(Network, ABC):
    """Network with a recurrent state that the caller carries.

    `net(x, state, starts) -> (y, state)` with `x` `(N, in)` for one step or `(T, N, in)` for a sequence. `starts` is
    bool `(N,)` or `(T, N)`: True where `x[t]` is the first observation of an episode, whose row then starts from the
    zero state; None means nowhere. The state is one tensor with the batch in dimension 1, and zeros are the initial
    state, so states can be stored, sliced by environment and reset from outside without knowing their contents.
    """

    is_recurrent = True

    @property
    @override
    def output_layer(self) -> nn.Linear | None:
        """That of `head`, the network after the recurrent part; None without one."""
        head = self._modules.get("head")
        return head.output_layer if isinstance(head, Network) else None

    def initial_state(self, num_envs: int) -> Tensor:
        """Return the initial state, zeros `(L, num_envs, S)` on the parameters' device."""
        parameter = next(self.parameters())
        return torch.zeros(*self.state_shape(num_envs), device=parameter.device, dtype=parameter.dtype)

    @abstractmethod
    def state_shape(self, num_envs: int) -> tuple[int, int, int]:
        """Shape `(L, num_envs, S)` of the state."""

    def _over_time(self, run: RunSequence, x: Tensor, state: Tensor, starts: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return output and last state of `run`, which takes sequences, for a step or a sequence `x`.

        Raises:
            ValueError: `x` is neither, or `starts` does not fit it.
        """
        self._check_step(x, starts)
        if x.dim() == 3:
            return run(x, state, starts)
        y, state = run(x.unsqueeze(0), state, None if starts is None else starts.unsqueeze(0))
        return y.squeeze(0), state

    def _check_step(self, x: Tensor, starts: Tensor | None) -> None:
        if x.dim() not in (2, 3):
            raise ValueError(
                f"{type(self).__name__} got an input of shape {tuple(x.shape)}; expected (N, {self.in_features}) "
                f"for one step or (T, N, {self.in_features}) for a sequence."
            )
        if starts is not None and starts.shape != x.shape[:-1]:
            raise ValueError(
                f"{type(self).__name__} got starts of shape {tuple(starts.shape)} for an input of shape "
                f"{tuple(x.shape)}; expected {tuple(x.shape[:-1])}."
            )


@configclass
class NetworkCfg(Cfg):
    """Base of every network's configuration."""

    class_type: type = Network

    def build_ensemble(self, num_members: int, in_features: int, out_features: int) -> Network:
        """Build several networks with the same input as one: `(..., in) -> (num_members, ..., out)`.

        Raises:
            TypeError: There is no batched version of this network.
        """
        raise TypeError(
            f"{type(self).__name__} has no batched version for an ensemble of {num_members}; use MLPCfg or FlashNetCfg."
        )
