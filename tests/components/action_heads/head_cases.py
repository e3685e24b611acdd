"""One small configuration of every head, with chunks of 4 actions."""

import torch
from prefixes import build, prefix_for
from RoboRenForce.components.action_heads import (
    BinsHeadCfg,
    DiffusionHeadCfg,
    DiTHeadCfg,
    FASTHeadCfg,
    FlowHeadCfg,
    FlowNoiseCfg,
    FlowSDECfg,
    RegressionHeadCfg,
)
from RoboRenForce.networks import DiTCfg, MLPDenoiserCfg, ResidualMLPCfg, TokenDecoderCfg

H = 4
MLP = ResidualMLPCfg(dim=32, num_blocks=1)
DENOISER = MLPDenoiserCfg(network=MLP, time_dim=16)
DIT = DiTCfg(dim=32, num_layers=2, num_heads=2)
DECODER = TokenDecoderCfg(dim=32, num_layers=2, num_heads=2)

CASES = {
    "regression": RegressionHeadCfg(chunk_size=H, network=MLP),
    "regression-pooled": RegressionHeadCfg(chunk_size=H, network=MLP, features="pooled", loss="nll", learn_std=True),
    "flow": FlowHeadCfg(chunk_size=H, network=DENOISER, draws_per_feature=2),
    "flow-dit": DiTHeadCfg(chunk_size=H, network=DIT),
    "flow-layerwise": DiTHeadCfg(chunk_size=H, network=DIT.replace(layerwise=True)),
    "flow-delays": DiTHeadCfg(chunk_size=H, network=DIT, max_delay=2),
    "diffusion": DiffusionHeadCfg(chunk_size=H, network=DENOISER, draws_per_feature=2),
    "diffusion-ddpm-dit": DiffusionHeadCfg(chunk_size=H, network=DIT, sampler="ddpm", prediction="v_prediction"),
    "bins": BinsHeadCfg(chunk_size=H, num_bins=32, network=MLP),
    "bins-autoregressive": BinsHeadCfg(chunk_size=H, num_bins=32, decoding="autoregressive", decoder=DECODER),
    "fast": FASTHeadCfg(chunk_size=H, vocabulary=160, num_levels=128, decoder=DECODER),
}

SDE_CHAIN = {"density": "sde", "sde": FlowSDECfg(noisy_steps="all")}
SMALL_NOISE = FlowNoiseCfg(network=MLPDenoiserCfg(network=ResidualMLPCfg(dim=16, num_blocks=1), time_dim=8))
DENSITIES = {
    name: CASES[name] for name in ("regression", "regression-pooled", "bins", "bins-autoregressive", "fast")
} | {
    "flow-sde": CASES["flow"].replace(density="sde", num_steps=4),
    "flow-sde-chain": CASES["flow"].replace(num_steps=4, average_steps=True, **SDE_CHAIN),
    "flow-noise": CASES["flow"].replace(density="noise", num_steps=3, noise=SMALL_NOISE),
    "flow-dit-sde": CASES["flow-dit"].replace(density="sde", num_steps=4),
    "diffusion-dppo": CASES["diffusion"].replace(density="dppo", num_steps=5),
    "flow-layerwise-noise": CASES["flow-layerwise"].replace(density="noise", num_steps=2, noise=SMALL_NOISE),
}
"""Heads with a density."""


def random_chunks(number, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(number, H, 2, generator=generator) * 1.8 - 0.9


def trained_looking(name, batch=6, **kwargs):
    """A head with random weights everywhere (fresh output layers are zero), and features for it."""
    cfg = (CASES | DENSITIES)[name]
    head = build(cfg, **kwargs)
    head.fit(random_chunks(300))
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return head, prefix_for(cfg, batch)
