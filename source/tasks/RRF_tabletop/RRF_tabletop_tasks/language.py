"""Instructions: colours, sentences, and the split of pairs of colours that tests generalization.

Every sentence has a number, `(template * C + block) * C + plate` for C colours, so that the environment's state holds
numbers and a text is looked up only when an episode begins.
"""

from __future__ import annotations

import torch

COLOURS = {
    "red": (214, 40, 40),
    "green": (44, 160, 44),
    "blue": (38, 84, 214),
    "yellow": (245, 205, 30),
    "purple": (148, 60, 190),
    "orange": (250, 130, 20),
}
"""Name -> RGB."""

TEMPLATES = {
    "Place": (
        "put the {block} block on the {plate} plate",
        "place the {block} block onto the {plate} plate",
        "move the {block} block to the {plate} plate",
        "the {plate} plate is where the {block} block belongs",
    ),
    "Reach": ("reach for the {block} block", "go to the {block} block", "move the gripper over the {block} block"),
    "Fork": ("go around the post to the {block} block", "reach the {block} block without touching the post"),
}
"""Task -> sentences that mean the same."""


def sentences(task: str, colours: list[str], templates: int) -> list[str]:
    """All sentences of a task, by their number; those of tasks without plates don't depend on the plate."""
    return [
        template.format(block=block, plate=plate)
        for template in TEMPLATES[task][:templates]
        for block in colours
        for plate in colours
    ]


def default_held_out(colours: list[str]) -> list[list[str]]:
    """One pair (block, plate) for every colour: each is seen in training as a block and as a plate, but not together.

    The plate is the next colour of the list.
    """
    return [[block, plate] for block, plate in zip(colours, [*colours[1:], colours[0]], strict=True)]


def allowed_pairs(colours: list[str], held_out: list[list[str]], pairs: str) -> torch.Tensor:
    """Pairs (block, plate) that may be asked for, bool `(C, C)`; `pairs` is `train`, `held_out` or `all`."""
    held = torch.zeros(len(colours), len(colours), dtype=torch.bool)
    for block, plate in held_out:
        held[colours.index(block), colours.index(plate)] = True
    return {"train": ~held, "held_out": held, "all": torch.ones_like(held)}[pairs]
