"""Low-rank adapters (Hu et al. 2021, arXiv 2106.09685) by peft: add, switch off, merge."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import torch
from torch import nn

from ...configclass import Cfg, Range, configclass
from ...utils.optional import require_package


@configclass
class LoRACfg(Cfg):
    """Adapters of a language model."""

    rank: Annotated[int, Range(ge=1, le=4096)] = 16
    """Of the update of a weight."""
    alpha: Annotated[float, Range(gt=0)] = 32.0
    """The update is scaled by `alpha / rank`."""
    dropout: Annotated[float, Range(ge=0, lt=1)] = 0.0
    """Of the adapters' input. Anything but 0 makes log-probabilities of acting and learning differ."""
    layers: str = r".*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
    """Regular expression over the paths of the language model's linear layers."""


def add_lora(module: nn.Module, cfg: LoRACfg) -> None:
    """Add adapters in place; everything else in the module is frozen. They begin as the identity."""
    peft = require_package("peft", extra="vla", purpose="LoRA adapters")
    options = peft.LoraConfig(r=cfg.rank, lora_alpha=cfg.alpha, lora_dropout=cfg.dropout, target_modules=cfg.layers)
    peft.inject_adapter_in_model(options, module)


def adapted_layers(module: nn.Module) -> dict[str, Any]:
    """Layers with adapters by their paths; empty without peft."""
    return {path: part for path, part in module.named_modules() if hasattr(part, "lora_A") and hasattr(part, "merge")}


@contextmanager
def without_lora(module: nn.Module) -> Iterator[None]:
    """Compute as before the adapters were trained: the reference of a fine-tuning, without a second copy."""
    layers = adapted_layers(module).values()
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)


@torch.no_grad()
def merge_lora(module: nn.Module) -> None:
    """Add the adapters to the weights, in place and for good; the sum is taken in float32."""
    for path, layer in adapted_layers(module).items():
        base = layer.get_base_layer()
        for name in layer.active_adapters:
            update = layer.lora_B[name].weight.float() @ layer.lora_A[name].weight.float() * layer.scaling[name]
            base.weight.copy_(base.weight.float() + update)
        parent, _, name = path.rpartition(".")
        setattr(module.get_submodule(parent), name, base)
