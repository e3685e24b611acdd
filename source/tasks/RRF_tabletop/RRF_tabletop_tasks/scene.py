"""Scenes: the state of all environments as tensors, and the start of an episode.

The table is the square [-1, 1] x [-1, 1], x to the right and y away from the camera; heights are in the same unit. In
every environment the block that is asked for has the index 0, and so has its plate: positions and colours are random.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cached_property

import torch

from .counter_rng import uniform

BLOCK = 0.11
"""Half the side of a block."""
PLATE = 0.22
"""Radius of a plate."""
POST = 0.24
"""Radius of a post that the hand must not touch."""
HOME = (0.0, -0.9)
"""Start of the hand."""

_SLOTS = [(x, y) for y in (0.65, 0.05, -0.55) for x in (-0.65, 0.0, 0.65)]
_JITTER = 0.1
"""Objects stand in different cells of a 3 x 3 grid, at most this far from the middle: they never touch."""


@dataclass
class Scene:
    """State of N environments with B blocks, P plates and Q posts."""

    hand: torch.Tensor  # (N, 2)
    aperture: torch.Tensor  # (N,) 0 closed, 1 open
    held: torch.Tensor  # int64 (N,) block between the fingers, -1: none
    blocks: torch.Tensor  # (N, B, 2)
    plates: torch.Tensor  # (N, P, 2)
    posts: torch.Tensor  # (N, Q, 2)
    block_colour: torch.Tensor  # int64 (N, B)
    plate_colour: torch.Tensor  # int64 (N, P)
    goal: torch.Tensor  # int64 (N, 2) block and plate that are asked for
    sentence: torch.Tensor  # int64 (N,) see `language`

    def where(self, rows: torch.Tensor, other: Scene) -> Scene:
        """`other` in the rows where `rows`, bool `(N,)`, is set, this one elsewhere."""
        chosen = {}
        for name, mine in self.tensors().items():
            chosen[name] = torch.where(rows.view(-1, *[1] * (mine.dim() - 1)), getattr(other, name), mine)
        return Scene(**chosen)

    def rows(self, index: torch.Tensor) -> Scene:
        """Some rows, in the order of `index`."""
        return Scene(**{name: tensor[index] for name, tensor in self.tensors().items()})

    def tensors(self) -> dict[str, torch.Tensor]:
        """Name -> tensor."""
        return {entry.name: getattr(self, entry.name) for entry in fields(self)}

    @property
    def target(self) -> torch.Tensor:
        """Position of the block that is asked for, `(N, 2)`."""
        return _pick(self.blocks, self.goal[:, 0])

    @property
    def place(self) -> torch.Tensor:
        """Position of the plate that is asked for, `(N, 2)`; without plates that of the block."""
        return _pick(self.plates, self.goal[:, 1]) if self.plates.shape[1] else self.target

    @property
    def hand_height(self) -> torch.Tensor:
        """Return the height of the fingers above the table, in [0, 1], `(N,)`: the hand goes down while they move."""
        return (2.0 * self.aperture - 1.0).abs()


@dataclass(frozen=True)
class Layout:
    """Objects of a task; tensors are on the device where scenes are drawn, so that no step copies any."""

    num_blocks: int
    num_plates: int
    has_post: bool
    num_templates: int
    allowed: torch.Tensor
    """Pairs of colours (block, plate) that may be asked for, bool `(C, C)`."""
    goal: torch.Tensor
    """int64 `(2,)`: block and plate that are asked for. (0, 0), or other ones to exchange the instruction."""

    @cached_property
    def pairs(self) -> torch.Tensor:
        """The pairs in `allowed`, int64 `(M, 2)`."""
        return self.allowed.nonzero()

    @cached_property
    def slots(self) -> torch.Tensor:
        """Middles of the cells where objects stand, `(9, 2)`."""
        return torch.tensor(_SLOTS, device=self.allowed.device)

    @cached_property
    def home(self) -> torch.Tensor:
        """Return the start of the hand, `(2,)`."""
        return torch.tensor(HOME, device=self.allowed.device)

    @cached_property
    def home_jitter(self) -> torch.Tensor:
        """Return how far from `home` the hand starts at most, `(2,)`.

        It is straight before a post, so that both ways around it are equally good.
        """
        return torch.tensor([0.0 if self.has_post else _JITTER, _JITTER], device=self.allowed.device)


def sample_scene(layout: Layout, keys: torch.Tensor, episodes: torch.Tensor) -> Scene:
    """Begin an episode in every row.

    Args:
        layout: of the task.
        keys: int64 `(N,)`, one per row.
        episodes: int64 `(N,)`, counts the episodes of a key.
    """
    colours = layout.allowed.shape[0]
    jitter, order = 2 * (layout.num_blocks + layout.num_plates), len(layout.slots)
    drawn = uniform(keys, episodes, jitter + order + 2 * colours + 4)
    shift, by_slot, by_block, by_plate, rest = drawn.split([jitter, order, colours, colours, 4], dim=1)

    blocks, plates = _positions(layout, shift, by_slot)
    block_colour, plate_colour = _colours(layout, by_block, by_plate, rest[:, 0])
    goal = layout.goal.expand(len(keys), 2)
    template = (rest[:, 1] * layout.num_templates).long()
    plate = _pick(plate_colour, goal[:, 1]) if layout.num_plates else torch.zeros_like(template)
    sentence = (template * colours + _pick(block_colour, goal[:, 0])) * colours + plate
    hand = layout.home + layout.home_jitter * (2.0 * rest[:, 2:] - 1.0)
    return Scene(
        hand=hand,
        aperture=torch.ones_like(rest[:, 0]),
        held=torch.full_like(template, -1),
        blocks=blocks,
        plates=plates,
        posts=torch.zeros(len(keys), int(layout.has_post), 2, device=keys.device),
        block_colour=block_colour,
        plate_colour=plate_colour,
        goal=goal.contiguous(),
        sentence=sentence,
    )


def _positions(layout: Layout, shift: torch.Tensor, by_slot: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Blocks `(N, B, 2)` and plates `(N, P, 2)`."""
    count = layout.num_blocks + layout.num_plates
    moved = _JITTER * (2.0 * shift.view(-1, count, 2) - 1.0)
    if layout.has_post:  # straight behind the post, so that both ways around it are equally good
        return layout.slots[1] + moved * 0.5, moved[:, :0]
    positions = layout.slots[by_slot.argsort(dim=1)[:, :count]] + moved
    return positions[:, : layout.num_blocks], positions[:, layout.num_blocks :]


def _colours(
    layout: Layout, by_block: torch.Tensor, by_plate: torch.Tensor, which: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Different colours of the blocks, int64 `(N, B)`, and of the plates, `(N, P)`; the first ones are asked for."""
    allowed = layout.allowed
    pair = layout.pairs[(which * len(layout.pairs)).long()]
    block, plate = pair[:, :1], pair[:, 1:]
    # The other objects could be asked for as well, wherever there are enough colours for that.
    others = by_block + allowed.T[plate.squeeze(1)]
    block_colour = others.scatter(1, block, 3.0).argsort(dim=1, descending=True)[:, : layout.num_blocks]
    others = by_plate + allowed[block.squeeze(1)]
    plate_colour = others.scatter(1, plate, 3.0).argsort(dim=1, descending=True)[:, : layout.num_plates]
    return block_colour, plate_colour


def _pick(values: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """`values[n, index[n]]`."""
    return values[torch.arange(len(index), device=index.device), index]
