"""A small backbone that learns from scratch on one CPU core: a CNN steered by the text, and MLPs.

    text  -> words -> convolution over neighboring words -> readings (weighted means)
    image -> colors -> patches -> looks (words attend to the patches), and a coarse grid
    looks, text, state -> summary (MLP) -> added to every token

It is what the whole VLA path is tested and demonstrated with, and the baseline that a language model has to beat.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...configclass import ConfigError, Range, configclass
from .backbone import Backbone, BackboneCfg, Taps, VLMInputs
from .prefix import Prefix

_WORD = re.compile(r"\w+|[^\w\s]")
_BUCKETS = 4096
_GRID = 2
"""Grid tokens per side of an image."""
_STEM = 16
"""Features of 2x2 pixels, from which patches are made."""


class MLPBaseline(Backbone):
    """See the module. Tokens: per camera the looks and four of a grid, then one of the text and one of the state."""

    cfg: MLPBaselineCfg

    def __init__(self, cfg: MLPBaselineCfg, *, num_cameras: int, state_dim: int, taps: Taps | None = None) -> None:
        super().__init__()
        taps = taps or Taps()
        if taps.num_layers > cfg.num_layers:
            raise ConfigError(
                f"The head reads {taps.num_layers} layers and MLPBaseline has {cfg.num_layers}: set "
                f"backbone.num_layers={taps.num_layers}, or let the head read fewer."
            )
        self.cfg, self.taps, self.num_cameras = cfg, taps, num_cameras
        self.width, self.image_size = cfg.width, (cfg.image_size[0], cfg.image_size[1])
        self.words = WordEncoder(cfg.width, cfg.looks + 1)
        self.text = nn.Linear(cfg.width, cfg.width)
        self.eye = TextGuidedCNN(cfg)
        self.camera = nn.Parameter(0.02 * torch.randn(num_cameras, 1, cfg.width))
        self.grid = nn.Parameter(0.02 * torch.randn(cfg.looks + _GRID**2, cfg.width))
        self.state = nn.Linear(state_dim, cfg.width) if state_dim else None
        inputs = num_cameras * cfg.looks + 1 + (self.state is not None)
        self.summary = nn.Sequential(
            nn.Linear(inputs * cfg.width, cfg.hidden), nn.GELU(), nn.Linear(cfg.hidden, cfg.width)
        )
        queries = taps.num_queries
        self.queries = nn.Parameter(0.02 * torch.randn(queries, cfg.width)) if queries else None
        self.layers = nn.ModuleList(ResidualMLP(cfg.width) for _ in range(cfg.num_layers))
        self.norm = nn.LayerNorm(cfg.width)

    def tokenize(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """See `Backbone.tokenize`: a token is a word or a sign; capital letters do not matter."""
        words = [[_word_id(word) for word in _WORD.findall(text.lower())] for text in texts]
        length = max(1, *map(len, words)) if words else 1
        ids = torch.tensor([row + [0] * (length - len(row)) for row in words], dtype=torch.int64).view(-1, length)
        return ids, torch.arange(length) < torch.tensor([len(row) for row in words]).view(-1, 1)

    def forward(self, inputs: VLMInputs) -> Prefix:
        """See `Backbone.forward`."""
        rows = inputs.images.shape[0]
        words, weights = self.words(inputs.text_ids, inputs.text_mask)  # (B, T, D), (B, looks + 1, T)
        text = self.text((weights[:, -1:] @ words).squeeze(1))
        seen = self.eye(inputs.images, words, weights[:, :-1]) + self.grid + self.camera  # (B, C, looks + grid, D)
        seen = seen * inputs.has_image.view(rows, -1, 1, 1)
        single = [text] if self.state is None else [text, self.state(inputs.state.to(text.dtype))]
        summary = self.summary(torch.cat([seen[:, :, : self.cfg.looks].flatten(1), *single], dim=1)).unsqueeze(1)
        queries = [] if self.queries is None else [self.queries.expand(rows, -1, -1)]
        tokens = torch.cat([seen.flatten(1, 2), torch.stack(single, 1), *queries], dim=1) + summary
        hidden = []
        for layer in self.layers:
            tokens = layer(tokens, summary)
            hidden.append(tokens)
        is_image = torch.arange(tokens.shape[1], device=tokens.device) < seen.shape[1] * seen.shape[2]
        length = tokens.shape[1] - self.taps.num_queries
        there = inputs.has_image.repeat_interleave(seen.shape[2], 1)
        tokens = self.norm(tokens)
        return Prefix(
            tokens=tokens[:, :length],
            mask=F.pad(there, (0, len(single)), value=True),
            is_image=is_image[:length].expand(rows, -1),
            state=inputs.state,
            queries=tokens[:, length:] if self.taps.num_queries else None,
            layers=tuple(layer[:, :length] for layer in hidden[len(hidden) - self.taps.num_layers :]),
        )


class WordEncoder(nn.Module):
    """Encode words, and weigh them in several ways: `(B, T)` and its mask -> `(B, T, D)`, `(B, readings, T)`.

    A word is seen with its two neighbors, so that it matters which adjective stands before which noun; every reading
    weighs other words. The two halves of a word's hash choose a row of a table each, so that hardly any two words share
    both.
    """

    def __init__(self, width: int, readings: int) -> None:
        super().__init__()
        self.high, self.low = nn.Embedding(_BUCKETS, 32), nn.Embedding(_BUCKETS, 32)
        self.neighbors = nn.Conv1d(32, width, 3, padding=1)
        self.norm = nn.LayerNorm(width)
        self.readings = nn.Linear(width, readings, bias=False)

    def forward(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Encode texts."""
        words = (self.high(ids // _BUCKETS) + self.low(ids % _BUCKETS)) * mask.unsqueeze(-1)
        words = self.norm(F.gelu(self.neighbors(words.transpose(1, 2))).transpose(1, 2))
        # A text without words is read as its padding, which is the same for all.
        there = (mask | ~mask.any(1, keepdim=True)).unsqueeze(1)
        logits = self.readings(words).transpose(1, 2).masked_fill(~there, -torch.inf)
        return words, logits.softmax(-1)


class TextGuidedCNN(nn.Module):
    """Let the text look at the image: `(B, C, H, W, 3)` uint8 -> tokens `(B, C, looks + grid, D)`.

    Every word is a query that attends to the patches, and a look is a mean over the words by its reading of the text.
    It returns where the words look, and what they see there only if configured. Features are of single patches, colors
    are mixed before patches are: whatever else tells one scene from another would be learned by heart before the words
    are understood.
    """

    position: Tensor

    def __init__(self, cfg: MLPBaselineCfg) -> None:
        super().__init__()
        channels, patch = cfg.channels, cfg.patch
        side = cfg.image_size[0] // patch, cfg.image_size[1] // patch
        self.content, self.shift, self.patch = cfg.content, cfg.shift, patch
        self.sharpness = cfg.sharpness
        self.stem = nn.Conv2d(3, _STEM, 2, 2)
        self.patches = nn.Conv2d(_STEM, channels, patch // 2, patch // 2)
        self.mix = nn.Conv2d(channels, channels, 1)
        self.norm = nn.LayerNorm(channels)
        self.query = nn.Linear(cfg.width, channels)
        self.key = nn.Linear(channels, channels)
        self.seen = nn.Linear(2 + channels * cfg.content, cfg.width)
        self.grid = nn.Linear(channels, cfg.width)
        rows, columns = (torch.linspace(-1, 1, size) for size in side)
        position = torch.stack(torch.meshgrid(rows, columns, indexing="ij"), -1).flatten(0, 1)
        self.register_buffer("position", position, persistent=False)  # (P, 2): row and column

    def forward(self, images: Tensor, words: Tensor, weights: Tensor) -> Tensor:
        """Encode images by words `(B, T, D)`, which every look weighs `(B, looks, T)`."""
        rows, cameras = images.shape[:2]
        pixels = images.flatten(0, 1).movedim(-1, 1).to(words.dtype) / 127.5 - 1.0
        position = self.position.to(words.dtype)
        if self.shift and self.training:
            pixels, moved = self._shifted(pixels)
            position = position + moved
        x = F.relu(self.patches(F.relu(self.stem(pixels))))
        mix = self.mix.weight.flatten(1)[..., None, None]  # by a view, whose gradient has the strides that DDP expects
        x = x + F.relu(F.conv2d(x, mix, self.mix.bias))
        features = self.norm(x.flatten(2).transpose(1, 2))  # (B C, P, channels)
        values = position.to(features.dtype).expand(len(features), -1, -1)
        if self.content:
            values = torch.cat([features, values], dim=-1)
        query = self.query(words).repeat_interleave(cameras, 0)
        seen = F.scaled_dot_product_attention(query, self.key(features), values, scale=self.sharpness)
        looks = weights.repeat_interleave(cameras, 0) @ seen
        what = F.adaptive_avg_pool2d(x, _GRID).flatten(2).transpose(1, 2)
        return torch.cat([self.seen(looks), self.grid(what)], dim=1).unflatten(0, (rows, cameras))

    def _shifted(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Cut out images of the same size some pixels further; returns them and how far positions have moved `(2,)`."""
        most, (height, width) = self.shift, pixels.shape[-2:]
        down, right = torch.randint(-most, most + 1, (2,)).tolist()
        pixels = F.pad(pixels, (most, most, most, most), mode="replicate")
        pixels = pixels[..., most + down : most + down + height, most + right : most + right + width]
        moved = [2.0 * down / (height - self.patch), 2.0 * right / (width - self.patch)]
        return pixels, torch.tensor(moved, dtype=pixels.dtype, device=pixels.device)


class ResidualMLP(nn.Module):
    """A residual MLP on every token, which sees the summary of all."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, tokens: Tensor, summary: Tensor) -> Tensor:
        """Apply it to `(B, L, D)` with the summary `(B, 1, D)`."""
        return tokens + self.mlp(self.norm(tokens + summary))


@configclass
class MLPBaselineCfg(BackboneCfg):
    """Configuration of `MLPBaseline`; the default has about 0.9 million parameters."""

    class_type: type = MLPBaseline
    image_size: list[Annotated[int, Range(ge=8, le=1024)]] = [64, 64]
    """Height and width."""
    patch: Annotated[int, Range(ge=2, le=64)] = 4
    """Pixels per side of a patch, an even number."""
    channels: Annotated[int, Range(ge=1, le=1024)] = 16
    """Features of a patch."""
    looks: Annotated[int, Range(ge=1, le=64)] = 4
    """Ways to weigh where the words look in each image."""
    content: bool = False
    """True: a look also returns what it sees. It takes many more demonstrations then until the words are understood."""
    shift: Annotated[int, Range(ge=0, le=64)] = 0
    """Most pixels by which the images of a batch are shifted while training, positions with them: another scene for
    whoever learns scenes by heart, the same one for whoever looks where the words say."""
    sharpness: Annotated[float, Range(gt=0)] = 1.0
    """Factor on the logits of where words look. Above 1 words point sooner; until they do, scenes are learned by heart,
    and with few demonstrations that is where learning can end."""
    width: Annotated[int, Range(ge=8, le=4096)] = 128
    """Of the tokens."""
    hidden: Annotated[int, Range(ge=8, le=8192)] = 512
    """Of the MLP that makes the summary."""
    num_layers: Annotated[int, Range(ge=1, le=64)] = 2
    """Residual MLPs."""

    def check(self) -> Iterable[str]:
        """Sentences on an image that patches do not fill."""
        if len(self.image_size) != 2:
            yield f"image_size: has {len(self.image_size)} entries, expected height and width"
        elif self.patch % 2:
            yield f"patch: got {self.patch}, expected an even number"
        elif any(size % self.patch or size // self.patch < _GRID for size in self.image_size):
            yield f"image_size: {self.image_size} does not hold {_GRID}x{_GRID} whole patches of {self.patch} pixels"


def _word_id(word: str) -> int:
    return int.from_bytes(hashlib.blake2b(word.encode(), digest_size=3).digest(), "little")
