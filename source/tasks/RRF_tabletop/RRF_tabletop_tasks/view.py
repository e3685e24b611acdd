"""Camera images of a scene: a table in parallel projection, tilted towards the camera.

`front` sees the whole table. `wrist` looks at the table below the hand from nearer. Blocks have a lit top and a darker
front, the hand two fingers and a palm; its shadow lies on the table right below it and tells the height.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import torch

from .language import COLOURS
from .rasterise import Canvas, Shape
from .scene import BLOCK, PLATE, POST, Scene

CameraName = Literal["front", "wrist"]

_TABLE, _FLOOR = (222.0, 206.0, 182.0), (92.0, 98.0, 108.0)
_METAL, _PALM, _SHADOW, _POST = (58.0, 60.0, 66.0), (112.0, 116.0, 124.0), (60.0, 50.0, 40.0), (150.0, 150.0, 156.0)
_WIDTH = {"front": 2.4, "wrist": 0.9}
"""Part of the table that an image is wide."""
_HOVER = 0.3
"""Height of the fingers when they don't move."""
_BLOCK_HEIGHT, _FINGER_HEIGHT, _POST_HEIGHT = 1.6 * BLOCK, 0.36, 0.4
_POST_RADIUS = 0.6 * POST
"""The rest of its radius is the hand's."""


@dataclass(frozen=True)
class Camera:
    """Projects points of N scenes to pixels."""

    name: CameraName
    size: int
    """Pixels per side of the square image."""
    tilt: float
    """Degrees between the view and the vertical."""

    @property
    def scale(self) -> float:
        """Pixels per unit of length."""
        return self.size / _WIDTH[self.name]

    @property
    def along(self) -> float:
        """By how much lengths along the table's y shrink."""
        return math.cos(math.radians(self.tilt))

    @property
    def up(self) -> float:
        """By how much heights shrink."""
        return math.sin(math.radians(self.tilt))

    def project(self, points: torch.Tensor, height: torch.Tensor | float) -> torch.Tensor:
        """Pixels `(N, 2)` of points `(N, 2)`, relative to what is in the middle, raised by `height`, `(N,)`."""
        raised = points[:, 1] * self.along + height * self.up
        return 0.5 * self.size + self.scale * torch.stack([points[:, 0], -raised], dim=1)


class View:
    """Draws scenes as one camera sees them.

    Args:
        camera: where from.
        colours: names of the colours, in the order of their numbers in a scene.
        device: to draw on.
    """

    def __init__(self, camera: Camera, colours: list[str], device: torch.device) -> None:
        self.camera = camera
        self._colours = _tensor([COLOURS[name] for name in colours], device)
        self._table, self._metal, self._palm = (_tensor(rgb, device) for rgb in (_TABLE, _METAL, _PALM))
        self._shadow, self._post = _tensor(_SHADOW, device), _tensor(_POST, device)
        self._front = _tensor([0.0, -BLOCK], device)  # from the middle of a block to its front
        self._background = _tensor(_FLOOR, device).expand(camera.size, camera.size, 3).contiguous()
        self._follows_hand = camera.name == "wrist"
        if not self._follows_hand:  # the table is where it is: paint it once
            canvas = Canvas(self._background, 1)
            self._paint_table(canvas, torch.zeros(1, 2, device=device))
            self._background = canvas.images()[0].float()

    def draw(self, scene: Scene) -> torch.Tensor:
        """Images of N scenes, uint8 `(N, size, size, 3)`."""
        canvas = Canvas(self._background, len(scene.hand))
        middle = scene.hand if self._follows_hand else torch.zeros_like(scene.hand)
        if self._follows_hand:
            self._paint_table(canvas, middle)
        self._paint_plates(canvas, scene, middle)
        self._paint_posts(canvas, scene, middle)
        half = (1.5 * BLOCK, 0.9 * BLOCK * self.camera.along)
        canvas.paint(self._shape(scene.hand - middle, 0.0, half, self._shadow, is_round=True, opacity=0.45))
        self._paint_blocks(canvas, scene, middle)
        self._paint_hand(canvas, scene, middle)
        return canvas.images()

    def _shape(
        self,
        points: torch.Tensor,
        height: torch.Tensor | float,
        half: tuple[float, float],
        colour: torch.Tensor,
        *,
        border: float = 0.0,
        is_round: bool = False,
        opacity: float = 1.0,
    ) -> Shape:
        """A shape around points at a height; `half` is in units of length as seen, `border` in pixels."""
        scale = self.camera.scale
        pixels = (half[0] * scale + border, half[1] * scale + border)
        return Shape(self.camera.project(points, height), pixels, colour, pixels, is_round, opacity)

    def _paint_table(self, canvas: Canvas, middle: torch.Tensor) -> None:
        canvas.paint(self._shape(-middle, 0.0, (1.1, 1.1 * self.camera.along), self._table))

    def _paint_plates(self, canvas: Canvas, scene: Scene, middle: torch.Tensor) -> None:
        for plate in range(scene.plates.shape[1]):
            colour, at = self._colours[scene.plate_colour[:, plate]], scene.plates[:, plate] - middle
            for part, shade in ((1.0, colour * 0.75), (0.92, colour), (0.66, colour * 0.6 + 102.0)):
                half = (part * PLATE, part * PLATE * self.camera.along)
                canvas.paint(self._shape(at, 0.0, half, shade, is_round=True))

    def _paint_posts(self, canvas: Canvas, scene: Scene, middle: torch.Tensor) -> None:
        disc = (_POST_RADIUS, _POST_RADIUS * self.camera.along)
        side = (_POST_RADIUS, 0.5 * _POST_HEIGHT * self.camera.up)
        for post in range(scene.posts.shape[1]):
            at = scene.posts[:, post] - middle
            canvas.paint(self._shape(at, 0.0, disc, self._post * 0.7, is_round=True))
            canvas.paint(self._shape(at, 0.5 * _POST_HEIGHT, side, self._post * 0.7))
            canvas.paint(self._shape(at, _POST_HEIGHT, disc, self._post, is_round=True))

    def _paint_blocks(self, canvas: Canvas, scene: Scene, middle: torch.Tensor) -> None:
        """From the far end of the table to the near one, and what the hand holds at last."""
        camera, count = self.camera, scene.blocks.shape[1]
        held = torch.arange(count, device=scene.held.device) == scene.held.unsqueeze(1)  # (N, B)
        order = (scene.blocks[:, :, 1] - 10.0 * held).argsort(dim=1, descending=True)
        positions = scene.blocks.gather(1, order.unsqueeze(2).expand_as(scene.blocks)) - middle.unsqueeze(1)
        colours = self._colours[scene.block_colour.gather(1, order)]
        heights = held.gather(1, order) * (_HOVER * scene.hand_height).unsqueeze(1)
        top, front = BLOCK * camera.along, 0.5 * _BLOCK_HEIGHT * camera.up
        for block in range(count):
            at, colour, middle_height = positions[:, block], colours[:, block], heights[:, block] + 0.5 * _BLOCK_HEIGHT
            # As seen, the top ends where the front begins; both have one dark border.
            canvas.paint(self._shape(at, middle_height, (BLOCK, top + front), colour * 0.3, border=0.6))
            canvas.paint(self._shape(at + self._front, middle_height, (BLOCK, front), colour * 0.6))
            canvas.paint(self._shape(at, heights[:, block] + _BLOCK_HEIGHT, (BLOCK, top), colour))

    def _paint_hand(self, canvas: Canvas, scene: Scene, middle: torch.Tensor) -> None:
        camera, height, at = self.camera, _HOVER * scene.hand_height, scene.hand - middle
        gap = torch.where(scene.held >= 0, BLOCK + 0.04, 0.03 + 0.17 * scene.aperture)
        sideways = torch.stack([gap, torch.zeros_like(gap)], dim=1)
        finger = (0.03, 0.5 * _FINGER_HEIGHT * camera.up + 0.03 * camera.along)
        for side in (-sideways, sideways):
            canvas.paint(self._shape(at + side, height + 0.5 * _FINGER_HEIGHT, finger, self._metal))
        palm = self._shape(at, height + _FINGER_HEIGHT, (0.24, 0.05), self._palm)
        half = torch.stack([(gap + 0.05) * camera.scale, torch.full_like(gap, palm.reach[1])], dim=1)
        canvas.paint(replace(palm, half=half))


def _tensor(values: object, device: torch.device) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32, device=device)
