"""pi0 and pi0.5 (arXiv 2410.24164, 2504.16054): PaliGemma, and a flow head whose network is the action expert.

    images, text --PaliGemma--> keys and values of 18 layers --flow head of an action expert--> chunk of actions

Shared parts stand elsewhere: `networks.vlm.paligemma`, `networks.action_expert`, `action_heads.flow`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

from ..configclass import MISSING, configclass
from ..networks import ActionExpertCfg
from ..networks.action_expert import Variant
from ..networks.vlm import BackboneCfg, GemmaCfg, PaliGemmaCfg, SigLIPCfg
from ..networks.vlm.paligemma_prompt import WORDS
from .action_heads import ActionHeadCfg, FlowHeadCfg
from .openpi_weights import load_weights
from .vla_normalizer import VectorNormalizerCfg
from .vla_policy import VLAPolicy, VLAPolicyCfg
from .vla_preprocessing import VLAPreprocessingCfg
from .vla_spec import VLASpec

Size = Literal["full", "tiny"]


@configclass
class OpenPIPolicyCfg(VLAPolicyCfg):
    """A policy of the pi family. Parts that are not given become those of `variant` and `size`."""

    variant: Variant = "pi05"
    """`pi0`: the state is a token of the expert, values are normalized by mean and standard deviation. `pi05`: the
    state is part of the prompt, the time steers the expert's layers, values are normalized by quantiles."""
    size: Size = "full"
    """`full`: as published; `tiny`: the same code with half a million weights, for tests and to learn from scratch."""
    weights: str = ""
    """Published weights, a file or its folder, in the layout of openpi, LeRobot, RLinf or transformers."""
    backbone: BackboneCfg = MISSING
    head: ActionHeadCfg = MISSING
    preprocessing: VLAPreprocessingCfg = MISSING

    def __post_init__(self) -> None:
        """Fill in what was not given."""
        if self.backbone is MISSING:
            self.backbone = paligemma(self.variant, self.size)
        if self.head is MISSING:
            self.head = expert_head(self.variant, self.size)
        if self.preprocessing is MISSING:
            method: Literal["quantile", "mean_std"] = "quantile" if self.variant == "pi05" else "mean_std"
            normalizer = VectorNormalizerCfg(method=method)
            self.preprocessing = VLAPreprocessingCfg(resize="pad", state=normalizer, action=normalizer)

    @property
    def is_pretrained(self) -> bool:
        """True with published `weights`."""
        return bool(self.weights)

    def build(self, spec: VLASpec) -> VLAPolicy:
        """Build the policy, with `weights` if there are any."""
        policy: VLAPolicy = super().build(spec)
        if self.weights:
            load_weights(policy, self.weights)
        return policy

    def check(self) -> Iterable[str]:
        """Sentences on a head of another variant."""
        network = self.head.network if isinstance(self.head, FlowHeadCfg) else None
        if not isinstance(network, ActionExpertCfg):
            yield "head: a policy of the pi family has a FlowHeadCfg(network=ActionExpertCfg()); or take VLAPolicyCfg"
        elif network.variant != self.variant:
            yield (
                f"variant: is {self.variant}, and head.network.variant is {network.variant}; "
                f"build OpenPIPolicyCfg(variant='{self.variant}') without a head, and change that"
            )


def paligemma(variant: Variant, size: Size = "full") -> PaliGemmaCfg:
    """The backbone of a variant."""
    cfg = PaliGemmaCfg(state_in_prompt=variant == "pi05", padded_text=200 if variant == "pi05" else 48)
    if size == "tiny":
        cfg.vision = SigLIPCfg(image_size=64, patch=16, width=48, mlp_width=96, num_layers=2, num_heads=2)
        cfg.language = GemmaCfg(width=64, finetune="full", mlp_width=128, **_TINY)
        cfg.vocabulary, cfg.tokenizer, cfg.frozen_dtype = 4096, WORDS, "fp32"
    return cfg


def expert_head(variant: Variant, size: Size = "full") -> FlowHeadCfg:
    """The flow head of a variant."""
    network = ActionExpertCfg(variant=variant)
    if size == "tiny":
        network = ActionExpertCfg(variant=variant, gemma=GemmaCfg(width=32, mlp_width=64, **_TINY), action_dim=None)
    return FlowHeadCfg(chunk_size=50 if size == "full" else 8, network=network)


_TINY: dict[str, Any] = {"num_layers": 3, "num_heads": 4, "num_kv_heads": 1, "head_dim": 16}
