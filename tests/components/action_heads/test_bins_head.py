"""Binned tokens: the round trip, exact log-probabilities and KL, both ways of decoding."""

import pytest
import torch
from prefixes import build, prefix_for
from RoboRenForce.components.action_heads import BinsHeadCfg
from RoboRenForce.components.action_heads.bins import from_bins, to_bins
from RoboRenForce.components.action_heads.token_choice import draw_tokens
from RoboRenForce.networks import TokenDecoderCfg
from torch.distributions import Categorical, kl_divergence

DECODER = TokenDecoderCfg(dim=16, num_layers=2, num_heads=2)
CFGS = {
    "queries": BinsHeadCfg(chunk_size=3, num_bins=16),
    "pooled": BinsHeadCfg(chunk_size=3, num_bins=16, features="pooled"),
    "autoregressive": BinsHeadCfg(chunk_size=3, num_bins=16, decoding="autoregressive", decoder=DECODER),
}


def test_bins_return_each_number_to_half_a_bin_and_their_centers_exactly():
    actions = torch.cat([torch.linspace(-1, 1, 10_001), torch.tensor([-3.0, 3.0])])
    tokens = to_bins(actions, 256, 1.0)
    assert tokens.min() == 0 and tokens.max() == 255 and len(tokens.unique()) == 256
    assert (from_bins(tokens, 256, 1.0)[:-2] - actions[:-2]).abs().max() <= 1 / 256 + 1e-6
    assert from_bins(tokens, 256, 1.0)[-2:].tolist() == pytest.approx([-1 + 1 / 256, 1 - 1 / 256])
    every = torch.arange(256)
    assert torch.equal(to_bins(from_bins(every, 256, 2.5), 256, 2.5), every)


@pytest.mark.parametrize("name", CFGS)
@pytest.mark.parametrize("temperature", [1.0, 1.6])
def test_a_record_gives_the_log_probability_of_its_tokens_at_the_temperature(name, temperature):
    cfg = CFGS[name].replace(temperature=temperature)
    head, prefix = build(cfg), prefix_for(cfg, 4)
    actions, record = head.act(prefix, deterministic=False, generator=torch.Generator().manual_seed(1))
    tokens = record["tokens"]
    torch.testing.assert_close(actions, from_bins(tokens, 16, 1.0))
    exact = Categorical(logits=head.logits(prefix, tokens) / temperature)
    evaluation = head.evaluate(prefix, record)
    assert evaluation.log_prob.shape == (4, 3, 2)
    torch.testing.assert_close(evaluation.log_prob, exact.log_prob(tokens))
    torch.testing.assert_close(evaluation.entropy, exact.entropy())


@pytest.mark.parametrize("name", CFGS)
def test_loss_and_divergence_are_exact_means_over_valid_tokens(name):
    cfg = CFGS[name]
    head, other, prefix = build(cfg), build(cfg), prefix_for(cfg, 4)
    actions, mask = torch.rand(4, 3, 2) * 2 - 1, torch.rand(4, 3, 2) < 0.6
    tokens = to_bins(torch.where(mask, actions, 0.0), 16, 1.0)
    ours = Categorical(logits=head.logits(prefix, tokens))
    torch.testing.assert_close(head.loss(prefix, actions, mask).mean, -ours.log_prob(tokens)[mask].mean())
    kl = kl_divergence(ours, Categorical(logits=other.logits(prefix, tokens)))
    torch.testing.assert_close(head.divergence(prefix, other, prefix, actions, mask).mean, kl[mask].mean())
    assert head.divergence(prefix, head, prefix, actions, mask).total == 0


def test_decoding_one_by_one_sees_the_logits_of_the_whole_sequence():
    head, prefix = build(CFGS["autoregressive"]), prefix_for(CFGS["autoregressive"], 4)
    seen = []

    def choose(logits):
        seen.append(logits)
        return draw_tokens(logits, 1.0, False)

    tokens = head.decoder.generate(head.decoder.encode(prefix), choose)
    whole = head.decoder(tokens, head.decoder.encode(prefix))
    torch.testing.assert_close(torch.stack(seen, 1), whole, atol=1e-5, rtol=1e-5)


def test_a_token_depends_on_those_before_it_only():
    head, prefix = build(CFGS["autoregressive"]), prefix_for(CFGS["autoregressive"], 4)
    tokens = torch.randint(16, (4, 3, 2))
    changed = tokens.clone()
    changed[:, 1, 1] = (changed[:, 1, 1] + 1) % 16
    same = (head.logits(prefix, tokens) == head.logits(prefix, changed)).all(-1)
    assert same.flatten(1)[:, :4].all() and not same.flatten(1)[:, 4:].any()


def test_drawn_tokens_follow_the_softmax_and_greedy_ones_its_mode():
    logits = torch.tensor([0.5, -1.0, 2.0, 0.0]).expand(200_000, 4)
    drawn = draw_tokens(logits, 1.6, False, torch.Generator().manual_seed(0))
    share = torch.bincount(drawn, minlength=4) / len(drawn)
    torch.testing.assert_close(share, (logits[0] / 1.6).softmax(-1), atol=5e-3, rtol=0)
    assert (draw_tokens(logits, 1.6, True) == 2).all()
