"""The seam between a vision-language model and the action head that reads its features."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ...configclass import Cfg, ConfigError, configclass
from .prefix import Prefix


@dataclass(frozen=True)
class Taps:
    """Features that a head reads; given by the head's configuration."""

    num_queries: int = 0
    """Learned query tokens that follow the prompt and see all of it."""
    num_layers: int = 0
    """Number of last layers whose hidden states are read."""
    key_values: bool = False
    """Keys and values of all layers, which an action expert attends to."""
    reads_tokens: bool = True
    """Whether tokens are read one by one; False if their mean, queries and state are all that is read."""
    reads_mean: bool = True
    """Whether their mean is read; see `Backbone.serves_head_alone`."""


@dataclass
class VLMInputs:
    """A batch of `B` observations, preprocessed for one backbone and on its device."""

    images: Tensor
    """uint8 `(B, C, H, W, 3)`: the cameras in the policy's order, already of the size that the backbone reads."""
    has_image: Tensor
    """bool `(B, C)`: False where a camera is absent, whose pixels are then zero."""
    text_ids: Tensor
    """int64 `(B, T)`: the tokenized instruction, padded on the right."""
    text_mask: Tensor
    """bool `(B, T)`: True where there is text."""
    state: Tensor
    """Normalized proprioception `(B, S)`; S may be 0."""
    present: Tensor | None = None
    """bool `(B, C)` on the CPU: `has_image`, where the host knows it and shapes may depend on it."""


class Backbone(nn.Module, ABC):
    """Images, text and state in, features out. Built by `BackboneCfg.build(num_cameras=, state_dim=, taps=)`."""

    cfg: BackboneCfg
    width: int
    """D, the width of the features."""
    image_size: tuple[int, int]
    """Height and width of the images that it reads."""
    action_words: int = 0
    """Words of its vocabulary that can stand for tokens of actions; 0: it predicts none."""
    serves_head_alone: bool = False
    """True where nothing but the head reads the features, no value, for example: what it does not read may be left out,
    and `Prefix.tokens` be empty."""

    @abstractmethod
    def tokenize(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Turn instructions into `text_ids` and `text_mask`, padded to the longest; on the CPU."""

    @abstractmethod
    def forward(self, inputs: VLMInputs) -> Prefix:
        """Compute the features of a batch."""

    def action_logits(self, prefix: Prefix, tokens: Tensor, vocabulary: int) -> Tensor:
        """Predict tokens of actions behind the prompt, each from the observation and the tokens before it.

        Args:
            prefix: Features of B observations, with keys and values.
            tokens: int64 `(B, N)`, below `vocabulary`.
            vocabulary: V, less than `action_words`: one more says that actions begin.

        Returns:
            float32 `(B, N, V)`.
        """
        raise ConfigError(f"{type(self).__name__} predicts no tokens of actions: leave policy.action_tokens at null.")

    @property
    def is_frozen(self) -> bool:
        """True if nothing in it is trained, so that the features of an observation may be kept."""
        return not any(parameter.requires_grad for parameter in self.parameters())

    @property
    def is_bfloat16(self) -> bool:
        """True if it computes in bfloat16 by itself: autocast would only cast back and forth around its norms."""
        return all(parameter.dtype == torch.bfloat16 for parameter in self.parameters())

    def export(self, folder: Path) -> BackboneCfg:
        """Write what is needed beside the weights, and return a configuration that builds the same modules from it."""
        return self.cfg.copy()


@configclass
class BackboneCfg(Cfg):
    """Base of the configurations of backbones."""

    class_type: type = Backbone

    @property
    def is_pretrained(self) -> bool:
        """True if it comes with weights that were trained elsewhere."""
        return False

    def located(self, folder: Path) -> BackboneCfg:
        """The same, where what `Backbone.export` wrote lies in `folder`."""
        return self.copy()
