"""A frozen backbone in bfloat16 computes without autocast; heads, and backbones that are trained, with it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
import torch
from RoboRenForce.components.action_heads import RegressionHeadCfg
from RoboRenForce.components.vla_policy import Qwen2VLPolicyCfg, Qwen3VLPolicyCfg, VLAPolicy
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.profiler import ProfilerActivity, profile
from vla_cases import recorded, spec

pytest.importorskip("transformers")
pytest.importorskip("peft")
pytestmark = pytest.mark.oracle
FAMILIES = [Qwen2VLPolicyCfg, Qwen3VLPolicyCfg]


def policy(family: Any, **options: Any) -> VLAPolicy:
    cfg = family(head=RegressionHeadCfg(chunk_size=4, features="pooled"))
    side = 2 * type(cfg.backbone).token_pixels
    cfg.backbone = cfg.backbone.replace(model_name="tiny", image_size=[side, side], **options)
    return cfg.build(spec())


class CUDACasts(TorchFunctionMode):
    """What autocast does around layer norms on a GPU, and not on a CPU: float32 inside."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is functional.layer_norm and torch.is_autocast_enabled("cpu"):
            args, kwargs = _float(args), dict(zip(kwargs or {}, _float((kwargs or {}).values()), strict=True))
        return func(*args, **(kwargs or {}))


def _float(values: Iterable[Any]) -> list[Any]:
    return [value.float() if isinstance(value, torch.Tensor) else value for value in values]


def operations(compute: Any) -> dict[str, int]:
    """Operation -> how often it ran."""
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        compute()
    return {event.key: event.count for event in profiler.key_averages()}


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_features_are_those_of_plain_bfloat16_and_near_those_of_float32(family: Any) -> None:
    learned, batch = policy(family), recorded()
    assert learned.backbone.is_bfloat16
    plain = learned.encode(batch)
    with torch.autocast("cpu", torch.bfloat16):
        prefix = learned.encode(batch)
        actions = learned.head.act(prefix)[0]
        autocast = learned.backbone(learned.preprocessing(batch))
    assert torch.equal(prefix.tokens, plain.tokens) and prefix.tokens.dtype == torch.bfloat16
    assert next(learned.head.parameters()).dtype == torch.float32 and actions.isfinite().all()

    exact = learned.float().encode(batch)
    there = exact.mask

    def error(found: Any) -> float:
        return float((found.tokens.float() - exact.tokens)[there].abs().mean())

    assert error(prefix) < max(0.01, 1.2 * error(autocast))
    torch.testing.assert_close(actions, learned.head.act(exact)[0], atol=0.05, rtol=0.05)


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_no_cast_around_norms_is_left(family: Any) -> None:
    """Three inputs of each layer norm would become float32, and its output bfloat16 again in what follows."""
    learned, batch = policy(family), recorded()
    with torch.autocast("cpu", torch.bfloat16), CUDACasts():
        before = operations(lambda: learned.backbone(learned.preprocessing(batch)))
        after = operations(lambda: learned.encode(batch))
    norms = after["aten::layer_norm"]
    assert norms >= 2 * len(learned.backbone.visual.blocks)
    assert before["aten::_to_copy"] - after["aten::_to_copy"] == 4 * norms


@pytest.mark.parametrize("options", [{"finetune": "lora"}, {"finetune": "full"}, {"frozen_dtype": "fp32"}])
def test_what_is_held_in_float32_stays_in_autocast(options: dict[str, Any]) -> None:
    learned = policy(Qwen3VLPolicyCfg, **options)
    assert not learned.backbone.is_bfloat16
    seen = []
    learned.backbone.register_forward_pre_hook(lambda *_: seen.append(torch.is_autocast_enabled("cpu")))
    with torch.autocast("cpu", torch.bfloat16):
        learned.encode(recorded())
    assert seen == [True]
