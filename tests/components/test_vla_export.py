"""Exported policies give the same actions without the run, the base model and (merged) peft; others read the file."""

import json

import pytest
import torch
from RoboRenForce.components.action_heads import RegressionHeadCfg
from RoboRenForce.components.vla_export import export_vla, load_vla
from RoboRenForce.components.vla_policy import MLPBaselinePolicyCfg, Qwen2VLPolicyCfg, Qwen3VLPolicyCfg
from RoboRenForce.networks.vlm import Qwen2VLCfg, Qwen3VLCfg
from RoboRenForce.networks.vlm.lora import adapted_layers
from RoboRenForce.utils.errors import CheckpointError
from vla_cases import CHUNK, policy, recorded

pytestmark = pytest.mark.contract
safetensors = pytest.importorskip("safetensors.torch")


def qwen(family, **options):
    pytest.importorskip("transformers")
    pytest.importorskip("peft")
    preset, backbone, size = {
        "qwen2": (Qwen2VLPolicyCfg, Qwen2VLCfg, [56, 56]),
        "qwen3": (Qwen3VLPolicyCfg, Qwen3VLCfg, [64, 64]),
    }[family]
    options = {"frozen_dtype": "fp32"} | options
    built = policy(
        preset,
        backbone=backbone(model_name="tiny", image_size=size, **options),
        head=RegressionHeadCfg(chunk_size=CHUNK),
    )
    with torch.no_grad():
        for layer in adapted_layers(built).values():
            layer.lora_B["default"].weight.normal_(std=0.1)
    return built


def test_the_baseline(tmp_path):
    built = policy(MLPBaselinePolicyCfg)
    loaded = load_vla(export_vla(built, tmp_path))
    assert torch.equal(loaded(recorded()), built(recorded())) and loaded.spec == built.spec
    names = safetensors.load_file(tmp_path / "model.safetensors").keys()
    assert names == built.state_dict().keys()
    assert json.loads((tmp_path / "config.json").read_text())["spec"]["cameras"] == ["front", "wrist"]


@pytest.mark.parametrize("family", ["qwen2", "qwen3"])
@pytest.mark.parametrize("finetune", ["frozen", "lora", "full"])
@pytest.mark.parametrize("merged", [True, False])
def test_qwen(family, finetune, merged, tmp_path):
    if finetune != "lora" and not merged:
        pytest.skip("nothing to merge")
    built = qwen(family, finetune=finetune)
    expected = built(recorded())
    export_vla(built, tmp_path / "exported", merge_adapters=merged)
    assert torch.equal(built(recorded()), expected)  # it stays as it is
    moved = (tmp_path / "exported").rename(tmp_path / "elsewhere")
    loaded = load_vla(moved)
    torch.testing.assert_close(loaded(recorded()), expected, atol=1e-5, rtol=1e-4)
    assert bool(adapted_layers(loaded)) == (finetune == "lora" and not merged)


def test_merging_in_bfloat16_stays_close(tmp_path):
    built = qwen("qwen2", finetune="lora", frozen_dtype="bf16")
    loaded = load_vla(export_vla(built, tmp_path))
    assert (loaded(recorded()) - built(recorded())).abs().mean() < 0.05


def test_refusals(tmp_path):
    with pytest.raises(CheckpointError, match="can't be read"):
        load_vla(tmp_path)
    export_vla(policy(), tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"\1" * 40)
    with pytest.raises(CheckpointError, match=r"model\.safetensors' can't be read"):
        load_vla(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"format": "other"}))
    with pytest.raises(CheckpointError, match="describes no RoboRenForce VLA policy"):
        load_vla(tmp_path)
