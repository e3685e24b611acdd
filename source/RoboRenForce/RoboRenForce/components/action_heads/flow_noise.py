"""Flow-Noise: noise of a learned size in every step of the flow (ReinFlow, arXiv 2505.22094; pi_RL, arXiv 2510.25889).

The next point is drawn from N(x + delta v, std(x, t, observation)^2). Unlike with Flow-SDE the noise changes what is
sampled; the policy gradient learns how much of it is worth its price.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Annotated

import torch
from torch import Tensor, nn
from typing_extensions import override

from ...configclass import Cfg, Range, configclass
from ...networks import MLPDenoiserCfg, ResidualMLPCfg
from ...networks.denoiser import Context
from ...networks.vlm import Prefix


class NoiseNetwork(nn.Module):
    """Log-std of the noise of a step; at the start the geometric mean of its bounds."""

    def __init__(self, cfg: FlowNoiseCfg, *, chunk_size: int, action_dim: int, width: int, state_dim: int) -> None:
        super().__init__()
        self.low, self.high = math.log(cfg.min_std), math.log(cfg.max_std)
        self.network = cfg.network.build(chunk_size=chunk_size, action_dim=action_dim, width=width, state_dim=state_dim)
        nn.init.zeros_(self.network.network.output.weight)
        nn.init.zeros_(self.network.network.output.bias)

    def encode(self, prefix: Prefix) -> Context:
        """Compute what does not depend on the noisy chunk."""
        return self.network.encode(prefix)

    @override
    def forward(self, x: Tensor, time: Tensor, context: Context) -> Tensor:
        """Return log-std float32 `(B, H, A)` at noisy chunks `(B, H, A)` and times `(B,)`, within its bounds."""
        share = 0.5 * (1.0 + torch.tanh(self.network(x, time, context)))
        return self.low + (self.high - self.low) * share


@configclass
class FlowNoiseCfg(Cfg):
    """Exploration by Flow-Noise; built with `build(chunk_size=, action_dim=, width=, state_dim=)`.

    Demonstrations don't teach it, and DDP refuses what gets no gradient: fine-tune with `density="none"`, and switch
    to `"noise"` for reinforcement learning.
    """

    class_type: type = NoiseNetwork

    min_std: Annotated[float, Range(gt=0)] = 0.08
    """Smallest std of the noise of a step."""
    max_std: Annotated[float, Range(gt=0)] = 0.16
    """Largest one."""
    network: MLPDenoiserCfg = MLPDenoiserCfg(network=ResidualMLPCfg(dim=128, num_blocks=1))
    """From the noisy chunk, the time, the mean of all tokens and the state to stds."""

    def check(self) -> Iterable[str]:
        """Sentences on bounds that leave nothing to learn."""
        if self.min_std >= self.max_std:
            yield f"min_std: {self.min_std} is not below max_std={self.max_std}"
