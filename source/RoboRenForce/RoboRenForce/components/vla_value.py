"""The value of an observation, from the features of a vision-language-action policy's backbone or action expert.

It belongs to the learner, not to the policy: what is exported and played has no value.

Shape letters: B observations, H actions of a chunk, D width of the backbone or the expert, S state.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from ..configclass import Cfg, configclass
from ..networks import MLPCfg, NetworkCfg
from ..networks.action_expert import ActionExpert
from ..networks.vlm import Prefix
from ..utils.errors import ConfigError
from ..utils.precision import full_precision
from .action_heads import ActionHead
from .action_heads.denoising import DenoisingHead
from .action_heads.features import read_features

ValueFeatures = Literal["pooled", "queries", "expert"]


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

    def forward(self, prefix: Prefix, head: ActionHead | None = None, *, detached: bool = False) -> Tensor:
        """Return values float32 `(B,)`, or `(B, H)` of each action of the chunk if `cfg.per_action`.

        Args:
            prefix: Features of B observations.
            head: Of the policy, whose expert is read with `features="expert"`.
            detached: True to keep the gradient from what is read, as `cfg.detach` does.
        """
        with torch.set_grad_enabled(torch.is_grad_enabled() and not (self.cfg.detach or detached)):
            features = self._read(prefix, head)
        if features.dim() == 3 and not self.cfg.per_action:
            features = features.mean(1)
        with full_precision(features.device):
            tokens, state = features.split([self.norm.normalized_shape[0], self.state_dim], -1)
            return self.network(torch.cat([self.norm(tokens), state], -1)).squeeze(-1)

    def _read(self, prefix: Prefix, head: ActionHead | None) -> Tensor:
        """Features and state, float32 `(B, D + S)` or `(B, H, D + S)`."""
        if self.cfg.features != "expert":
            return read_features(prefix, self.cfg.features, self.chunk_size, torch.float32)
        features = expert_of(head).features(prefix).float()
        state = prefix.state.float().unsqueeze(1).expand(-1, features.shape[1], -1)
        return torch.cat([features, state], -1)


def expert_of(head: ActionHead | None) -> ActionExpert:
    """The action expert of a policy's head.

    Raises:
        ConfigError: it has none.
    """
    if isinstance(head, DenoisingHead) and isinstance(head.network, ActionExpert):
        return head.network
    raise ConfigError(
        f"The value reads features='expert', and the policy's {type(head).__name__} has no action expert: take a "
        "policy of the pi family, or set algorithm.value.features=pooled."
    )


@configclass
class ValueHeadCfg(Cfg):
    """Configuration of a `ValueHead`."""

    class_type: type = ValueHead

    features: ValueFeatures = "pooled"
    """Features: the mean of all tokens; the action query tokens (where the policy's head reads them, too); or the last
    features of the `expert` of pi0 and pi0.5, of one more pass over a fixed chunk."""
    per_action: bool = False
    """One value for each action of the chunk, instead of one for the chunk."""
    network: NetworkCfg = MLPCfg(hidden_features=[512, 256], activations="GELU", layer_norm=True)
    """From normalized features and state to values."""
    detach: bool = True
    """Keep the gradient of the value from the backbone and the expert, which a young critic would spoil."""

    def width(self, backbone: int, head: ActionHead) -> int:
        """D of the features, for a policy's backbone of this width and its head."""
        return expert_of(head).cfg.gemma.width if self.features == "expert" else backbone
