"""Learned filter over the last inputs: the FFT filter of LipsNet++ (Song et al. 2025, ICML).

The last `window` inputs are one picture, time by feature. Its two-dimensional spectrum is multiplied by a learned
complex kernel; the newest row of the result is what the head reads. A small kernel passes little:
`LipsCfg.filter_weight` penalizes its square, so that noise, which the task does not need, is filtered out.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from typing_extensions import override

from ..configclass import configclass
from .window import WindowNetwork, WindowNetworkCfg


class FFTFilter(WindowNetwork):
    """Filter in the frequency domain followed by a head; the kernel starts as 1, which passes everything."""

    def __init__(self, cfg: FFTFilterCfg, in_features: int, out_features: int) -> None:
        super().__init__(cfg, in_features, out_features, head_features=in_features)
        shape = (cfg.window, in_features // 2 + 1)
        self.kernel = nn.Parameter(torch.stack([torch.ones(shape), torch.zeros(shape)], dim=-1))
        """Real and imaginary part, `(window, in // 2 + 1, 2)`."""

    @override
    def features_of(self, windows: Tensor) -> Tensor:
        """Return the newest row `(..., in)` of the filtered windows `(..., window, in)`."""
        # There is no half-precision transform.
        spectrum = torch.fft.rfft2(windows.to(self.kernel.dtype)) * torch.view_as_complex(self.kernel)
        return torch.fft.irfft2(spectrum, s=(self.cfg.window, self.num_features))[..., -1, :]

    def penalty(self) -> Tensor:
        """Return the sum of |kernel|^2, 0-dim."""
        return self.kernel.square().sum()


@configclass
class FFTFilterCfg(WindowNetworkCfg):
    """Configuration of an `FFTFilter`."""

    class_type: type = FFTFilter
    window = 8
