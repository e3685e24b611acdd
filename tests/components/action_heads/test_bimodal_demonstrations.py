"""Two ways to do it, equally good: which heads keep both (algorithms.md 6.1)."""

import pytest
import torch
from RoboRenForce.components.action_heads import (
    BinsHeadCfg,
    DiffusionHeadCfg,
    DiTHeadCfg,
    FASTHeadCfg,
    FlowHeadCfg,
    RegressionHeadCfg,
)
from RoboRenForce.networks import DiTCfg, MLPDenoiserCfg, ResidualMLPCfg, TokenDecoderCfg
from RoboRenForce.networks.vlm import Prefix

H, A, WIDTH = 2, 1, 8
MLP = ResidualMLPCfg(dim=128, num_blocks=2, activation="ReLU")
DENOISER = MLPDenoiserCfg(network=MLP, time_dim=16)
DIT = DiTCfg(dim=32, num_layers=2, num_heads=2)
DECODER = TokenDecoderCfg(dim=32, num_layers=1, num_heads=2)


def same_observation(batch):
    mask = torch.ones(batch, 1, dtype=torch.bool)
    features = torch.ones(batch, 1, WIDTH)
    return Prefix(features, mask, ~mask, torch.zeros(batch, 0), queries=features.expand(-1, H, -1))


def demonstrations(number, generator):
    """Chunks that go left or right throughout, +-0.7 with noise of std 0.05."""
    way = torch.randint(2, (number, 1, 1), generator=generator) * 1.4 - 0.7
    return way + 0.05 * torch.randn(number, H, A, generator=generator)


def train(cfg, updates, learning_rate=1e-2, batch=512):
    head = cfg.build(width=WIDTH, state_dim=0, action_dim=A)
    generator = torch.Generator().manual_seed(0)
    head.fit(demonstrations(2000, generator))
    prefix, mask = same_observation(batch), torch.ones(batch, H, A, dtype=torch.bool)
    optimizer = torch.optim.AdamW(head.parameters(), learning_rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, updates)
    for _ in range(updates):
        optimizer.zero_grad()
        head.loss(prefix, demonstrations(batch, generator), mask, generator=generator).mean.backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        return head.act(same_observation(2000), deterministic=False, generator=generator)[0]


@pytest.mark.learning
@pytest.mark.parametrize(
    ("cfg", "updates"),
    [
        # Exact velocities give a std of 0.025 in 10 steps and of 0.043 in 50.
        pytest.param(FlowHeadCfg(network=DENOISER, num_steps=50), 500, id="flow"),
        pytest.param(DiTHeadCfg(network=DIT, num_steps=50), 1000, id="dit", marks=pytest.mark.long),
        pytest.param(DiffusionHeadCfg(network=DENOISER, num_steps=50), 700, id="diffusion"),
        pytest.param(BinsHeadCfg(decoding="autoregressive", decoder=DECODER, num_bins=64), 400, id="bins"),
        pytest.param(FASTHeadCfg(decoder=DECODER, vocabulary=160, num_levels=100, scale=30.0), 250, id="fast"),
    ],
)
def test_generative_heads_and_tokens_sample_both_ways_and_never_mix_them(cfg, updates):
    samples = train(cfg.replace(chunk_size=H), updates).squeeze(-1)
    right = samples[:, 0] > 0
    assert float(right.float().mean()) == pytest.approx(0.5, abs=0.07)
    assert float(((samples[:, 1] > 0) == right).float().mean()) > 0.98
    # Tokens that nobody demonstrated keep some probability; what matters of the others is their spread.
    counted = (samples.abs() - 0.7).abs() < 0.25 if isinstance(cfg, (BinsHeadCfg, FASTHeadCfg)) else samples < 10
    assert counted.float().mean() > 0.98
    for way, center in ((right, 0.7), (~right, -0.7)):
        way = way.unsqueeze(-1) & counted
        assert float(samples[way].mean()) == pytest.approx(center, abs=0.05)
        assert float(samples[way].std()) == pytest.approx(0.05, abs=0.02)


@pytest.mark.learning
def test_regression_predicts_the_mean_which_nobody_demonstrated():
    cfg = RegressionHeadCfg(chunk_size=H, network=MLP, loss="l2", std=1e-6)
    assert train(cfg, 200).abs().max() < 0.1


@pytest.mark.learning
def test_bins_in_one_pass_give_both_ways_of_each_action_but_mix_them_within_a_chunk():
    samples = train(BinsHeadCfg(chunk_size=H, num_bins=64, network=MLP), 300).squeeze(-1)
    right = samples > 0
    assert float(right.float().mean()) == pytest.approx(0.5, abs=0.07)
    assert float((right[:, 0] != right[:, 1]).float().mean()) == pytest.approx(0.5, abs=0.07)
