"""Small policies, specs and batches for tests of VLA policies."""

import torch
from RoboRenForce.components.action_heads import RegressionHeadCfg
from RoboRenForce.components.vla_policy import MLPBaselinePolicyCfg
from RoboRenForce.components.vla_spec import VectorSpec, VLASpec
from RoboRenForce.envs.instructions import instruction_id

TEXTS = ("lift the red block", "push the blue block to the left")
HEIGHT, WIDTH, CHUNK = 48, 64, 4
OUT_OF_MEMORY = (
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."),
    RuntimeError(
        "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to "
        "allocate 20971520 bytes. Error code 12 (Cannot allocate memory)"
    ),
)
"""What torch raises on a GPU and on a CPU."""


def vector(dim, *, low=-2.0, high=6.0, names=()):
    """All dimensions move alike, between `low` and `high`."""
    middle, half = (low + high) / 2, (high - low) / 2
    values = {"min": low, "max": high, "mean": middle, "std": half / 2, "q01": low, "q99": high}
    return VectorSpec(dim, names, {name: (value,) * dim for name, value in values.items()})


def spec(**changes):
    fields = {"cameras": ("front", "wrist"), "state": vector(3), "action": vector(2), "instructions": TEXTS}
    return VLASpec(**(fields | changes))


def policy(cfg=MLPBaselinePolicyCfg, data=None, **options):
    options = {"head": RegressionHeadCfg(chunk_size=CHUNK)} | options
    return cfg(**options).build(data or spec())


def recorded(rows=2):
    """A batch of a dataset."""
    generator = torch.Generator().manual_seed(7)
    images = torch.randint(0, 256, (2, rows, HEIGHT, WIDTH, 3), generator=generator, dtype=torch.uint8)
    ids = [instruction_id(TEXTS[row % 2]) for row in range(rows)]
    return {
        "observation.images.front": images[0],
        "observation.images.wrist": images[1],
        "observation.state": torch.randn(rows, 3, generator=generator),
        "instruction_id": torch.tensor(ids),
        "task": [TEXTS[row % 2] for row in range(rows)],
        "action": 2 + torch.randn(rows, CHUNK, 2, generator=generator),
        "action_is_pad": torch.zeros(rows, CHUNK, dtype=torch.bool),
    }


def observed(batch):
    """The same as an environment observes it."""
    return {
        "front": batch["observation.images.front"],
        "wrist": batch["observation.images.wrist"],
        "proprio": batch["observation.state"],
        "instruction_id": batch["instruction_id"].unsqueeze(1),
    }
