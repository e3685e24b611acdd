"""Common parts of the backbones Qwen2-VL and Qwen3-VL. transformers brings modules and weights; the rest is here.

    prompt, images | instruction | state | action queries

The instruction may also come before the images, as the prompt says. The sequence is put together from embeddings. What
is absent in a row (the end of a shorter text, a camera) goes to the end of it, where causal attention lets nothing see
it, so that no attention mask is needed. Positions are computed on the device: nothing here waits for it.

Shape letters: B rows, S sequence, F tokens of prompt and images, T text, Q queries, C cameras, D width.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...configclass import ConfigError, Range, configclass
from ...utils.optional import require_package
from ...utils.parallelize import recompute
from . import qwen_vision as vision
from .backbone import Backbone, BackboneCfg, Taps, VLMInputs
from .lora import LoRACfg, adapted_layers, add_lora
from .prefix import Prefix
from .qwen_loading import UNPUBLISHED, build_architecture, find_model, load_weights, require_type, tokenizer_of

IMAGES, INSTRUCTION = "{images}", "{instruction}"
BASE = "base_model"
"""Folder of an export."""


class QwenBackbone(Backbone):
    """See the module. `visual` and `language` are transformers' modules; there is no language-model head."""

    cfg: QwenCfg
    fixed_ids: Tensor
    image_slots: Tensor
    camera_of: Tensor
    offset: Tensor
    advance: Tensor

    def __init__(self, cfg: QwenCfg, *, num_cameras: int, state_dim: int, taps: Taps | None = None) -> None:
        super().__init__()
        self.cfg, self.taps = cfg, taps or Taps()
        model, self.tokenizer = cfg.load()
        self.visual, self.language = model.visual, model.language_model
        self.model_config = model.config
        self.width, self.image_size = self.language.config.hidden_size, (cfg.image_size[0], cfg.image_size[1])
        depth = len(self.language.layers)
        if self.taps.num_layers > depth:
            raise ConfigError(f"The head reads {self.taps.num_layers} layers, and the language model has {depth}.")
        self._lay_out(num_cameras)
        self._see_fixed_size()
        self._choose_trained()
        self.state = nn.Linear(state_dim, self.width) if state_dim and cfg.reads_state else None
        queries = self.taps.num_queries
        self.queries = nn.Parameter(0.02 * torch.randn(queries, self.width)) if queries else None
        if self.state is not None:  # of the size of word embeddings
            nn.init.normal_(self.state.weight, std=0.02)
            nn.init.zeros_(self.state.bias)

    def tokenize(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """See `Backbone.tokenize`: the instruction with everything of the prompt on its side of the images."""
        head, _, tail = self.cfg.prompt.partition(IMAGES)
        template = head if self._asked_first else tail
        rows = [self._encode(template.replace(INSTRUCTION, text)) for text in texts]
        length = max(1, *map(len, rows)) if rows else 1
        ids = torch.tensor([row + [0] * (length - len(row)) for row in rows], dtype=torch.int64).view(-1, length)
        return ids, torch.arange(length) < torch.tensor([len(row) for row in rows]).view(-1, 1)

    def forward(self, inputs: VLMInputs) -> Prefix:
        """See `Backbone.forward`. Features have the dtype of the word embeddings, which is bfloat16 where frozen."""
        embedded, valid = self._sequence(inputs)
        images, deepstack = self._see(inputs.images)
        before = inputs.text_ids.shape[1] if self._asked_first else 0
        slots = self.image_slots + before
        embedded = embedded.index_copy(1, slots, images.to(embedded.dtype))
        extra = [torch.zeros_like(embedded).index_copy(1, slots, part.to(embedded.dtype)) for part in deepstack]

        order = (~valid).to(torch.uint8).argsort(dim=1, stable=True)
        back = order.argsort(dim=1)
        hidden = _take(embedded, order)
        rotation = self.language.rotary_emb(hidden, self._positions(valid, before).gather(2, order.expand(3, -1, -1)))
        layers, depth = [], len(self.language.layers)
        for number, layer in enumerate(self.language.layers):
            hidden = layer(hidden, attention_mask=None, position_embeddings=rotation)
            if number < len(extra):
                hidden = hidden + _take(extra[number], order)
            if number >= depth - self.taps.num_layers:
                layers.append(hidden)

        queries, length = self.taps.num_queries, valid.shape[1] - self.taps.num_queries
        tokens = _take(self.language.norm(hidden), back)
        is_image = torch.zeros(length, dtype=torch.bool, device=valid.device).index_fill(0, slots, True)
        return Prefix(
            tokens=tokens[:, :length],
            mask=valid[:, :length],
            is_image=is_image.expand(len(valid), -1),
            state=inputs.state,
            queries=tokens[:, length:] if queries else None,
            # Normalized, as the features of a model that ends there: residual streams hold values in the thousands.
            layers=tuple(_take(self.language.norm(layer), back)[:, :length] for layer in layers),
        )

    @property
    def is_bfloat16(self) -> bool:
        """See `Backbone.is_bfloat16`; what the state token and queries give is cast, whatever they are held in."""
        parts = (self.visual, self.language)
        return all(parameter.dtype == torch.bfloat16 for part in parts for parameter in part.parameters())

    def export(self, folder: Path) -> QwenCfg:
        """See `Backbone.export`: configuration and tokenizer of the model, without its weights."""
        base = folder / BASE
        base.mkdir(parents=True, exist_ok=True)
        self.model_config.save_pretrained(base)
        self.tokenizer.save(str(base / "tokenizer.json"))
        finetune = self.cfg.finetune if self.cfg.finetune != "lora" or adapted_layers(self) else "frozen"
        return self.cfg.replace(
            model_name=BASE, random_weights=True, finetune=finetune, state_token=self.state is not None
        )

    # --- the sequence -------------------------------------------------------------------------------------------------

    def _sequence(self, inputs: VLMInputs) -> tuple[Tensor, Tensor]:
        """Embeddings `(B, S, D)`, images left open, and bool `(B, S)`: what is there."""
        words, rows = self.language.embed_tokens, len(inputs.text_ids)
        parts = [words(self.fixed_ids).expand(rows, -1, -1), words(inputs.text_ids)]
        parts = parts[::-1] if self._asked_first else parts
        if self.state is not None:
            state = inputs.state.to(self.state.weight.dtype)
            parts.append(self.state(state).unsqueeze(1))
        if self.queries is not None:
            parts.append(self.queries.expand(rows, -1, -1))
        # Column 0 is the prompt, column 1 + c is camera c.
        there = F.pad(inputs.has_image, (1, 0), value=True)[:, self.camera_of]
        valid = torch.cat([inputs.text_mask, there] if self._asked_first else [there, inputs.text_mask], dim=1)
        embedded = torch.cat([part.to(words.weight.dtype) for part in parts], dim=1)
        return embedded, F.pad(valid, (0, embedded.shape[1] - valid.shape[1]), value=True)

    def _positions(self, valid: Tensor, before: int) -> Tensor:
        """Time, row and column `(3, B, S)` of the multimodal rotary embedding (Wang et al. 2024, arXiv 2409.12191).

        A text token goes one step on in all three. The tokens of an image share the time of its first one, and what
        follows starts behind its longer side. `before` tokens come before those that are laid out.
        """
        around = before, valid.shape[1] - len(self.advance) - before
        steps = F.pad(self.advance, around, value=1) * valid
        return (steps.cumsum(1) - steps) + F.pad(self.offset, around).unsqueeze(1)

    def _lay_out(self, num_cameras: int) -> None:
        """Tokens, positions and owners of images and of the prompt's part without instruction, alike in all rows."""
        rows, columns = (size // self.cfg.token_pixels for size in self.image_size)
        start, image, end = self._encode("<|vision_start|><|image_pad|><|vision_end|>")
        parts = self.cfg.prompt.partition(IMAGES)
        self._asked_first = INSTRUCTION in parts[0]
        head, tail = ([], self._encode(parts[2])) if self._asked_first else (self._encode(parts[0]), [])
        picture = [start, *[image] * (rows * columns), end]
        ids = torch.tensor(head + picture * num_cameras + tail, dtype=torch.int64)
        place = torch.cartesian_prod(torch.arange(rows), torch.arange(columns)).view(-1, 2).T
        offset = F.pad(torch.cat([torch.zeros_like(place[:1]), place]), (1, 1)).repeat(1, num_cameras)
        advance = torch.ones(len(picture), dtype=torch.int64)
        advance[1:-1] = 0
        advance[-2] = max(rows, columns)
        cameras = torch.arange(1, num_cameras + 1).repeat_interleave(len(picture))
        buffers = {
            "fixed_ids": ids,
            "image_slots": (ids == image).nonzero().flatten(),
            "camera_of": F.pad(cameras, (len(head), len(tail))),
            "offset": F.pad(offset, (len(head), len(tail))),
            "advance": F.pad(advance.repeat(num_cameras), (len(head), len(tail)), value=1),
        }
        for name, value in buffers.items():
            self.register_buffer(name, value, persistent=False)

    def _encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    # --- images -------------------------------------------------------------------------------------------------------

    def _see_fixed_size(self) -> None:
        config = self.model_config.vision_config
        patch, merge = config.patch_size, config.spatial_merge_size
        if patch * merge != self.cfg.token_pixels:
            raise ConfigError(f"The model has patches of {patch} pixels, expected {self.cfg.token_pixels // merge}.")
        rows, columns = (size // patch for size in self.image_size)
        self._patch, self._merge = patch, merge
        place = vision.merged_order(rows, columns, merge)
        cos, sin = vision.rotation(place, self.visual.blocks[0].attn.head_dim)
        std = torch.tensor(self.cfg.image_std)
        buffers = {
            "patch_place": place[:, 0] * columns + place[:, 1],
            "cos": cos,
            "sin": sin,
            "pixel_scale": 1 / (255 * std),
            "pixel_shift": -torch.tensor(self.cfg.image_mean) / std,
        }
        for name, value in buffers.items():
            self.register_buffer(name, value, persistent=False)
        vision.attend_within_images(self.visual)

    patch_place: Tensor
    cos: Tensor
    sin: Tensor
    pixel_scale: Tensor
    pixel_shift: Tensor

    def _see(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """uint8 `(B, C, H, W, 3)` -> tokens `(B, C * P, D)`, and what is added to them behind the first layers."""
        rows = len(images)
        tokens, deepstack = self._tower(images.flatten(0, 1))
        return tokens.reshape(rows, -1, self.width), [part.reshape(rows, -1, self.width) for part in deepstack]

    def _embed(self, images: Tensor) -> Tensor:
        """uint8 `(N, H, W, 3)` -> patches `(N, P, D_v)`."""
        patches = vision.patchify(images, self._patch, self._merge, self.pixel_scale, self.pixel_shift)
        return vision.embed_patches(self.visual, patches)

    def _tower(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The vision tower: uint8 `(N, H, W, 3)` -> tokens `(N, P', D)` and DeepStack's."""
        hidden = self._embed(images)
        for block in self.visual.blocks:
            hidden = block(hidden, cu_seqlens=None, position_embeddings=(self.cos, self.sin))
        return self.visual.merger(hidden), []

    # --- what is trained ----------------------------------------------------------------------------------------------

    def _choose_trained(self) -> None:
        cfg = self.cfg
        for part in (self.visual, self.language):
            part.requires_grad_(False)
        if cfg.finetune == "lora":
            add_lora(self.language, cfg.lora)
        elif cfg.finetune == "full":
            self.language.requires_grad_(True)
            self.visual.requires_grad_(cfg.train_vision)
        frozen = torch.bfloat16 if cfg.frozen_dtype == "bf16" else torch.float32
        for parameter in self.parameters():
            parameter.data = parameter.data.to(torch.float32 if parameter.requires_grad else frozen)
        if cfg.gradient_checkpointing:
            for block in (*self.visual.blocks, *self.language.layers):
                recompute(block)


@configclass
class QwenCfg(BackboneCfg):
    """Base of the configurations of Qwen backbones."""

    class_type: type = QwenBackbone
    model_name: str = ""
    """A folder, an id of the Hugging Face hub whose files are in its cache, or a model with random weights and a
    tokenizer of bytes: `tiny` (a few hundred thousand parameters) for tests, `small` (Qwen3-VL, 43 million) to learn
    from scratch with `finetune="full"`."""
    random_weights: bool = False
    """Build the architecture without reading weights: for benchmarks, and for a policy that is loaded afterwards."""
    seed: int = 0
    """Of random weights."""
    image_size: list[Annotated[int, Range(ge=1, le=4096)]] = [224, 224]
    """Height and width of all images, multiples of what one token covers: fixed, so that shapes are."""
    prompt: str = "<|im_start|>user\n{images}{instruction}<|im_end|>\n<|im_start|>assistant\n"
    """Template of the text, with the places of images and instruction. Attention is causal: behind the instruction,
    tokens of images know what is asked for."""
    finetune: Literal["frozen", "lora", "full"] = "frozen"
    """Trained weights: only the new ones (state token and queries), adapters of the language model, or all."""
    lora: LoRACfg = LoRACfg()
    """Adapters, with `finetune="lora"`."""
    train_vision: bool = True
    """True to include the vision tower in `finetune="full"`."""
    state_token: bool | None = None
    """True to give the language model the proprioception; None: if it is trained. Heads read it anyway."""
    num_layers: Annotated[int, Range(ge=1)] | None = None
    """Layers of the language model that are kept, from below; None: all."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: slower, much less memory."""
    frozen_dtype: Literal["bf16", "fp32"] = "bf16"
    """Of weights that are not trained; trained ones are float32."""

    family: ClassVar[str] = ""
    """`model_type` in transformers."""
    class_name: ClassVar[str] = ""
    """Its classes there begin with this."""
    setup_name: ClassVar[str] = ""
    """Argument of `setup_models.sh`."""
    token_pixels: ClassVar[int] = 1
    """Pixels per side that one token of the language model covers."""
    image_mean: ClassVar[tuple[float, float, float]] = (0.5, 0.5, 0.5)
    image_std: ClassVar[tuple[float, float, float]] = (0.5, 0.5, 0.5)
    architectures: ClassVar[dict[str, dict[str, Any]]] = {}
    """Arguments of the configuration in transformers, by `model_name`."""

    def located(self, folder: Path) -> QwenCfg:
        """See `BackboneCfg.located`."""
        return self.replace(model_name=str(folder / self.model_name))

    @property
    def is_pretrained(self) -> bool:
        """False for random weights."""
        return not (self.random_weights or self.model_name in UNPUBLISHED)

    @property
    def reads_state(self) -> bool:
        """True if the proprioception is a token."""
        return self.finetune != "frozen" if self.state_token is None else self.state_token

    def check(self) -> Iterable[str]:
        """Sentences on images that tokens do not fill, and on the prompt."""
        if len(self.image_size) != 2:
            yield f"image_size: has {len(self.image_size)} entries, expected height and width"
        for size in self.image_size:
            if size % self.token_pixels:
                near = max(1, round(size / self.token_pixels)) * self.token_pixels
                yield f"image_size: {size} is no multiple of {self.token_pixels}, what a token covers; take {near}"
        if self.prompt.count(IMAGES) != 1 or self.prompt.count(INSTRUCTION) != 1:
            yield f"prompt: expected {IMAGES} once and {INSTRUCTION} once"

    def load(self) -> tuple[Any, Any]:
        """The model without its language-model head, and its tokenizer."""
        transformers = require_package("transformers", extra="vla", purpose="vision-language models")
        model_class = getattr(transformers, f"{self.class_name}Model")
        config_class = getattr(transformers, f"{self.class_name}Config")
        random = not self.is_pretrained
        folder = None
        if not (random and self.model_name in self.architectures):
            folder = find_model(self.model_name, self.setup_name)
            require_type(config_class, self.family, folder)
            config = config_class.from_pretrained(folder)
        else:
            config = config_class(**self.architectures[self.model_name])
        if self.num_layers is not None:
            _truncate(config.text_config, self.num_layers)
        dtype = torch.bfloat16 if self.frozen_dtype == "bf16" and self.finetune != "full" else torch.float32
        if random or folder is None:
            return build_architecture(model_class, config, dtype, self.seed), tokenizer_of(folder)
        return load_weights(model_class, folder, config, dtype), tokenizer_of(folder)


def _truncate(text_config: Any, num_layers: int) -> None:
    if num_layers > text_config.num_hidden_layers:
        raise ConfigError(f"num_layers is {num_layers}, and the model has {text_config.num_hidden_layers} layers.")
    text_config.num_hidden_layers = num_layers
    if getattr(text_config, "layer_types", None):
        text_config.layer_types = text_config.layer_types[:num_layers]


def _take(x: Tensor, order: Tensor) -> Tensor:
    """Bring the tokens of each row `(B, S, D)` into an order `(B, S)`."""
    return x.gather(1, order.unsqueeze(-1).expand_as(x))
