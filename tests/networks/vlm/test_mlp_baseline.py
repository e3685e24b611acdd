"""The small backbone: what it gives to heads, and that it reads the instruction."""

import pytest
import torch
from RoboRenForce.configclass import ConfigError
from RoboRenForce.networks.vlm import MLPBaselineCfg, Taps, VLMInputs
from RoboRenForce.networks.vlm.mlp_baseline import TextGuidedCNN

CONTRACT = pytest.mark.contract
TEXTS = [
    "put the red block on the blue plate",
    "put the blue block on the red plate",
    "Put the red block on the blue plate",
]


def inputs(backbone, texts=TEXTS, cameras=2, states=3):
    generator = torch.Generator().manual_seed(0)
    rows = len(texts)
    images = torch.randint(0, 256, (1, cameras, 64, 64, 3), generator=generator, dtype=torch.uint8).expand(
        rows, -1, -1, -1, -1
    )
    return VLMInputs(
        images, torch.ones(rows, cameras, dtype=torch.bool), *backbone.tokenize(texts), torch.ones(rows, states)
    )


@CONTRACT
def test_shapes_and_masks():
    backbone = MLPBaselineCfg().build(num_cameras=2, state_dim=3, taps=Taps(num_queries=5, num_layers=1))
    prefix = backbone(inputs(backbone))
    per_camera = backbone.cfg.looks + 4
    assert prefix.tokens.shape == (3, 2 * per_camera + 2, 128) and prefix.queries.shape == (3, 5, 128)
    assert prefix.is_image.sum(1).tolist() == [2 * per_camera] * 3 and prefix.mask.all() and len(prefix.layers) == 1
    assert 0.5e6 < sum(parameter.numel() for parameter in backbone.parameters()) < 1.5e6
    with pytest.raises(ConfigError, match="num_layers=3"):
        MLPBaselineCfg().build(num_cameras=1, state_dim=0, taps=Taps(num_layers=3))
    with pytest.raises(ConfigError, match="whole patches"):
        MLPBaselineCfg(image_size=[64, 30]).validate()


@CONTRACT
def test_gradients_have_the_strides_of_their_weights():
    """DDP warns in every process of others, which a convolution of 1 x 1 gives."""
    backbone = MLPBaselineCfg().build(num_cameras=2, state_dim=3)
    backbone(inputs(backbone, TEXTS * 8)).tokens.square().sum().backward()
    weights = [weight for weight in backbone.parameters() if weight.grad is not None]
    assert [weight.grad.stride() for weight in weights] == [weight.stride() for weight in weights]


@CONTRACT
def test_the_order_of_words_matters_and_capitals_do_not():
    backbone = MLPBaselineCfg().build(num_cameras=2, state_dim=3)
    tokens = backbone(inputs(backbone)).tokens
    assert (tokens[0] - tokens[1]).abs().max() > 1e-2 and torch.equal(tokens[0], tokens[2])


@CONTRACT
def test_padding_of_a_text_and_an_empty_text_change_nothing():
    backbone = MLPBaselineCfg().build(num_cameras=2, state_dim=3)
    given = inputs(backbone, ["go", "put the red block down"])
    short = inputs(backbone, ["go"])
    torch.testing.assert_close(backbone(given).tokens[:1], backbone(short).tokens)
    assert backbone(inputs(backbone, [""])).tokens.isfinite().all()


@CONTRACT
def test_a_look_returns_what_it_sees_only_if_asked():
    """Where all words look is made independent of the picture; what they see there is not."""
    for content in (False, True):
        torch.manual_seed(0)
        eye = TextGuidedCNN(MLPBaselineCfg(content=content))
        torch.nn.init.zeros_(eye.query.weight)
        torch.nn.init.zeros_(eye.query.bias)  # every word attends to all patches alike
        weights, words = torch.ones(1, 1, 1), torch.randn(1, 1, 128)
        dark, bright = (torch.full((1, 1, 64, 64, 3), value, dtype=torch.uint8) for value in (20, 220))
        first, second = (eye(images, words, weights)[:, :, :1] for images in (dark, bright))
        assert torch.allclose(first, second) != content


@CONTRACT
def test_the_sharper_the_fewer_places_a_word_looks_at():
    """Blunt words look everywhere, whose mean is the middle; the sharpest ones look at a single patch."""
    torch.manual_seed(0)
    images = torch.randint(0, 256, (1, 1, 64, 64, 3), dtype=torch.uint8)
    weights, words = torch.ones(1, 1, 1), torch.randn(1, 1, 128)
    blunt, sharp = (TextGuidedCNN(MLPBaselineCfg(sharpness=sharpness)) for sharpness in (1e-6, 1e6))
    sharp.load_state_dict(blunt.state_dict())
    middle, patch = (eye(images, words, weights)[0, 0, 0] for eye in (blunt, sharp))
    torch.testing.assert_close(middle, blunt.seen(torch.zeros(2)), atol=1e-4, rtol=0)
    assert (sharp.seen(sharp.position) - patch).norm(dim=-1).min() < 1e-4


@CONTRACT
def test_a_shifted_image_is_seen_where_it_was():
    """In training pixels move and positions with them: what a look sees lies where it lay, to a patch's accuracy."""
    torch.manual_seed(0)
    eye = TextGuidedCNN(MLPBaselineCfg(shift=8, patch=2))
    images = torch.full((1, 1, 64, 64, 3), 120, dtype=torch.uint8)
    images[..., 24:34, 40:50, 0] = 250
    pixels = images.flatten(0, 1).movedim(-1, 1).float()
    rows, columns = eye.position[:, 0].view(32, 32), eye.position[:, 1].view(32, 32)

    def center(pixels: torch.Tensor, moved: torch.Tensor) -> torch.Tensor:
        weight = torch.nn.functional.avg_pool2d(pixels[:, :1] - 120.0, 2)[0, 0]
        weight = weight / weight.sum()
        return torch.stack([(weight * rows).sum(), (weight * columns).sum()]) + moved

    found = [center(*eye._shifted(pixels)) for _ in range(20)]
    torch.testing.assert_close(torch.stack(found), center(pixels, torch.zeros(2)).expand(20, 2), atol=1e-3, rtol=0)
    weights, words = torch.ones(1, 1, 1), torch.randn(1, 1, 128)
    eye.eval()
    assert torch.equal(eye(images, words, weights), eye(images, words, weights))
    eye.train()
    assert not torch.equal(eye(images, words, weights), eye(images, words, weights))


@pytest.mark.learning
@pytest.mark.long
def test_follows_instructions_from_pixels():
    """Two squares of four are named; their positions are regressed from 64x64 pixels."""
    names, colors = (
        ["red", "blue", "green", "yellow"],
        torch.tensor([[220, 40, 40], [40, 60, 220], [40, 180, 60], [230, 200, 40]]),
    )
    generator = torch.Generator().manual_seed(0)
    count = 4000
    place = torch.randint(2, 56, (count, 4, 2), generator=generator)
    images = torch.full((count, 1, 64, 64, 3), 120, dtype=torch.uint8)
    for row in range(count):
        for color in range(4):
            y, x = place[row, color].tolist()
            images[row, 0, y : y + 6, x : x + 6] = colors[color]
    named = torch.randint(0, 4, (count, 2), generator=generator)
    backbone = MLPBaselineCfg().build(num_cameras=1, state_dim=0)
    texts = [f"put the {names[first]} block on the {names[second]} plate" for first, second in named.tolist()]
    ids, mask = backbone.tokenize(texts)
    target = torch.cat([place[torch.arange(count), named[:, side]] for side in range(2)], 1) / 32 - 0.9
    head = torch.nn.Linear(128, 4)
    parameters = [*backbone.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(parameters, 1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1.5e-3, total_steps=700)

    def predict(rows):
        there = torch.ones(len(rows), 1, dtype=torch.bool)
        return head(backbone(VLMInputs(images[rows], there, ids[rows], mask[rows], torch.zeros(len(rows), 0))).pooled)

    for _ in range(700):
        rows = torch.randint(0, count - 500, (64,), generator=generator)
        loss = (predict(rows) - target[rows]).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
    held_out = torch.arange(count - 500, count)
    with torch.no_grad():
        assert 32 * (predict(held_out) - target[held_out]).abs().mean() < 2.0  # pixels; 13 without the text
