"""Between policies of ours and the files that others publish of pi0 and pi0.5."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from ..utils.key_map import KeyMap
from ..utils.run_dir import replacing, write_text_atomically
from ..utils.safetensors_file import write_tensors
from .openpi_description import described_policy, published_statistics, write_lerobot_statistics
from .openpi_folder import inspect_model, published_policy
from .openpi_weights import EXPLORATION, LEROBOT
from .vla_export import export_vla, load_vla
from .vla_policy import VLAPolicy


def from_published(
    source: str | Path,
    target: str | Path,
    *,
    tokenizer: str = "",
    instructions: Iterable[str] = (),
    cameras: Iterable[str] = (),
    chunk_size: int | None = None,
    state_in_prompt: bool | None = None,
    relative_actions: Iterable[int] = (),
) -> Path:
    """Write what a published folder holds as `export_vla` writes policies; other arguments as of `published_policy`.

    Raises:
        CheckpointError: the weights are not those of a pi0 or pi0.5.
        UserError: the folder does not say enough.
    """
    model = inspect_model(source)
    cfg, spec = published_policy(
        model,
        tokenizer=tokenizer,
        instructions=tuple(instructions),
        cameras=tuple(cameras),
        chunk_size=chunk_size,
        state_in_prompt=state_in_prompt,
        relative_actions=tuple(relative_actions),
    )
    return export_vla(cfg.build(spec), target, merge_adapters=False)


def to_published(source: str | Path, target: str | Path, layout: KeyMap) -> Path:
    """Write an exported policy with names and statistics that others read; returns the file of the weights.

    Raises:
        CheckpointError: it is no exported policy, or one that the layout has no names for.
    """
    return write_published(load_vla(source), target, layout)


def write_published(policy: VLAPolicy, target: str | Path, layout: KeyMap) -> Path:
    """Write `model.safetensors`, `config.json` and the statistics where readers of the layout keep them."""
    target, tensors = Path(target), dict(policy.named_parameters())
    names = layout.to_theirs(name for name in tensors if not name.startswith(EXPLORATION))
    target.mkdir(parents=True, exist_ok=True)
    shapes = {theirs: (tensors[mine].dtype, tensors[mine].shape) for theirs, mine in names.items()}
    words, out = tensors["backbone.words.weight"], tensors["head.network.action_out_proj.weight"]
    zeros = torch.zeros((), dtype=words.dtype).expand(len(words), out.shape[1])  # a language-model head of the expert
    shapes |= dict.fromkeys(layout.zeros, (zeros.dtype, zeros.shape))
    with replacing(target / "model.safetensors") as file:
        write_tensors(file, shapes, lambda theirs: zeros if theirs in layout.zeros else tensors[names[theirs]])
    _write_json(target / "config.json", described_policy(policy, layout))
    if layout is LEROBOT:
        write_lerobot_statistics(policy, target)
    else:
        keys = {"state": "state", "actions": "action"}
        found = {theirs: published_statistics(policy, mine) for theirs, mine in keys.items()}
        _write_json(target / "assets" / "norm_stats.json", {"norm_stats": found})
    return target / "model.safetensors"


def _write_json(file: Path, content: dict[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    write_text_atomically(file, json.dumps(content, indent=2) + "\n")
