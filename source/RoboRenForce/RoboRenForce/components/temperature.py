"""Temperature of maximum-entropy RL: fixed, or learned so that the entropy stays near a target.

Haarnoja et al. 2018, "Soft actor-critic algorithms and applications", section 5 (arXiv 1812.05905).
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from ..configclass import Cfg, Range, configclass


class Temperature(nn.Module):
    """alpha > 0, stored as its logarithm; built by `TemperatureCfg.build(action_dim)`."""

    def __init__(self, cfg: TemperatureCfg, action_dim: int) -> None:
        super().__init__()
        self.cfg = cfg
        self.target_entropy = cfg.entropy_per_dim * action_dim
        """H* in nats, of actions in the unit box [-1, 1]."""
        self.log_alpha = nn.Parameter(torch.tensor(math.log(cfg.initial)), requires_grad=cfg.learned)

    def forward(self) -> Tensor:
        """Return alpha, 0-dim, without gradient: losses of actor and critic take it as a constant."""
        return self.log_alpha.detach().exp()

    def loss(self, log_prob: Tensor) -> Tensor:
        """Return `-g(alpha) (log pi + H*)` of each sample, in the shape of `log_prob`, which is detached."""
        weight = self.log_alpha.exp() if self.cfg.objective == "alpha" else self.log_alpha
        return -weight * (log_prob.detach() + self.target_entropy)


@configclass
class TemperatureCfg(Cfg):
    """Configuration of a `Temperature`."""

    class_type: type = Temperature
    initial: Annotated[float, Range(gt=0)] = 1.0
    """Initial alpha, or its constant value."""
    learned: bool = True
    """True to learn alpha from the entropy target."""
    entropy_per_dim: float = -1.0
    """Entropy target per action dimension, in nats of the unit-box action; H* is this times the dimensions."""
    objective: Literal["log_alpha", "alpha"] = "log_alpha"
    """g in the loss: both have the same minimum, but steps of different size."""
    learning_rate: Annotated[float, Range(gt=0)] = 3.0e-4
    """Learning rate of log alpha."""
