"""Discriminator of adversarial imitation, with a normalizer of its own."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ..configclass import Cfg, configclass
from ..networks import MLPCfg, NetworkCfg
from .normalizer import EmpiricalNormalizerCfg, NormalizerCfg


class Discriminator(nn.Module):
    """Logit of "this is the expert's"; its normalizer sees expert and policy alike."""

    def __init__(self, cfg: DiscriminatorCfg, in_features: int) -> None:
        super().__init__()
        self.backbone = cfg.backbone_cfg.build(in_features, 1)
        self.normalizer = (cfg.normalizer_cfg or NormalizerCfg()).build((in_features,))

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits `(...)` of unnormalized inputs `(..., D)`."""
        return self.logit(self.normalizer(x))

    def logit(self, normalized: Tensor) -> Tensor:
        """Return the logits `(...)` of normalized inputs `(..., D)`."""
        return self.backbone(normalized).squeeze(-1)

    def output_weight(self) -> Any:
        """Return the weight of the last linear layer, None if the network ends otherwise."""
        layer = self.backbone.output_layer
        return None if layer is None else layer.weight


@configclass
class DiscriminatorCfg(Cfg):
    """Configuration of a `Discriminator`."""

    class_type: type = Discriminator
    backbone_cfg: NetworkCfg = MLPCfg(hidden_features=[256, 256], activations="ReLU")
    """Feed-forward network."""
    normalizer_cfg: NormalizerCfg | None = EmpiricalNormalizerCfg(clip=10.0)
    """Normalizer of the inputs; None: there is none."""
