"""A pi policy so small that a test computes it in milliseconds, with weights and inputs that depend on seeds alone.

Its geometry is one that the authors' code can compute, too, which has eight heads written into it.
"""

import torch
from RoboRenForce.components.openpi_policy import OpenPIPolicyCfg
from RoboRenForce.components.vla_spec import VectorSpec, VLASpec
from RoboRenForce.networks.vlm import VLMInputs

ROWS, CAMERAS, TEXT, CHUNK, DIMS = 3, 3, 12, 4, 32


def small_cfg(variant, **head):
    cfg = OpenPIPolicyCfg(variant=variant, size="tiny")
    cfg.backbone.state_in_prompt, cfg.backbone.vocabulary = False, 320
    cfg.backbone.language.num_heads = cfg.head.network.gemma.num_heads = 8
    cfg.head.network.action_dim = DIMS
    cfg.head.chunk_size = CHUNK
    for name, value in head.items():
        setattr(cfg.head, name, value)
    return cfg


def small_policy(variant, *, dtype=torch.float32, cfg=None, action_dim=DIMS, **head):
    """All dimensions of the state are the robot's, and those of actions if not told otherwise."""
    unit = {"mean": 0.0, "std": 1.0, "q01": -1.0, "q99": 1.0}
    state, action = (VectorSpec(dim, (), {k: (v,) * dim for k, v in unit.items()}) for dim in (DIMS, action_dim))
    cameras = tuple(f"camera{number}" for number in range(CAMERAS))
    spec = VLASpec(cameras=cameras, state=state, action=action, instructions=("wait",))
    policy = (cfg or small_cfg(variant, **head)).build(spec)
    fill(policy)
    return policy.to(dtype)


@torch.no_grad()
def fill(policy, seed=0):
    """Random weights that depend on names, shapes and the seed alone; large enough that all of them matter."""
    generator = torch.Generator().manual_seed(seed)
    for _, parameter in sorted(policy.named_parameters()):
        scale = 0.1 if parameter.dim() == 1 else parameter[0].numel() ** -0.5
        parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))


def inputs():
    """Images of which some are absent, and texts of different lengths."""
    generator = torch.Generator().manual_seed(1)
    there = torch.tensor([[True, True, False], [True, True, True], [True, False, True]])
    images = torch.randint(0, 256, (ROWS, CAMERAS, 64, 64, 3), generator=generator, dtype=torch.uint8)
    return VLMInputs(
        images=images * there[..., None, None, None],
        has_image=there,
        text_ids=torch.randint(1, 300, (ROWS, TEXT), generator=generator),
        text_mask=torch.arange(TEXT) < torch.tensor([[12], [7], [9]]),
        state=torch.randn(ROWS, DIMS, generator=generator),
    )


def chunks():
    """Noise, actions and times; the times are sums of powers of two, which no two codes round differently."""
    generator = torch.Generator().manual_seed(2)
    noise, actions = torch.randn(2, ROWS, CHUNK, DIMS, generator=generator)
    return noise, actions, torch.tensor([0.25, 0.6875, 0.0])


def gradients(policy, noise, actions, time):
    """The loss, and gradients of all weights."""
    policy.zero_grad()
    x = noise + time[:, None, None] * (actions - noise)
    prefix = policy.backbone(inputs())
    network = policy.head.network
    error = network(x, time, network.encode(prefix)) - (actions - noise)
    loss = error.square().mean()
    loss.backward()
    return loss.detach(), {name: p.grad for name, p in policy.named_parameters() if p.grad is not None}


def fingerprint(gradient, seed=3):
    """Norm of a tensor, and its product with a random one: two numbers that no two tensors share by chance."""
    generator = torch.Generator().manual_seed(seed)
    direction = torch.randn(gradient.shape, generator=generator)
    return torch.stack([gradient.float().norm(), (gradient.float() * direction).sum() / direction.norm()])


def sketch(gradient, size=16, seed=4):
    """Products with random directions: the norm of a difference of sketches is, on average, that of the tensors'."""
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(size, gradient.numel(), generator=generator)
    return directions @ gradient.float().flatten() / size**0.5
