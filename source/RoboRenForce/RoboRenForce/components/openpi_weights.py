"""Weights of pi0 and pi0.5 as others publish them: openpi's PyTorch files, LeRobot, RLinf, transformers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..utils.errors import CheckpointError, did_you_mean
from ..utils.key_map import KeyMap, best_layout
from ..utils.safetensors_file import read_tensors

DOWNLOAD = "download it again"
"""What to do about a published file that can't be read."""
EXPLORATION = "head.noise."
"""Beginning of the names of what reinforcement learning adds to a policy, and no layout has."""
_EXPERT = "head.network."
_PROJECTIONS = ("action_in_proj.", "state_proj.", "action_time_mlp_in.", "action_time_mlp_out.")
_TIME = ("time_mlp_in.", "time_mlp_out.")


def _joint(name: str, prefix: str, unused: tuple[str, ...] = ()) -> KeyMap:
    """The names of openpi's port, behind a prefix."""
    model, expert = f"{prefix}paligemma_with_expert.paligemma.", f"{prefix}paligemma_with_expert.gemma_expert."
    outside = (*_PROJECTIONS, *_TIME, "action_out_proj.")
    return KeyMap(
        name,
        renames=(
            # Tied embeddings under the one name that safetensors keeps of the two; strict readers refuse both at once.
            (f"{model}lm_head.", "backbone.words."),
            *_paligemma(f"{model}model.", f"{model}model.vision_tower.vision_model."),
            # As transformers 5 names what is below `vision_tower`, and what it saves of its PI0.
            *_paligemma(f"{model}model.", f"{model}model.vision_tower."),
            (f"{model}model.language_model.model.embed_tokens.", "backbone.words."),
            (f"{model}model.language_model.model.", "backbone.language."),
            (f"{expert}model.", f"{_EXPERT}gemma."),
            *((prefix + part, _EXPERT + part) for part in outside),
        ),
        # A language-model head of the expert that nothing trains, and embeddings that it has lost.
        unused=(f"{expert}lm_head.", f"{expert}model.embed_tokens.", *unused),
        copies={
            f"{model}model.language_model.{part}embed_tokens.weight": f"{model}lm_head.weight"
            for part in ("", "model.")
        },
        zeros=(f"{expert}lm_head.weight",),
    )


def _paligemma(model: str, vision: str) -> tuple[tuple[str, str], ...]:
    return (
        (f"{vision}embeddings.patch_embedding.", "backbone.vision.embeddings."),
        (f"{vision}embeddings.position_embedding.weight", "backbone.vision.embeddings.position"),
        (f"{vision}encoder.layers.", "backbone.vision.layers."),
        (f"{vision}post_layernorm.", "backbone.vision.post_layernorm."),
        (f"{model}multi_modal_projector.linear.", "backbone.projector."),
        (f"{model}language_model.embed_tokens.", "backbone.words."),
        (f"{model}language_model.", "backbone.language."),
    )


_RL_HEADS = (
    *("value_head.", "noise_head.", "dsrl_action_noise_net.", "q_head."),
    *("actor_image_encoder.", "actor_state_encoder.", "critic_image_encoder.", "critic_state_encoder."),
)
"""What RLinf adds; its networks of values and noise read other features than ours."""

OPENPI = _joint("openpi", "", _RL_HEADS)
"""openpi's PyTorch safetensors, and RLinf's full_weights.pt."""
LEROBOT = _joint("lerobot", "model.")
"""lerobot/pi0_base, lerobot/pi05_base, and what LeRobot trains from them."""
TRANSFORMERS = KeyMap(
    "transformers",
    renames=(
        *_paligemma("model.vlm.", "model.vlm.vision_tower."),
        ("model.dit.", f"{_EXPERT}gemma."),
        *((f"embed_action_time.{part}", _EXPERT + part) for part in _PROJECTIONS),
        ("action_out_proj.", f"{_EXPERT}action_out_proj."),
    ),
    unused=("model.dit.embed_tokens.",),
    zeros=("model.dit.embed_tokens.weight",),
)
"""Weights inside `PI0ForConditionalGeneration` of transformers, pi0 alone; what it saves has openpi's names."""
LAYOUTS = {layout.name: layout for layout in (OPENPI, LEROBOT, TRANSFORMERS)}


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Read a file or a folder of them, on the CPU; safetensors, or RLinf's full_weights.pt without running any code.

    Raises:
        CheckpointError: there are no weights, or they can't be read.
    """
    files = weight_files(path)
    tensors: dict[str, Tensor] = {}
    for file in files:
        tensors |= read_pickled(file) if file.suffix == ".pt" else read_tensors(file, fix=DOWNLOAD)
    return tensors


def weight_files(path: str | Path) -> list[Path]:
    """Return the files with weights of a model, given one of them or its folder.

    Raises:
        CheckpointError: there are none.
    """
    path = Path(path).expanduser()
    if path.is_file():
        return [path]
    for pattern in ("*.safetensors", "model_state_dict/full_weights.pt", "actor/model_state_dict/full_weights.pt"):
        found = sorted(file for file in path.glob(pattern) if "processor" not in file.name)
        if found:
            return found
    if not path.is_dir():
        raise CheckpointError(f"'{path}': there is no such file or folder; name the folder of a model, or its weights.")
    raise CheckpointError(
        f"'{path}' holds no weights, expected model.safetensors or full_weights.pt: download the model with "
        "scripts/models/setup_models.sh openpi, or name the file."
    )


def rename_weights(tensors: Mapping[str, Any], path: str | Path = "the file") -> dict[str, Any]:
    """Return weights of any known layout under our names.

    Raises:
        CheckpointError: no layout fits, or one does but for some names.
    """
    layout = best_layout(list(LAYOUTS.values()), tensors)
    if layout is None:
        raise CheckpointError(
            f"'{path}' holds no pi0 or pi0.5 ('{next(iter(tensors), '')}', ...): the layouts {', '.join(LAYOUTS)} are "
            "known."
        )
    return {mine: tensors[theirs] for mine, theirs in layout.from_theirs(tensors).items()}


@torch.no_grad()
def load_weights(policy: nn.Module, path: str | Path) -> None:
    """Copy published weights into a policy; what reinforcement learning adds keeps its values.

    Raises:
        CheckpointError: a weight is missing, unexpected or of another shape.
    """
    tensors = rename_weights(read_weights(path), path)
    targets = {name: p for name, p in policy.named_parameters() if not name.startswith(EXPLORATION)}
    targets = {name.replace(".base_layer.", "."): p for name, p in targets.items() if ".lora_" not in name}
    require_same(targets, tensors, path)
    for name, target in targets.items():
        target.copy_(tensors[name])


def require_same(targets: Mapping[str, Any], tensors: Mapping[str, Any], path: str | Path) -> None:
    """Raise a CheckpointError if names or shapes differ."""
    for what, names, others in (
        ("lacks", targets.keys() - tensors.keys(), tensors),
        ("has an unexpected", tensors.keys() - targets.keys(), targets),
    ):
        if names:
            raise CheckpointError(
                f"'{path}' {what} '{min(names)}' ({len(names)} such tensors): set variant to that of the weights, pi0 "
                f"or pi05. {did_you_mean(min(names), others)}".rstrip()
            )
    for name, target in targets.items():
        if target.shape != tensors[name].shape:
            raise CheckpointError(
                f"'{path}' holds '{name}' {list(tensors[name].shape)}, expected {list(target.shape)}: build the policy "
                "with size='full' and head.network.action_dim=32, as the weights were trained."
            )


def read_pickled(file: Path) -> dict[str, Tensor]:
    """Read RLinf's full_weights.pt, mapped into memory; nothing but tensors is accepted.

    Raises:
        CheckpointError: it holds something else, or can't be read.
    """
    try:
        found = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # noqa: BLE001 - a damaged archive, or one that would run code, raises many kinds
        reason = str(error).splitlines()[0]
        raise CheckpointError(f"'{file}' is no file of tensors alone ({reason}): nothing else is read.") from None
    if not isinstance(found, dict) or not all(isinstance(value, Tensor) for value in found.values()):
        raise CheckpointError(f"'{file}' holds more than tensors by name, expected RLinf's full_weights.pt.")
    return {str(name).removeprefix("module."): value for name, value in found.items()}
