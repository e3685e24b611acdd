"""Learned filter over the last inputs: the FFT filter of LipsNet++ (Song et al. 2025, ICML).

The last `window` inputs are one picture, time by feature. Its two-dimensional spectrum is multiplied by a learned
complex kernel; the newest row of the result is what the head reads. A small kernel passes little:
`LipsCfg.filter_weight` penalizes its square, so that noise, which the task does not need, is filtered out.
"""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor, nn
from typing_extensions import override

from ..configclass import Range, configclass
from .activation import MOST_FEATURES
from .mlp import MLPCfg
from .network import Network, NetworkCfg, RecurrentNetwork
from .stack import windows_of


class FFTFilter(RecurrentNetwork):
    """Filter in the frequency domain followed by a head; see `RecurrentNetwork` for the calling convention.

    Inputs from before the episode are zeros. The state is that of `Stack`. The kernel starts as 1, which passes
    everything.
    """

    def __init__(self, cfg: FFTFilterCfg, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features)
        self.cfg = cfg
        self.num_features = in_features
        shape = (cfg.window, in_features // 2 + 1)
        self.kernel = nn.Parameter(torch.stack([torch.ones(shape), torch.zeros(shape)], dim=-1))
        """Real and imaginary part, `(window, in // 2 + 1, 2)`."""
        self.head: Network = cfg.head_cfg.build(in_features, out_features)

    @property
    @override
    def output_layer(self) -> nn.Linear | None:
        return self.head.output_layer

    @override
    def state_shape(self, num_envs: int) -> tuple[int, int, int]:
        return 1, num_envs, (self.cfg.window - 1) * self.num_features

    def forward(self, x: Tensor, state: Tensor, starts: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the output `(N, out)` or `(T, N, out)` for `x` `(N, in)` or `(T, N, in)`, and the last state."""
        self._check_step(x, starts)
        if x.dim() == 2:
            y, state = self.forward(x.unsqueeze(0), state, None if starts is None else starts.unsqueeze(0))
            return y.squeeze(0), state
        seen, state = windows_of(x, state, starts, self.cfg.window)
        return self.head(self.filtered(seen)), state

    def filtered(self, windows: Tensor) -> Tensor:
        """Return the newest row `(..., in)` of the filtered windows `(..., window, in)`."""
        # There is no half-precision transform.
        spectrum = torch.fft.rfft2(windows.to(self.kernel.dtype)) * torch.view_as_complex(self.kernel)
        return torch.fft.irfft2(spectrum, s=(self.cfg.window, self.num_features))[..., -1, :]

    def penalty(self) -> Tensor:
        """Return the sum of |kernel|^2, 0-dim."""
        return self.kernel.square().sum()


@configclass
class FFTFilterCfg(NetworkCfg):
    """Configuration of an `FFTFilter`."""

    class_type: type = FFTFilter
    window: Annotated[int, Range(ge=2, le=MOST_FEATURES)] = 8
    """Number of inputs that are filtered, the current one included."""
    head_cfg: MLPCfg = MLPCfg()
    """MLP that reads the filtered input."""
