"""Qwen backbones against transformers' own forward pass: images, text, positions and weights have to be the same."""

import pytest
import torch
from qwen_models import CFGS, observe, reference, saved, size_of
from RoboRenForce.configclass import ConfigError
from RoboRenForce.networks.vlm import LoRACfg, Taps, merge_lora, without_lora
from RoboRenForce.networks.vlm.lora import adapted_layers
from RoboRenForce.networks.vlm.qwen import QwenCfg
from RoboRenForce.networks.vlm.qwen_loading import UNPUBLISHED
from RoboRenForce.utils.errors import CheckpointError, UserError
from RoboRenForce.utils.module_state import module_state

pytest.importorskip("transformers")
pytest.importorskip("peft")

pytestmark = pytest.mark.oracle
FAMILIES = sorted(CFGS)


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
    return request.param


@pytest.fixture(scope="module")
def folder(family, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / family
    saved(family, path)
    return path


def build(family, folder, taps=None, states=0, cameras=2, **options):
    options = {"model_name": str(folder), "image_size": size_of(family), "frozen_dtype": "fp32"} | options
    return CFGS[family](**options).build(num_cameras=cameras, state_dim=states, taps=taps)


def tiny(family, **options):
    return build(family, "tiny", **options)


@pytest.mark.parametrize("prompt", [QwenCfg().prompt, "<|im_start|>{instruction}\n{images}<|im_end|>\n"])
def test_hidden_states_are_those_of_transformers(family, folder, prompt):
    """Two cameras of unequal sides, texts of unequal length; one row lacks a camera, as if it had never been there."""
    backbone = build(family, folder, prompt=prompt)
    inputs = observe(backbone, absent=[(1, 0)])
    prefix = backbone(inputs)
    for row in range(2):
        expected = reference(saved(family, folder), family, inputs, row, prompt)
        torch.testing.assert_close(prefix.tokens[row][prefix.mask[row]], expected, atol=2e-5, rtol=1e-4)
    assert prefix.is_image.sum(1).tolist() == [12, 12] and not prefix.mask[1, prefix.is_image[1]][:6].any()


def test_what_the_head_reads(family):
    """Queries follow everything and change nothing before them; a layer is what a model cut behind it gives."""
    plain, tapped = (tiny(family, taps=taps, states=3) for taps in (Taps(), Taps(num_queries=2, num_layers=2)))
    inputs = observe(plain, states=3)
    before, prefix = plain(inputs), tapped(inputs)
    there = prefix.mask
    torch.testing.assert_close(prefix.tokens[there], before.tokens[there])
    assert prefix.queries.shape == (2, 2, 64) and (prefix.queries[0] - prefix.queries[1]).abs().max() > 1e-3
    assert torch.equal(prefix.layers[-1], prefix.tokens)
    cut = tiny(family, states=3, num_layers=len(plain.language.layers) - 1)
    cut.language.load_state_dict(plain.language.state_dict(), strict=False)
    cut.visual.load_state_dict(plain.visual.state_dict())
    torch.testing.assert_close(prefix.layers[-2][there], cut(inputs).tokens[there])


def test_state_is_a_token_where_it_can_be_learned(family):
    assert tiny(family, states=3).state is None
    backbone = tiny(family, states=3, finetune="lora")
    inputs = observe(backbone, states=3)
    prefix = backbone(inputs)
    inputs.state = inputs.state + 1
    moved = (backbone(inputs).tokens - prefix.tokens).abs().amax(-1) > 1e-6
    moved &= prefix.mask
    assert moved[:, -1].all() and not moved[:, :-1].any() and prefix.mask[:, -1].all()


@torch.no_grad()
def _train_adapters(backbone):
    generator = torch.Generator().manual_seed(2)
    for layer in adapted_layers(backbone).values():
        weight = layer.lora_B["default"].weight
        weight.copy_(0.1 * torch.randn(weight.shape, generator=generator))


def test_lora_is_trained_alone_and_merges(family, folder):
    backbone = build(family, folder, finetune="lora", lora=LoRACfg(rank=4), taps=Taps(num_queries=1))
    inputs, frozen = observe(backbone), build(family, folder, taps=Taps(num_queries=1))
    frozen.queries = backbone.queries
    torch.testing.assert_close(backbone(inputs).tokens, frozen(inputs).tokens)
    _train_adapters(backbone)
    trained = {name for name, parameter in backbone.named_parameters() if parameter.requires_grad}
    assert set(module_state(backbone, trainable_only=True)["tensors"]) == trained
    linears = 7 * len(backbone.language.layers)
    assert len(trained) == 2 * linears + 1 and all("lora_" in name or name == "queries" for name in trained)
    before = backbone(inputs)
    assert (before.tokens - frozen(inputs).tokens).abs().max() > 1e-2
    with without_lora(backbone):
        torch.testing.assert_close(backbone(inputs).tokens, frozen(inputs).tokens)
    merge_lora(backbone)
    torch.testing.assert_close(backbone(inputs).queries, before.queries, atol=1e-5, rtol=1e-4)
    assert not any("lora" in name for name, _ in backbone.named_parameters())


def test_frozen_weights_are_bfloat16_and_trained_ones_float32(family):
    backbone = tiny(family, finetune="lora", frozen_dtype="bf16", taps=Taps(num_queries=1), states=2)
    kinds = {(parameter.requires_grad, parameter.dtype) for parameter in backbone.parameters()}
    assert kinds == {(True, torch.float32), (False, torch.bfloat16)}
    exact = tiny(family, finetune="lora", taps=Taps(num_queries=1), states=2)
    exact.load_state_dict(backbone.state_dict())
    inputs = observe(exact, states=2)
    coarse, fine = backbone(inputs), exact(inputs)
    assert coarse.tokens.dtype == torch.bfloat16 and not backbone.is_frozen and tiny(family).is_frozen
    assert (coarse.queries - fine.queries).abs().mean() < 0.02
    coarse.queries.sum().backward()
    assert all(parameter.grad is not None for parameter in backbone.parameters() if parameter.requires_grad)


def test_every_trained_weight_gets_a_gradient_and_checkpointing_changes_none(family):
    grads = []
    for checkpointing in (False, True):
        torch.manual_seed(3)  # of what is new
        backbone = tiny(family, finetune="full", gradient_checkpointing=checkpointing, taps=Taps(1), states=2).train()
        prefix = backbone(observe(backbone, states=2))
        (prefix.queries.square().sum() + prefix.tokens[:, -1].square().sum()).backward()
        grads.append({name: parameter.grad for name, parameter in backbone.named_parameters()})
        assert not [name for name, grad in grads[-1].items() if grad is None]
    torch.testing.assert_close(grads[0], grads[1])


def test_random_weights_depend_on_the_seed_alone(family):
    torch.manual_seed(5)
    one, other, third = tiny(family), tiny(family), tiny(family, seed=1)
    first, second, different = (next(part.language.layers[0].parameters()) for part in (one, other, third))
    assert torch.equal(first, second) and not torch.equal(first, different)


def test_weights_load_under_the_names_of_the_hub(family, folder, tmp_path):
    """Its files of Qwen2-VL have `visual.` and `model.layers.`, whatever transformers calls them today."""
    from safetensors.torch import load_file, save_file

    if family != "qwen2_vl":
        pytest.skip("Qwen3-VL was published under today's names")
    tensors = load_file(folder / "model.safetensors")
    published = {
        key.replace("model.language_model.", "model.").replace("model.visual.", "visual."): value
        for key, value in tensors.items()
    }
    assert "model.layers.0.input_layernorm.weight" in published and "visual.blocks.0.norm1.weight" in published
    for name in ("config.json", "tokenizer.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    save_file(published, tmp_path / "model.safetensors", metadata={"format": "pt"})
    one, other = build(family, folder), build(family, tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_a_missing_weight_is_named(family, folder, tmp_path):
    from safetensors.torch import load_file, save_file

    for name in ("config.json", "tokenizer.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    tensors = load_file(folder / "model.safetensors")
    del tensors[next(name for name in tensors if name.endswith(".layers.1.mlp.up_proj.weight"))]
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"layers\.1\.mlp\.up_proj\.weight' is missing"):
        build(family, tmp_path)
    build(family, tmp_path, num_layers=1)  # it is of a layer that is cut


def test_absent_weights_are_downloaded_in_their_size(family, monkeypatch):
    def is_absent(*_, **__):
        raise OSError("not in the cache")

    monkeypatch.setattr("huggingface_hub.snapshot_download", is_absent)
    for name in (name for name in CFGS[family].architectures if name.startswith("Qwen/")):
        size = name.split("-")[-2]
        with pytest.raises(UserError, match=rf"setup_models.sh {CFGS[family].setup_name} --size {size}` where"):
            build(family, name)


def test_refusals(family, folder, tmp_path):
    cfg = CFGS[family]
    with pytest.raises(UserError, match=rf"setup_models.sh {cfg.setup_name}"):
        build(family, "Qwen/none-such", random_weights=False)
    other = CFGS[next(name for name in FAMILIES if name != family)]
    with pytest.raises(UserError, match=f"holds a model of type '{family}'"):
        other(model_name=str(folder)).build(num_cameras=1, state_dim=0)
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    with pytest.raises(UserError, match=r"has no tokenizer\.json"):
        build(family, tmp_path, random_weights=True)
    with pytest.raises(ConfigError, match=f"no multiple of {cfg.token_pixels}"):
        cfg(image_size=[100, cfg.token_pixels]).validate()
    with pytest.raises(ConfigError, match=r"\{instruction\} once"):
        cfg(prompt="{images}").validate()
    with pytest.raises(ConfigError, match="The head reads 9 layers"):
        tiny(family, taps=Taps(num_layers=9))


PUBLISHED = {  # billions, without the language-model head where it is not tied
    "Qwen/Qwen2-VL-2B-Instruct": 2.209,
    "Qwen/Qwen2-VL-7B-Instruct": 8.291 - 0.545,
    "Qwen/Qwen3-VL-2B-Instruct": 2.128,
    "Qwen/Qwen3-VL-4B-Instruct": 4.438,
    "Qwen/Qwen3-VL-8B-Instruct": 8.767 - 0.622,
}


def test_architectures_have_the_published_sizes(family):
    import transformers

    cfg = CFGS[family]
    model_class, config_class = (getattr(transformers, cfg.class_name + kind) for kind in ("Model", "Config"))
    for name, arguments in cfg.architectures.items():
        if name not in UNPUBLISHED:
            with torch.device("meta"):
                model = model_class(config_class(**arguments))
            count = sum(parameter.numel() for parameter in model.parameters())
            assert count / 1e9 == pytest.approx(PUBLISHED[name], abs=6e-4), name
