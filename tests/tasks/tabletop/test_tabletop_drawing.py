"""What cameras see: things have their colours where they are, and edges are where the numbers say."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from RRF_tabletop_tasks import TabletopCfg
from RRF_tabletop_tasks.language import COLOURS
from RRF_tabletop_tasks.rasterise import Canvas, Shape
from RRF_tabletop_tasks.tabletop_env import TabletopEnv
from RRF_tabletop_tasks.view import Camera, View

CPU = torch.device("cpu")
NAMES = list(COLOURS)


def built(**options: Any) -> TabletopEnv:
    return TabletopCfg(num_envs=20, image_size=128, **options).build()  # type: ignore[return-value]


def colour_at(image: torch.Tensor, pixel: torch.Tensor) -> torch.Tensor:
    column, row = pixel.long().tolist()
    return image[row, column].float()


def test_a_rectangle_covers_its_area_exactly() -> None:
    canvas = Canvas(torch.zeros(20, 20, 3), 1)
    half = (3.3, 2.1)
    canvas.paint(Shape(torch.tensor([[9.37, 10.81]]), half, torch.tensor([255.0, 0.0, 0.0]), half))
    image = canvas._pixels.view(20, 20, 3)
    assert image[:, :, 0].sum().item() / 255 == pytest.approx(4 * half[0] * half[1], rel=1e-4)
    assert image[10, 9].tolist() == [255.0, 0.0, 0.0] and not image[:, :, 1:].any()


def test_an_ellipse_covers_its_area() -> None:
    canvas = Canvas(torch.zeros(40, 40, 3), 2)
    half = torch.tensor([[8.0, 5.0], [6.0, 6.0]])
    canvas.paint(Shape(torch.tensor([[20.3, 19.6]] * 2), half, torch.full((3,), 200.0), (8.0, 6.0), is_round=True))
    area = canvas._pixels.view(2, -1, 3)[:, :, 0].sum(1) / 200
    torch.testing.assert_close(area, torch.pi * half.prod(1), rtol=0.03, atol=0.0)


def test_what_is_painted_later_lies_above_and_opacity_blends() -> None:
    canvas = Canvas(torch.full((8, 8, 3), 100.0), 1)
    middle, half = torch.tensor([[4.0, 4.0]]), (2.0, 2.0)
    canvas.paint(Shape(middle, half, torch.zeros(3), half))
    canvas.paint(Shape(middle, half, torch.full((3,), 200.0), half, opacity=0.25))
    assert canvas.images()[0, 4, 4].tolist() == [50, 50, 50] and canvas.images()[0, 0, 0].tolist() == [100] * 3


def test_shapes_at_and_beyond_the_edge() -> None:
    canvas = Canvas(torch.zeros(8, 8, 3), 2)
    half = (1.0, 1.0)
    canvas.paint(Shape(torch.tensor([[0.0, 4.0], [30.0, -9.0]]), half, torch.full((3,), 255.0), half))
    image = canvas.images()[:, :, :, 0]
    assert image[0].sum() == 2 * 255 and image[0, 3:5, 0].tolist() == [255, 255] and not image[1].any()


def test_things_have_their_colours_where_they_are() -> None:
    env = built()
    scene, image = env.scene, env.get_observations()["front"]
    camera = Camera("front", 128, env.cfg.camera_tilt)
    scene.hand[:] = torch.tensor([0.0, -2.0])  # out of sight
    image = View(camera, NAMES, CPU).draw(scene)
    for row in range(20):
        for number in range(3):
            pixel = camera.project(scene.blocks[row, number : number + 1], 0.176)[0]
            expected = torch.tensor(COLOURS[NAMES[scene.block_colour[row, number]]])
            torch.testing.assert_close(colour_at(image[row], pixel), expected.float(), atol=1.0, rtol=0.0)
        for number in range(2):
            pixel = camera.project(scene.plates[row, number : number + 1], 0.0)[0]
            expected = 0.6 * torch.tensor(COLOURS[NAMES[scene.plate_colour[row, number]]]) + 102
            torch.testing.assert_close(colour_at(image[row], pixel), expected, atol=1.0, rtol=0.0)


def test_the_wrist_camera_sees_the_hand_in_the_middle_wherever_it_is() -> None:
    env = built(cameras=["wrist"], task="Fork")
    scene = env.scene
    scene.blocks[:], scene.posts[:] = 5.0, 5.0
    scene.hand[:, 0] = torch.linspace(-0.4, 0.4, 20)
    scene.hand[:, 1] = torch.linspace(-0.3, 0.3, 20)
    image = View(Camera("wrist", 64, 35.0), NAMES, CPU).draw(scene)
    assert (image == image[:1]).all()


def test_a_lifted_block_and_its_shadow_part() -> None:
    """A picture tells the height."""
    env = built(task="Reach")
    scene = env.scene
    scene.hand[:] = scene.blocks[:, 0]
    scene.held[:] = 0
    pictures = []
    for aperture in (0.5, 0.0):  # on the table, lifted
        scene.aperture[:] = aperture
        pictures.append(View(Camera("front", 128, 35.0), NAMES, CPU).draw(scene))
    assert ((pictures[0] != pictures[1]).any(-1).flatten(1).sum(1) > 50).all()


def test_straight_down_there_are_no_fronts() -> None:
    camera = Camera("front", 64, 0.0)
    points = torch.tensor([[0.3, -0.4]])
    assert torch.equal(camera.project(points, 0.0), camera.project(points, 0.3))
    assert TabletopCfg(num_envs=2, camera_tilt=0.0).build().get_observations()["front"].shape == (2, 64, 64, 3)


def test_people_get_a_larger_picture_of_the_same_scene() -> None:
    env = TabletopCfg(num_envs=2, image_size=32, render_size=256).build()
    frame = env.render()
    assert frame.shape == (256, 256, 3) and frame.dtype == "uint8"
    small = torch.from_numpy(frame).float().view(32, 8, 32, 8, 3).mean((1, 3))
    assert (small - env.get_observations()["front"][0].float()).abs().mean() < 8.0
