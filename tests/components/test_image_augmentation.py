"""Augmented images are those that geometry and PIL say, of the cameras that may turn, and only where one learns."""

import math

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance
from RoboRenForce.components.image_augmentation import ImageAugmentation, ImageAugmentationCfg, crop_and_rotate, jitter
from RoboRenForce.configclass import ConfigError
from vla_cases import policy, recorded

pytestmark = pytest.mark.oracle
STILL = {"crop": 1.0, "rotation": 0.0}
PALE = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0}


def seeded():
    return torch.Generator().manual_seed(3)


@pytest.mark.parametrize(("height", "width"), [(40, 60), (48, 48)])
def test_pixels_come_from_where_geometry_says(height, width):
    """Bilinear look-up is exact on a plane, so that colours tell where a pixel was: also where pixels are not square
    in the coordinates of the look-up."""
    share, degrees, rows = 0.9, 20.0, 6
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    image = torch.stack([x, y, 2 * x - y + 90], -1).expand(rows, -1, -1, -1)
    found = crop_and_rotate(image, share, degrees, seeded())
    draw = torch.empty(3, rows).uniform_(-1, 1, generator=seeded())
    for row in range(rows):
        angle = float(draw[0, row]) * math.radians(degrees)
        right, down = x - width / 2, y - height / 2
        old_x = width / 2 * (1 + float(draw[1, row]) * (1 - share))
        old_y = height / 2 * (1 + float(draw[2, row]) * (1 - share))
        old_x = old_x + share * (math.cos(angle) * right - math.sin(angle) * down)
        old_y = old_y + share * (math.sin(angle) * right + math.cos(angle) * down)
        inside = (old_x > 1) & (old_x < width - 1) & (old_y > 1) & (old_y < height - 1)
        assert 0.7 < inside.float().mean() < 1
        expected = torch.stack([old_x, old_y, 2 * old_x - old_y + 90], -1)
        torch.testing.assert_close(found[row][inside], expected[inside], rtol=0, atol=1e-3)
        outside = (old_x < -1) | (old_x > width + 1) | (old_y < -1) | (old_y > height + 1)
        assert not found[row][outside].any()


@pytest.mark.parametrize(("name", "enhance"), [("brightness", "Brightness"), ("saturation", "Color")])
def test_colours_are_those_of_pil(name, enhance):
    images = recorded()["observation.images.front"]
    found = jitter(images.float(), **(PALE | {name: 0.5}), generator=seeded())
    draw = torch.empty(3, 2, 1, 1, 1).uniform_(-1, 1, generator=seeded())
    for row, factor in enumerate(1 + 0.5 * draw[{"brightness": 0, "saturation": 2}[name], :, 0, 0, 0]):
        picture = getattr(ImageEnhance, enhance)(Image.fromarray(images[row].numpy())).enhance(float(factor))
        assert (found[row] - torch.from_numpy(np.asarray(picture, np.float32))).abs().max() <= 1.5


def test_contrast_is_about_the_mean_of_the_picture():
    images = 64 + recorded()["observation.images.front"].float() / 2
    found = jitter(images, **(PALE | {"contrast": 0.4}), generator=seeded())
    draw = torch.empty(3, 2, 1, 1, 1).uniform_(-1, 1, generator=seeded())[1]
    for row in range(2):
        expected = images[row].mean() + (1 + 0.4 * draw[row]) * (images[row] - images[row].mean())
        torch.testing.assert_close(found[row], expected.clamp(0, 255), rtol=0, atol=1e-3)


def test_a_shifted_window_leaves_the_image_and_keeps_its_scale():
    image = torch.arange(40.0).view(1, 1, 40, 1).expand(8, 40, -1, 3) + 50
    found = crop_and_rotate(image, 1.0, 0.0, seeded(), shift=0.25)
    draw = torch.empty(3, 8).uniform_(-1, 1, generator=seeded())
    for row in range(8):
        expected = image[0, 0, :, 0] + 20 * 0.25 * float(draw[1, row])
        inside = (expected > 51) & (expected < 88)
        assert 30 < inside.sum() < 38
        torch.testing.assert_close(found[row, 20, inside, 0], expected[inside], rtol=0, atol=1e-3)
    assert (found[:, 20, 0, 0] == 0).any() and (found[:, 20, -1, 0] == 0).any()


def test_nothing_changes_where_nothing_may():
    built, batch = policy(), recorded()
    still = ImageAugmentation(ImageAugmentationCfg(**STILL, **PALE), built.preprocessing)(batch)
    torch.testing.assert_close(built.encode(still).tokens, built.encode(batch).tokens)
    assert batch["observation.images.front"].shape != still["observation.images.front"].shape  # it is the policy's now


def test_wrist_cameras_are_neither_cropped_nor_turned():
    built, batch = policy(), recorded(rows=4)
    still = ImageAugmentation(ImageAugmentationCfg(**STILL, **PALE), built.preprocessing)(batch)
    for wrist in (None, ["front"], []):
        turned = ImageAugmentation(ImageAugmentationCfg(**PALE, wrist_cameras=wrist), built.preprocessing)(batch)
        moved = {name for name in ("front", "wrist") if not same(turned, still, name)}
        assert moved == {"front", "wrist"} - set(["wrist"] if wrist is None else wrist)
    with pytest.raises(ConfigError, match="names 'hand', and the policy reads front, wrist"):
        ImageAugmentation(ImageAugmentationCfg(wrist_cameras=["hand"]), built.preprocessing)


def test_every_picture_is_changed_in_its_own_way_and_again_with_the_same_seed():
    augmentation, batch = ImageAugmentation(ImageAugmentationCfg(), policy().preprocessing), recorded()
    for camera in ("front", "wrist"):
        batch[f"observation.images.{camera}"] = batch[f"observation.images.{camera}"][:1].expand(2, -1, -1, -1)
    one, again, other = augmentation(batch, seeded()), augmentation(batch, seeded()), augmentation(batch)
    for camera in ("front", "wrist"):
        images = one[f"observation.images.{camera}"]
        assert images.dtype == torch.uint8 and not torch.equal(images[0], images[1])
        assert same(one, again, camera) and not same(one, other, camera)
    unchanged = {name: value for name, value in batch.items() if "images" not in name}
    assert all(one[name] is value for name, value in unchanged.items())


def same(one, other, camera):
    return torch.equal(one[f"observation.images.{camera}"], other[f"observation.images.{camera}"])
