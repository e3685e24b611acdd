"""pi0 of transformers: its names in memory and in its files, and the loss of the same weights."""

import pytest
import torch
from openpi_cases import CHUNK, DIMS, fill, small_policy
from RoboRenForce.components.openpi_convert import write_published
from RoboRenForce.components.openpi_weights import LAYOUTS, load_weights
from RoboRenForce.networks.vlm import VLMInputs
from safetensors.torch import load_file, save_file

transformers = pytest.importorskip("transformers")
if not hasattr(transformers, "PI0ForConditionalGeneration"):
    pytest.skip("this version of transformers has no pi0", allow_module_level=True)

pytestmark = pytest.mark.oracle

ROWS, IMAGE_TOKEN, IMAGE_TOKENS = 2, 319, 16


@pytest.fixture(scope="module")
def model():
    """Of the geometry of `openpi_cases`, with random weights."""
    gemma = {"model_type": "gemma", "num_hidden_layers": 3, "num_attention_heads": 8, "num_key_value_heads": 1}
    gemma |= {"head_dim": 16, "vocab_size": 320}
    vision = {"model_type": "siglip_vision_model", "hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2}
    vision |= {"num_attention_heads": 2, "image_size": 64, "patch_size": 16, "vision_use_head": False}
    vlm = {
        "model_type": "paligemma",
        "text_config": gemma | {"hidden_size": 64, "intermediate_size": 128},
        "vision_config": vision,
        "projection_dim": 64,
        "image_token_id": IMAGE_TOKEN,
    }
    dit = gemma | {"hidden_size": 32, "intermediate_size": 64}
    config = transformers.PI0Config(vlm_config=vlm, dit_config=dit, chunk_size=CHUNK, max_action_dim=DIMS)
    found = transformers.PI0ForConditionalGeneration(config).eval()
    fill(found)
    return found


@pytest.mark.parametrize("source", ["state_dict", "save_pretrained"])
def test_its_weights_go_in_and_come_back(tmp_path, model, source):
    theirs = dict(model.state_dict())
    if source == "state_dict":
        save_file({name: value.clone() for name, value in theirs.items()}, tmp_path / "model.safetensors")
    else:
        model.save_pretrained(tmp_path)
        assert any("language_model.model.layers" in name for name in load_file(tmp_path / "model.safetensors"))
    policy = small_policy("pi0")
    load_weights(policy, tmp_path)
    written = load_file(write_published(policy, tmp_path / "back", LAYOUTS["transformers"]))
    assert written.keys() == theirs.keys()
    unused = "model.dit.embed_tokens.weight"
    assert not written.pop(unused).any()
    assert all(torch.equal(value, theirs[name]) for name, value in written.items())
    assert abs(our_loss(policy) - float(their_loss(model))) < 1e-5


def test_it_loads_what_is_written(tmp_path, model):
    policy = small_policy("pi0")
    load_weights(policy, _saved(tmp_path, model))
    for layout in ("openpi", "transformers"):
        write_published(policy, tmp_path / layout, LAYOUTS[layout])
        again = type(model).from_pretrained(tmp_path / layout, config=model.config).eval()
        assert torch.equal(their_loss(again), their_loss(model)), layout


def _saved(folder, model):
    model.save_pretrained(folder / "saved")
    return folder / "saved"


def batch():
    generator = torch.Generator().manual_seed(3)
    noise, actions = torch.randn(2, ROWS, CHUNK, DIMS, generator=generator)
    return {
        "images": torch.randint(0, 256, (ROWS, 1, 64, 64, 3), generator=generator, dtype=torch.uint8),
        "text": torch.randint(1, 300, (ROWS, 5), generator=generator),
        "state": torch.randn(ROWS, DIMS, generator=generator),
        "noise": noise,
        "actions": actions,
        "time": torch.tensor([0.25, 0.6875]),  # theirs: 1 is noise
    }


@torch.no_grad()
def their_loss(model):
    data = batch()
    pictures = torch.full((ROWS, IMAGE_TOKENS), IMAGE_TOKEN)
    ids = torch.cat([pictures, data["text"]], 1)
    return model(
        state=data["state"],
        noise=data["noise"],
        timestep=data["time"],
        input_ids=ids,
        pixel_values=data["images"].permute(0, 1, 4, 2, 3).float() / 127.5 - 1,
        pixel_attention_mask=torch.ones(ROWS, 1, dtype=torch.bool),
        attention_mask=torch.ones_like(ids),
        actions=data["actions"],
    ).loss


@torch.no_grad()
def our_loss(policy):
    data = batch()
    there = torch.ones(ROWS, 1, dtype=torch.bool)
    text = torch.ones_like(data["text"], dtype=torch.bool)
    prefix = policy.backbone(VLMInputs(data["images"], there, data["text"], text, data["state"]))
    time = 1 - data["time"]
    x = data["noise"] + time[:, None, None] * (data["actions"] - data["noise"])
    network = policy.head.network
    velocity = network(x, time, network.encode(prefix))
    return float((velocity - (data["actions"] - data["noise"])).square().mean())
