"""The Qwen3-VL that learns from scratch: its size, and that a gradient step lowers its loss, in every part."""

import pytest
import torch
from RoboRenForce.cli.vla_tasks import policy_named
from RoboRenForce.components.action_heads import FlowHeadCfg
from RoboRenForce.networks.vlm.byte_tokenizer import WORDS, byte_tokenizer
from RoboRenForce.networks.vlm.qwen3_vl import Qwen3VLCfg, shifted
from vla_cases import recorded, spec

pytest.importorskip("transformers")

pytestmark = pytest.mark.oracle


def test_it_has_tens_of_millions_of_parameters_which_all_learn():
    cfg = policy_named("qwen3_vl_small")
    cfg.backbone.image_size, cfg.head = [64, 64], FlowHeadCfg(chunk_size=4)
    policy = cfg.build(spec())
    backbone = dict(policy.backbone.named_parameters())
    assert 40e6 < sum(parameter.numel() for parameter in backbone.values()) < 45e6
    assert all(parameter.requires_grad and parameter.dtype == torch.float32 for parameter in backbone.values())

    batch = recorded()

    def loss():
        torch.manual_seed(0)  # of time and noise
        return policy.loss(policy.encode(batch), batch["action"], batch["action_is_pad"]).mean

    optimizer = torch.optim.AdamW(policy.parameters(), lr=1e-4)
    before = loss()
    before.backward()
    unused = [name for name, parameter in backbone.items() if parameter.grad is None or not parameter.grad.any()]
    assert not unused
    optimizer.step()
    with torch.no_grad():
        assert loss() < before


def test_words_of_instructions_are_tokens_and_all_else_is_spelled():
    tokenizer = byte_tokenizer()

    def encode(text):
        return tokenizer.encode(text, add_special_tokens=False)

    assert len(encode("pick up the red cube").ids) == 5
    assert encode("lift the red cube").ids[1:] == encode("raise the red cube").ids[1:]
    assert encode("the reddest").tokens[1:] == list("\u0120reddest")  # no word within another
    assert tokenizer.get_vocab_size() == 270 + len(WORDS) <= 320


def test_an_image_is_shifted_by_whole_pixels_with_its_edge_repeated():
    torch.manual_seed(0)
    images = torch.arange(12 * 12).view(1, 12, 12, 1).expand(64, -1, -1, 3).to(torch.uint8)
    out, moved = shifted(images, 3)
    assert out.dtype == torch.uint8 and moved.abs().max() == 3 and len(moved.unique(dim=0)) > 20
    for picture, (down, right) in zip(out[..., 0].tolist(), moved.tolist(), strict=True):
        clamped = [
            [min(max(row + down, 0), 11) * 12 + min(max(column + right, 0), 11) for column in range(12)]
            for row in range(12)
        ]
        assert picture == clamped


def test_positions_move_with_a_shifted_image():
    cfg = Qwen3VLCfg(model_name="tiny", finetune="full", image_size=[64, 96], shift=16)
    eye = cfg.build(num_cameras=1, state_dim=0)
    order = eye.patch_place.argsort()
    there = eye._learned_positions(None)[order].unflatten(0, (4, 6))
    moved = eye._learned_positions(torch.tensor([[0, 0], [16, 0], [0, -16], [8, 8]]))[:, order].unflatten(1, (4, 6))
    torch.testing.assert_close(moved[0], there)
    torch.testing.assert_close(moved[1, :3], there[1:])  # patches have 16 pixels
    torch.testing.assert_close(moved[2, :, 1:], there[:, :5])
    corners = there[:3, :5] + there[1:, :5] + there[:3, 1:] + there[1:, 1:]
    torch.testing.assert_close(moved[3, :3, :5], corners / 4)

    images = torch.randint(0, 255, (2, 64, 96, 3), dtype=torch.uint8)
    with torch.no_grad():
        assert not torch.equal(eye._tower(images)[0], eye._tower(images)[0])
        eye.eval()  # who acts sees what is there
        assert torch.equal(eye._tower(images)[0], eye._tower(images)[0])


def test_who_learns_from_scratch_begins_with_layers_that_keep_what_they_read():
    eye = Qwen3VLCfg(model_name="small", finetune="full", image_size=[128, 128]).build(num_cameras=1, state_dim=0)
    for module in eye.modules():
        if isinstance(module, torch.nn.Linear) and module is not eye.state:
            assert module.weight.std().item() == pytest.approx(module.in_features**-0.5, rel=0.05)
    positions = eye._learned_positions(None)
    distance = torch.cdist(positions, positions) + 100 * torch.eye(len(positions))
    assert distance.min() > 1.0  # every place is another
    patches = eye._embed(torch.randint(0, 255, (4, 128, 128, 3), dtype=torch.uint8))
    assert patches.std() > 5 * positions.std()
