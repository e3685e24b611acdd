"""Networks over the last few inputs of the episode.

With a window of 3 and an episode that starts at step 2, they see, oldest first:

    step         0        1        2        3        4
    input        a        b        c        d        e
    window       0 0 a    0 a b    0 0 c    0 c d    c d e
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated

import torch
from torch import Tensor
from typing_extensions import override

from ..configclass import Range, configclass
from .activation import MOST_FEATURES
from .mlp import MLPCfg
from .network import Network, NetworkCfg, RecurrentNetwork


class WindowNetwork(RecurrentNetwork):
    """A head over features of the last `window` inputs; see `RecurrentNetwork` for the calling convention.

    Inputs from before the episode are zeros. The state is `(1, N, (window - 1) * in)`: the inputs before this one,
    oldest first.

    Args:
        cfg: Configuration.
        in_features: in.
        out_features: Of the head.
        head_features: Number of features that the head reads.
    """

    def __init__(self, cfg: WindowNetworkCfg, in_features: int, out_features: int, *, head_features: int) -> None:
        super().__init__(in_features, out_features)
        self.cfg, self.num_features = cfg, in_features
        self.head: Network = cfg.head_cfg.build(head_features, out_features)

    @abstractmethod
    def features_of(self, windows: Tensor) -> Tensor:
        """Return what the head reads, `(..., features)`, of windows `(..., window, in)`."""

    @override
    def state_shape(self, num_envs: int) -> tuple[int, int, int]:
        return 1, num_envs, (self.cfg.window - 1) * self.num_features

    def forward(self, x: Tensor, state: Tensor, starts: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the output `(N, out)` or `(T, N, out)` for `x` `(N, in)` or `(T, N, in)`, and the last state."""
        return self._over_time(self._run, x, state, starts)

    def _run(self, x: Tensor, state: Tensor, starts: Tensor | None) -> tuple[Tensor, Tensor]:
        windows, state = windows_of(x, state, starts, self.cfg.window)
        return self.head(self.features_of(windows)), state


def windows_of(x: Tensor, state: Tensor, starts: Tensor | None, window: int) -> tuple[Tensor, Tensor]:
    """Return the last `window` inputs at every step of a sequence `(T, N, in)`, and the next state.

    Args:
        x: Inputs.
        state: Inputs before the first, `(1, N, (window - 1) * in)`, oldest first.
        starts: bool `(T, N)`, True where an episode starts.
        window: Number of inputs, the current one included; those from before the episode are zeros.

    Returns:
        `(T, N, window, in)`, oldest first; the state.
    """
    slots, rows = window - 1, x.shape[1]
    past = state.view(rows, slots, x.shape[-1]).transpose(0, 1)
    inputs = torch.cat([past.to(x.dtype), x])  # (C + T, N, in)
    windows = inputs.unfold(0, window, 1)  # (T, N, in, window)
    last = inputs[x.shape[0] :]  # (C, N, in)
    if starts is not None:
        running = torch.zeros(slots, rows, dtype=torch.int64, device=x.device)
        episode = torch.cat([running, starts.to(torch.int64).cumsum(0)])  # (C + T, N)
        same = episode.unfold(0, window, 1) == episode[slots:].unsqueeze(-1)  # (T, N, window)
        windows = windows * same.unsqueeze(-2)
        last = last * (episode[x.shape[0] :] == episode[-1]).unsqueeze(-1)
    return windows.transpose(-1, -2), last.transpose(0, 1).reshape(1, rows, -1)


@configclass
class WindowNetworkCfg(NetworkCfg):
    """Base of the configurations of `WindowNetwork`s."""

    class_type: type = WindowNetwork
    window: Annotated[int, Range(ge=2, le=MOST_FEATURES)] = 4
    """Number of inputs that are seen, the current one included."""
    head_cfg: MLPCfg = MLPCfg()
    """MLP that reads them."""
