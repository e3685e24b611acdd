"""Features as a backbone would give them, for heads that are tested without one."""

import torch
from RoboRenForce.networks.vlm import Prefix

WIDTH, STATE, ACTION = 16, 3, 2


def random_prefix(batch, *, queries=0, layers=0, tokens=5, width=WIDTH, state_dim=STATE, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator)

    mask = torch.ones(batch, tokens, dtype=torch.bool)
    mask[:, -1] = torch.arange(batch) % 2 == 0  # padding in every other row
    return Prefix(
        tokens=normal(batch, tokens, width),
        mask=mask,
        is_image=torch.zeros_like(mask),
        state=normal(batch, state_dim),
        queries=normal(batch, queries, width) if queries else None,
        layers=tuple(normal(batch, tokens, width) for _ in range(layers)),
    )


def build(cfg, action_dim=ACTION, width=WIDTH, state_dim=STATE):
    return cfg.build(width=width, state_dim=state_dim, action_dim=action_dim)


def prefix_for(cfg, batch, action_dim=ACTION, **kwargs):
    taps = cfg.taps(action_dim)
    return random_prefix(batch, queries=taps.num_queries, layers=taps.num_layers, **kwargs)
