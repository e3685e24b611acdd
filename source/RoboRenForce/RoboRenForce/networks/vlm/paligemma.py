"""PaliGemma (arXiv 2407.07726) as the backbone of pi0 and pi0.5: all tokens see one another, there is no causal mask.

    images -> SigLIP -> linear --.
    text -> embeddings ----------+--> Gemma --> keys and values of every layer, and the mean of the last features
    state as text (pi0.5) -------'

Only what is there is computed: cameras that the policy has, and prompts at their length (the longest of the policy's
instructions, in steps of eight). A gap in a row, such as the end of a shorter text, is masked and counts no position.
Where the host knows which rows have which cameras, the vision tower sees those pictures alone.

Shape letters: B rows, C cameras, T text, L all tokens, S state, D width.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...configclass import ConfigError, Range, configclass
from ...utils.seeding import preserved_rng
from .backbone import Backbone, BackboneCfg, Taps, VLMInputs
from .gemma import Gemma, GemmaCfg
from .lora import adapted_layers
from .paligemma_prompt import WORDS, PaliGemmaPrompt
from .prefix import Prefix
from .siglip import SigLIP, SigLIPCfg

_SEGMENTS = 128
"""Words at the end of the vocabulary that stand for shapes in images; those before them were never text."""
_STEP = 8
"""The number of tokens is a multiple of it: attention kernels want that of masks."""


class PaliGemma(Backbone):
    """See the module."""

    cfg: PaliGemmaCfg

    def __init__(self, cfg: PaliGemmaCfg, *, num_cameras: int, state_dim: int, taps: Taps | None = None) -> None:
        super().__init__()
        self.cfg, self.taps = cfg, taps or Taps()
        _require_readable(cfg, self.taps)
        self.width, self.image_size = cfg.language.width, (cfg.vision.image_size, cfg.vision.image_size)
        self.action_words = max(cfg.vocabulary - _SEGMENTS, 0)
        numbers = state_dim if cfg.prompt_state_dim is None else cfg.prompt_state_dim
        if cfg.state_in_prompt and numbers < state_dim:
            raise ConfigError(
                f"The state has {state_dim} numbers, and backbone.prompt_state_dim writes {numbers} into the prompt: "
                f"set it to at least {state_dim}, or to null."
            )
        self.prompt = PaliGemmaPrompt(cfg.tokenizer, cfg.vocabulary, state_dim=numbers if cfg.state_in_prompt else None)
        with preserved_rng():
            torch.manual_seed(cfg.seed)
            self.vision = SigLIP(cfg.vision)
            self.projector = nn.Linear(cfg.vision.width, self.width)
            self.words = nn.Embedding(cfg.vocabulary, self.width)
            nn.init.normal_(self.words.weight, std=self.width**-0.5)
            self.language = Gemma(cfg.language)
        self._choose_trained()

    def tokenize(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """See `Backbone.tokenize`: all of the prompt but the state."""
        return self.prompt.tokenize(texts)

    def forward(self, inputs: VLMInputs) -> Prefix:
        """See `Backbone.forward`. Features have the dtype that the language model computes in."""
        inputs = self._padded(inputs) if self.cfg.padded else inputs
        ids, mask = self.prompt(inputs.text_ids, inputs.text_mask, inputs.state)
        images, there = self._look(inputs)
        there = there.repeat_interleave(images.shape[2], 1)
        ids, mask = self._filled_up(ids, mask, there.shape[1])
        words = self.words(ids) * self.width**0.5
        x = torch.cat([images.flatten(1, 2).to(words.dtype), words], 1)
        valid = torch.cat([there, mask], 1)
        positions = (valid.cumsum(1) - 1).clamp(min=0)
        layers = self.taps.num_layers
        if self.serves_head_alone and not (self.taps.reads_mean or layers):
            _, key_values = self.language(x, positions, valid, last=0)
            none = torch.zeros_like(valid[:, :0])
            tokens = x.new_zeros(len(x), 0, self.width)
            return Prefix(tokens, none, none, inputs.state, key_values=key_values, key_mask=valid)
        hidden, key_values = self.language(x, positions, valid, last=max(layers, 1))
        is_image = torch.arange(x.shape[1], device=x.device) < there.shape[1]
        prefix = Prefix(
            tokens=self.language.normalized(hidden[-1]),
            mask=valid,
            is_image=is_image.expand(len(valid), -1),
            state=inputs.state,
            layers=tuple(map(self.language.normalized, hidden)) if layers else (),
        )
        prefix = prefix if self.taps.reads_tokens else prefix.condensed()
        return replace(prefix, key_values=key_values, key_mask=valid) if self.taps.key_values else prefix

    def action_logits(self, prefix: Prefix, tokens: Tensor, vocabulary: int) -> Tensor:
        """See `Backbone.action_logits`. Token k is the k-th word before those of shapes, as in pi0-FAST.

        The embeddings of these words are what the features are compared with: no other word is a candidate.
        """
        if prefix.key_values is None or prefix.key_mask is None:
            raise ConfigError(
                "Tokens of actions attend to keys and values of the prompt, which the head does not ask for: take an "
                "action expert (network=ActionExpertCfg()), or leave policy.action_tokens at null."
            )
        count, device = tokens.shape[1], tokens.device
        words = self.words(self.action_words - 1 - torch.arange(vocabulary + 1, device=device))  # the last: the start
        before = F.pad(tokens[:, :-1], (1, 0), value=vocabulary)
        there = prefix.key_mask
        seen = torch.ones(count, count, dtype=torch.bool, device=device).tril().expand(len(tokens), -1, -1)
        mask = torch.cat([there.unsqueeze(1).expand(-1, count, -1), seen], -1)
        positions = there.sum(1, keepdim=True) + torch.arange(count, device=device)
        x = F.embedding(before, words) * self.width**0.5
        hidden, _ = self.language(x, positions, mask, prefix.key_values)
        features = self.language.normalized(hidden[-1])
        return F.linear(features, words[:-1].to(features.dtype)).float()

    @property
    def is_bfloat16(self) -> bool:
        """See `Backbone.is_bfloat16`; normalizations are float32 and compute so."""
        parts = [self.projector, self.words, *(m for m in self.language.modules() if isinstance(m, nn.Linear))]
        return all(parameter.dtype == torch.bfloat16 for part in parts for parameter in part.parameters())

    def export(self, folder: Path) -> PaliGemmaCfg:
        """See `Backbone.export`: the tokenizer."""
        merged = not adapted_layers(self)
        cfg = self.cfg.replace(language=self.cfg.language.without_adapters()) if merged else self.cfg.copy()
        return cfg if cfg.tokenizer == WORDS else cfg.replace(tokenizer=self.prompt.save(folder))

    def _look(self, inputs: VLMInputs) -> tuple[Tensor, Tensor]:
        """Features of pictures `(B, C, P, D)`, and which are there `(B, C)`; cameras that no row has are left out."""
        pictures, there, present = inputs.images, inputs.has_image, inputs.present
        if present is None or present.all() or not present.any():
            return self.projector(self.vision(pictures.flatten(0, 1))).unflatten(0, there.shape), there
        # Chosen by the host, because choosing by `has_image` would wait for the device.
        cameras = present.any(0).nonzero().flatten().tolist()
        pictures, there, present = (
            torch.stack([of.select(1, camera) for camera in cameras], 1) for of in (pictures, there, present)
        )
        place = present.flatten().nonzero().flatten()
        place = (place.pin_memory() if pictures.is_cuda else place).to(pictures.device, non_blocking=True)
        seen = self.projector(self.vision(pictures.flatten(0, 1)[place]))
        images = seen.new_zeros(there.numel(), *seen.shape[1:]).index_copy(0, place, seen)
        return images.unflatten(0, there.shape), there

    def _filled_up(self, ids: Tensor, mask: Tensor, others: int) -> tuple[Tensor, Tensor]:
        """Pad the text until the number of all tokens is a multiple of `_STEP`, or to what the authors pad to."""
        missing = -(ids.shape[1] + others) % _STEP
        if self.cfg.padded:
            missing = max(self.cfg.padded_text - ids.shape[1], 0)
        return F.pad(ids, (0, missing)), F.pad(mask, (0, missing), value=False)

    def _padded(self, inputs: VLMInputs) -> VLMInputs:
        """Absent cameras as images of -1."""
        missing = max(self.cfg.padded_cameras - inputs.images.shape[1], 0)
        return VLMInputs(
            F.pad(inputs.images, (0, 0, 0, 0, 0, 0, 0, missing)),
            F.pad(inputs.has_image, (0, missing), value=False),
            inputs.text_ids,
            inputs.text_mask,
            inputs.state,
        )

    def _choose_trained(self) -> None:
        cfg = self.cfg
        trained = cfg.language.finetune == "full"
        for part in (self.vision, self.projector):
            part.requires_grad_(trained and cfg.train_vision)
        self.words.requires_grad_(trained)
        frozen = torch.bfloat16 if cfg.frozen_dtype == "bf16" else torch.float32
        kept = {id(p) for p in [*_norms(self), *self.vision.embeddings.parameters()]}
        for parameter in self.parameters():
            exact = parameter.requires_grad or id(parameter) in kept
            parameter.data = parameter.data.to(torch.float32 if exact else frozen)


@configclass
class PaliGemmaCfg(BackboneCfg):
    """Configuration of `PaliGemma`; the default has the size of pi0's and trains nothing."""

    class_type: type = PaliGemma
    vision: SigLIPCfg = SigLIPCfg()
    """The vision tower."""
    language: GemmaCfg = GemmaCfg(finetune="frozen")
    """The language model. What of it is trained decides about the word embeddings, too."""
    train_vision: bool = True
    """True to include the vision tower in `language.finetune="full"`."""
    vocabulary: Annotated[int, Range(ge=300, le=1_000_000)] = 257_152
    """Word embeddings."""
    tokenizer: str = ""
    """Folder with PaliGemma's tokenizer.json, or the file; `words` for one token per word, for random weights."""
    state_in_prompt: bool = True
    """True to write the normalized proprioception into the prompt, in 256 bins (pi0.5)."""
    prompt_state_dim: Annotated[int, Range(ge=0, le=1024)] | None = None
    """Numbers in the prompt: those of the state, then zeros. None: the state's, as in openpi; LeRobot writes 32."""
    seed: int = 0
    """Of random weights."""
    frozen_dtype: Literal["bf16", "fp32"] = "bf16"
    """Of weights that are not trained, but for normalizations and patches; trained ones are float32."""
    padded: bool = False
    """True to compute what the authors' code computes: absent cameras and the end of the prompt too. It changes no
    result and costs time; for comparisons."""
    padded_cameras: Annotated[int, Range(ge=1, le=64)] = 3
    """Cameras of a padded observation."""
    padded_text: Annotated[int, Range(ge=1, le=4096)] = 200
    """Text tokens of a padded observation: 200 in pi0.5, 48 in pi0."""

    def located(self, folder: Path) -> PaliGemmaCfg:
        """See `BackboneCfg.located`."""
        return self.copy() if self.tokenizer == WORDS else self.replace(tokenizer=str(folder / self.tokenizer))


def _require_readable(cfg: PaliGemmaCfg, taps: Taps) -> None:
    if taps.num_queries:
        raise ConfigError(
            "PaliGemma has no action query tokens: let the head read the mean of all tokens (features='pooled'), or "
            "take an action expert (network=ActionExpertCfg())."
        )
    if taps.num_layers > cfg.language.num_layers:
        raise ConfigError(f"The head reads {taps.num_layers} layers and PaliGemma has {cfg.language.num_layers}.")


def _norms(module: nn.Module) -> Iterable[nn.Parameter]:
    for part in module.modules():
        if type(part).__name__.endswith("Norm"):
            yield from part.parameters(recurse=False)
