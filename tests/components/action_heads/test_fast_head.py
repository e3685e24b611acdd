"""FAST tokens: the transform and the round trip in closed form, foreign lengths, vocabulary in the checkpoint."""

import copy

import pytest
import scipy.fft
import torch
from prefixes import build, prefix_for
from RoboRenForce.components.action_heads import FASTHeadCfg
from RoboRenForce.components.action_heads.fast_tokenizer import FASTTokenizer
from RoboRenForce.components.action_heads.masking import held_actions
from RoboRenForce.configclass import ConfigError
from RoboRenForce.networks import TokenDecoderCfg
from RoboRenForce.utils.errors import UserError

H, A = 8, 2
CFG = FASTHeadCfg(chunk_size=H, decoder=TokenDecoderCfg(dim=16, num_layers=1, num_heads=2))


def smooth_chunks(number, seed=0):
    """Arcs like those of demonstrations: `(number, H, A)` within [-1, 1]."""
    generator = torch.Generator().manual_seed(seed)
    phase, rate = torch.rand(2, number, 1, A, generator=generator) * torch.tensor([6.28, 1.5]).view(2, 1, 1, 1)
    return torch.sin(phase + rate * torch.linspace(0, 1, H).view(1, H, 1)) * 0.9


@pytest.fixture(scope="module")
def fitted():
    tokenizer = FASTTokenizer(H, A, scale=10.0, vocabulary=300, num_levels=128, max_tokens=H * A + 1)
    tokenizer.fit(smooth_chunks(2000))
    return tokenizer


def test_symbols_are_the_rounded_cosine_transform_low_frequencies_first(fitted):
    chunks = smooth_chunks(5, seed=1)
    expected = scipy.fft.dct(chunks.numpy(), axis=1, norm="ortho") * 10
    assert torch.equal(fitted.symbols_of(chunks) - 64, torch.from_numpy(expected).round().long().flatten(1))


def test_a_round_trip_stays_within_the_error_of_rounding_and_needs_fewer_tokens_than_numbers(fitted):
    chunks = torch.cat([smooth_chunks(200, seed=2), torch.rand(200, H, A) * 2 - 1])
    tokens = fitted.encode(chunks)
    decoded, valid = fitted.decode(tokens)
    assert valid.all() and (decoded - chunks).abs().max() <= H**0.5 / 20
    assert float((decoded - chunks)[200:].square().mean().sqrt()) == pytest.approx(12**-0.5 / 10, rel=0.1)
    lengths = (tokens != fitted.end).sum(1).float()
    assert lengths[:200].mean() < 0.6 * H * A


def test_the_end_and_what_follows_it_stand_for_nothing(fitted):
    tokens = fitted.encode(smooth_chunks(4))
    behind = torch.where((tokens == fitted.end).cumsum(1) > 1, torch.randint(300, tokens.shape), tokens)
    torch.testing.assert_close(fitted.decode(behind)[0], fitted.decode(tokens)[0])


def test_too_few_coefficients_are_zero_and_too_many_are_dropped(fitted):
    single = torch.arange(64, 64 + H * A) % 128  # tokens of one coefficient each
    short, long = single[None, : H * A - 3], torch.cat([single, single])[None]
    decoded, valid = fitted.decode(short)
    expected = torch.cat([single[: H * A - 3], torch.full((3,), 64)])[None]
    torch.testing.assert_close(decoded, fitted.actions_of(expected))
    assert not valid.any()
    decoded, valid = fitted.decode(long)
    torch.testing.assert_close(decoded, fitted.actions_of(single[None]))
    assert not valid.any()
    nothing, valid = fitted.decode(torch.full((1, 3), fitted.end))
    assert (nothing == 0).all() and not valid.any()


def test_the_head_counts_chunks_of_a_wrong_length():
    head, prefix = build(CFG), prefix_for(CFG, 6)
    head.fit(smooth_chunks(500))
    actions, _ = head.act(prefix, deterministic=False)
    assert actions.shape == (6, H, A) and actions.isfinite().all()
    assert head.num_decoded == 6 and 0 < head.num_invalid <= 6  # an untrained decoder hits the length rarely


def test_vocabulary_and_actions_come_back_from_a_state_dict_of_tensors(tmp_path):
    head, prefix = build(CFG), prefix_for(CFG, 3)
    head.fit(smooth_chunks(500))
    torch.save(head.state_dict(), tmp_path / "head.pt")
    other = build(CFG)
    other.load_state_dict(torch.load(tmp_path / "head.pt", weights_only=True))
    chunks = smooth_chunks(20, seed=3)
    for loaded in (other, copy.deepcopy(head)):
        assert torch.equal(loaded.tokenizer.encode(chunks), head.tokenizer.encode(chunks))
        assert torch.equal(loaded.act(prefix)[0], head.act(prefix)[0])


def test_the_log_probability_of_a_chunk_is_the_sum_of_its_tokens_up_to_the_end():
    cfg = CFG.replace(temperature=1.6)
    head, prefix = build(cfg), prefix_for(cfg, 5)
    head.fit(smooth_chunks(500))
    _, record = head.act(prefix, deterministic=False)
    tokens = record["tokens"].clone()
    tokens[0, 4] = head.tokenizer.end
    log_p = (head.decoder(tokens, head.decoder.encode(prefix)) / 1.6).log_softmax(-1)
    taken = log_p.gather(-1, tokens[..., None]).squeeze(-1)
    evaluation = head.evaluate(prefix, {"tokens": tokens})
    assert evaluation.log_prob.shape == (5, H, A)
    torch.testing.assert_close(evaluation.log_prob[0].sum(), taken[0, :5].sum())


def test_the_loss_is_the_cross_entropy_up_to_the_end_and_rows_without_valid_elements_are_left_out():
    head, prefix = build(CFG), prefix_for(CFG, 3)
    head.fit(smooth_chunks(500))
    chunks, mask = smooth_chunks(3, seed=4), torch.ones(3, H, A, dtype=torch.bool)
    mask[2] = False
    tokens = head.tokenizer.encode(chunks[:2])
    log_p = head.decoder(tokens, head.decoder.encode(prefix.rows(slice(0, 2)))).log_softmax(-1)
    by_hand = [
        -log_p[row, i, tokens[row, i]]
        for row in range(2)
        for i in range(int((tokens[row] != head.tokenizer.end).sum()) + 1)
    ]
    loss = head.loss(prefix, chunks, mask)
    torch.testing.assert_close(loss.mean, torch.stack(by_hand).mean())
    assert loss.count == len(by_hand) and loss.metrics["tokens_per_chunk"] == len(by_hand) / 2


def test_padded_steps_repeat_the_last_valid_action():
    actions = torch.arange(8.0).view(1, 4, 2)
    mask = torch.tensor([[[1, 0], [1, 1], [0, 1], [0, 0]]]).bool()
    assert held_actions(actions, mask)[0].tolist() == [[0, 0], [2, 3], [2, 5], [2, 5]]
    assert not held_actions(torch.full((1, 4, 2), torch.nan), mask & False).any()


def test_what_does_not_fit_is_one_sentence():
    with pytest.raises(UserError, match=r"no vocabulary yet: call `head.fit"):
        build(CFG).loss(prefix_for(CFG, 2), torch.zeros(2, H, A), torch.ones(2, H, A, dtype=torch.bool))
    with pytest.raises(UserError, match=r"need more than max_tokens=3 tokens; set max_tokens=\d+"):
        build(CFG.replace(max_tokens=3)).fit(torch.rand(200, H, A) * 2 - 1)
    with pytest.raises(UserError, match=r"beyond num_levels=16; set num_levels=\d+"):
        build(CFG.replace(num_levels=16)).fit(smooth_chunks(200))
    with pytest.raises(ConfigError, match="vocabulary: 256 leaves no token to merge num_levels=256"):
        build(CFG.replace(vocabulary=256))
