"""PaliGemma as a backbone: prompts, what is left out, and what is trained."""

import numpy as np
import pytest
import torch
from RoboRenForce.components.openpi_policy import paligemma
from RoboRenForce.configclass import ConfigError
from RoboRenForce.networks.vlm import LoRACfg, Taps, VLMInputs
from RoboRenForce.networks.vlm.gemma import grouped_attention, rotate, rotation_of
from RoboRenForce.networks.vlm.paligemma_prompt import WORDS, PaliGemmaPrompt
from RoboRenForce.utils.errors import UserError
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import nn

CONTRACT, ORACLE = pytest.mark.contract, pytest.mark.oracle
TEXTS = ("pick up the_bowl\n", "wait")


def inputs(backbone, cameras=2, states=3, rows=2):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (rows, cameras, 64, 64, 3), generator=generator, dtype=torch.uint8)
    texts = backbone.tokenize([TEXTS[row % 2] for row in range(rows)])
    there = torch.ones(rows, cameras, dtype=torch.bool)
    return VLMInputs(images, there, *texts, torch.randn(rows, states, generator=generator))


def built(variant="pi05", cameras=2, **changes):
    torch.manual_seed(0)
    return (
        paligemma(variant, "tiny")
        .replace(**changes)
        .build(num_cameras=cameras, state_dim=3, taps=Taps(key_values=True, reads_tokens=False))
    )


@ORACLE
def test_prompts_are_those_of_the_authors():
    """The text that openpi builds, with its bins by numpy, tokenized as a whole."""
    prompt = PaliGemmaPrompt(WORDS, 4096, state_dim=4)
    state = torch.tensor([[-1.0, 0.99999, 0.0, 1.7], [-1.1, -0.0001, 1.0, 0.0078125]])
    ids, mask = prompt(*prompt.tokenize(TEXTS), state)
    bos = prompt.tokenizer.token_to_id("<bos>")
    for row, text in enumerate(("pick up the bowl", "wait")):
        bins = np.digitize(state[row].numpy(), bins=np.linspace(-1, 1, 257)[:-1]) - 1
        whole = f"Task: {text}, State: {' '.join(map(str, bins))};\nAction: "
        assert ids[row][mask[row]].tolist() == [bos, *prompt.tokenizer.encode(whole).ids]
    without = PaliGemmaPrompt(WORDS, 4096, state_dim=None)
    ids, mask = without(*without.tokenize(TEXTS), state)
    assert ids[1][mask[1]].tolist() == [bos, *without.tokenizer.encode("wait\n").ids]


@CONTRACT
def test_a_tokenizer_whose_numbers_depend_on_their_neighbors_is_refused(tmp_path):
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {sign: number for number, sign in enumerate([*letters, "8;"])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[("8", ";")]))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("\n", "isolated")
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(UserError, match="splits a number differently"):
        PaliGemmaPrompt(str(tmp_path), 300, state_dim=2)


@CONTRACT
def test_what_is_not_there_changes_nothing():
    """Trimmed and padded observations, and rows beside others, have the same keys at the same tokens."""
    trimmed, padded = built(), built(padded=True)
    padded.load_state_dict(trimmed.state_dict())
    seen = inputs(trimmed)
    seen.has_image[1, 1] = False
    short, long = trimmed(seen), padded(seen)
    assert short.key_mask.shape[1] < long.key_mask.shape[1] == 3 * 16 + 200 and short.key_mask.shape[1] % 8 == 0
    for row in range(2):
        found = short.key_values[row][..., short.key_mask[row], :]
        assert torch.allclose(found, long.key_values[row][..., long.key_mask[row], :], atol=1e-6)
    assert torch.allclose(short.tokens, long.tokens, atol=1e-6)
    seen.images[1, 1] = 255  # the absent camera
    assert torch.equal(trimmed(seen).tokens, short.tokens)
    assert not torch.allclose(trimmed(inputs(trimmed)).tokens[1], short.tokens[1], atol=1e-3)


@CONTRACT
def test_the_prefix_goes_through_a_cache():
    prefix = built()(inputs(built(), rows=3))
    again = type(prefix).from_tensors(prefix.to_tensors()).rows(torch.tensor([2, 0]))
    assert torch.equal(again.key_values, prefix.key_values[[2, 0]]) and torch.equal(
        again.key_mask[0], prefix.key_mask[2]
    )
    assert prefix.tokens.shape == (3, 1, 64) and prefix.key_values.shape[1:4] == (3, 2, 1)


@ORACLE
def test_action_tokens_are_predicted_as_by_one_pass_over_prompt_and_tokens():
    """The prompt sees itself, tokens see it and those before them, and a text that ends sooner leaves no gap."""
    backbone, vocabulary = built(), 20
    seen, embedded = inputs(backbone), []
    tokens = torch.randint(vocabulary, (2, 5), generator=torch.Generator().manual_seed(1))
    hook = backbone.language.register_forward_pre_hook(lambda module, args: embedded.append(args[0]))
    prefix = backbone(seen)
    hook.remove()
    found = backbone.action_logits(prefix, tokens, vocabulary)
    words = backbone.words(4096 - 128 - 1 - torch.arange(vocabulary + 1))
    for row in range(2):
        there = prefix.key_mask[row]
        start = torch.cat([torch.tensor([vocabulary]), tokens[row, :-1]])
        x = torch.cat([embedded[0][row][there], words[start] * 8.0]).unsqueeze(0)
        prompt = int(there.sum())
        mask = torch.ones(prompt + 5, prompt + 5, dtype=torch.bool).tril()
        mask[:prompt, :prompt] = True
        hidden, _ = backbone.language(x, torch.arange(prompt + 5).unsqueeze(0), mask.unsqueeze(0))
        expected = backbone.language.normalized(hidden[-1])[0, prompt:] @ words[:-1].T
        torch.testing.assert_close(found[row], expected, rtol=1e-4, atol=1e-5)
    tokens[:, 3] = (tokens[:, 3] + 1) % vocabulary
    changed = (backbone.action_logits(prefix, tokens, vocabulary) != found).any(-1)
    assert not changed[:, :4].any() and changed[:, 4].all()
    alone = paligemma("pi05", "tiny").build(num_cameras=2, state_dim=3)
    with pytest.raises(ConfigError, match="attend to keys and values of the prompt"):
        alone.action_logits(alone(seen), tokens, vocabulary)


@CONTRACT
def test_other_heads_get_the_features_of_all_tokens():
    backbone = paligemma("pi05", "tiny").build(num_cameras=2, state_dim=3, taps=Taps(num_layers=2))
    prefix = backbone(inputs(backbone))
    assert prefix.key_values is None and prefix.tokens.shape == prefix.layers[0].shape
    assert prefix.is_image.sum(1).tolist() == [32, 32] and torch.equal(prefix.layers[-1], prefix.tokens)
    with pytest.raises(ConfigError, match="no action query tokens"):
        paligemma("pi05", "tiny").build(num_cameras=2, state_dim=3, taps=Taps(num_queries=4))


@ORACLE
def test_grouped_attention_is_that_of_every_head_alone():
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(2, 5, 6, 8, generator=generator)
    for heads in (1, 2, 6):
        key, value = torch.randn(2, 2, heads, 7, 8, generator=generator)
        there = torch.tensor([[True] * 7, [True] * 4 + [False] * 3])[:, None]
        causal = torch.ones(5, 7, dtype=torch.bool).tril(2) & there
        for mask, by_query in ((there, there), (causal, causal.repeat_interleave(6 // heads, 1))):
            found = grouped_attention(query, key, value, by_query[:, None]).unflatten(-1, (6, 8))
            for head in range(6):
                other = head // (6 // heads)
                weight = (query[:, :, head] @ key[:, other].mT * 8**-0.5).masked_fill(~mask, -torch.inf).softmax(-1)
                assert torch.allclose(found[:, :, head], weight @ value[:, other], atol=1e-6)


@ORACLE
def test_rotary_products_depend_on_distances_alone():
    x, y = torch.randn(2, 1, 1, 2, 16, generator=torch.Generator().manual_seed(0))

    def product(first, second):
        return (
            rotate(x, rotation_of(torch.tensor([[first]]), 16)) * rotate(y, rotation_of(torch.tensor([[second]]), 16))
        ).sum(-1)

    assert torch.allclose(product(3, 7), product(103, 107), atol=1e-4)
    assert not torch.allclose(product(3, 7), product(3, 8), atol=1e-2)


@CONTRACT
def test_trained_weights_are_chosen_by_part():
    cfg = paligemma("pi05", "tiny")
    cfg.frozen_dtype = "bf16"
    cfg.language.finetune = "frozen"
    frozen = cfg.build(num_cameras=1, state_dim=3)
    assert frozen.is_frozen and frozen.is_bfloat16
    exact = {name.rsplit(".", 2)[-2] for name, p in frozen.named_parameters() if p.dtype == torch.float32}
    assert exact == {"embeddings", "layer_norm1", "layer_norm2", "post_layernorm", "input_layernorm"} | {
        "post_attention_layernorm",
        "norm",
    }
    assert frozen(inputs(frozen, cameras=1)).tokens.dtype == torch.bfloat16
    cfg.language.finetune, cfg.language.lora = "lora", LoRACfg(rank=3)
    lora = cfg.build(num_cameras=1, state_dim=3)
    trained = {name: p for name, p in lora.named_parameters() if p.requires_grad}
    assert trained and all(".lora_" in name and p.dtype == torch.float32 for name, p in trained.items())
    assert {p.shape[0] for name, p in trained.items() if "lora_A" in name} == {3}
    cfg.language.finetune, cfg.train_vision = "full", False
    full = cfg.build(num_cameras=1, state_dim=3)
    assert full.words.weight.requires_grad and not any(p.requires_grad for p in full.vision.parameters())
    assert isinstance(full.projector, nn.Linear) and not full.projector.weight.requires_grad


@CONTRACT
@pytest.mark.parametrize(("present", "pictures", "cameras"), [("100 100", 2, 1), ("101 001", 3, 2), ("101 010", 3, 3)])
def test_cameras_that_the_host_knows_to_be_absent_are_not_computed(present, pictures, cameras):
    """And give what masked ones give: the same keys and values of what is there, and the same gradients."""
    backbone, seen = built(cameras=3), inputs(built(), cameras=3)
    seen.has_image = torch.tensor([[sign == "1" for sign in row] for row in present.split()])
    counts, found = [], []
    backbone.vision.register_forward_pre_hook(lambda module, args: counts.append(len(args[0])))
    for on_host in (None, seen.has_image.clone()):
        seen.present = on_host
        backbone.zero_grad()
        prefix = backbone(seen)
        keys = [row[..., there, :] for row, there in zip(prefix.key_values, prefix.key_mask, strict=True)]
        (sum(row.square().sum() for row in keys) + prefix.tokens.square().sum()).backward()
        grads = {name: p.grad.clone() for name, p in backbone.named_parameters() if p.grad is not None}
        found.append((keys, prefix, grads))
    (keys, prefix, grads), (fewer, shorter, same) = found
    assert counts == [6, pictures]
    assert prefix.key_mask.shape[1] - shorter.key_mask.shape[1] == 16 * (3 - cameras)
    for row, other in zip(keys, fewer, strict=True):
        torch.testing.assert_close(other, row, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(shorter.tokens, prefix.tokens, rtol=1e-4, atol=1e-5)
    assert grads.keys() == same.keys() and any(name.startswith("vision.") for name in same)
    scale = max(float(grad.abs().max()) for grad in grads.values())
    for name, grad in grads.items():
        torch.testing.assert_close(same[name], grad, rtol=1e-3, atol=1e-6 * scale, msg=name)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_choosing_the_pictures_that_are_there_does_not_wait_for_the_device():
    backbone, seen = built(cameras=3).cuda(), inputs(built(), cameras=3)
    present = torch.tensor([[True, False, True], [False, False, True]])
    on_gpu = [tensor.cuda() for tensor in (seen.images, present, seen.text_ids, seen.text_mask, seen.state)]
    seen = VLMInputs(*on_gpu, present=present)
    expected = backbone(seen).tokens.detach()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = backbone(seen).tokens
        found.sum().backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.testing.assert_close(found, expected)
