"""The value of an observation, from the features of a vision-language-action policy's backbone.

It belongs to the learner, not to the policy: what is exported and played has no value.

Shape letters: B observations, H actions of a chunk, D width of the backbone, S state.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..configclass import Cfg, configclass
from ..networks import MLPCfg, NetworkCfg
from ..networks.vlm import Prefix
from ..utils.precision import full_precision
from .action_heads.features import Features, read_features


class ValueHead(nn.Module):
    """Expected return, built by `ValueHeadCfg.build(width=, state_dim=, chunk_size=)`; 0 at the start.

    It computes in float32 also under autocast: bfloat16 has no digits for the difference of two large returns.
    """

    def __init__(self, cfg: ValueHeadCfg, *, width: int, state_dim: int, chunk_size: int) -> None:
        super().__init__()
        self.cfg, self.chunk_size, self.state_dim = cfg, chunk_size, state_dim
        self.norm = nn.LayerNorm(width)  # of the features alone: beside large ones a state would vanish
        outputs = chunk_size if cfg.per_action and cfg.features == "pooled" else 1
        self.network = cfg.network.build(width + state_dim, outputs)
        if (output := self.network.output_layer) is not None:
            nn.init.zeros_(output.weight)
            nn.init.zeros_(output.bias)

    def forward(self, prefix: Prefix) -> Tensor:
        """Return values float32 `(B,)`, or `(B, H)` of each action of the chunk if `cfg.per_action`."""
        features = read_features(prefix, self.cfg.features, self.chunk_size, torch.float32)
        if self.cfg.detach:
            features = features.detach()
        if features.dim() == 3 and not self.cfg.per_action:
            features = features.mean(1)
        with full_precision(features.device):
            tokens, state = features.split([self.norm.normalized_shape[0], self.state_dim], -1)
            return self.network(torch.cat([self.norm(tokens), state], -1)).squeeze(-1)


@configclass
class ValueHeadCfg(Cfg):
    """Configuration of a `ValueHead`."""

    class_type: type = ValueHead

    features: Features = "pooled"
    """Features: the mean of all tokens, or the action query tokens (where the policy's head reads them, too)."""
    per_action: bool = False
    """One value for each action of the chunk, instead of one for the chunk."""
    network: NetworkCfg = MLPCfg(hidden_features=[512, 256], activations="GELU", layer_norm=True)
    """From normalized features and state to values."""
    detach: bool = True
    """Keep the gradient of the value from the backbone, which a young critic would spoil."""
