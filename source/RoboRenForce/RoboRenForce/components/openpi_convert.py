"""Between policies of ours and the files that others publish of pi0 and pi0.5."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from ..utils.key_map import KeyMap
from ..utils.run_dir import replacing, write_text_atomically
from ..utils.safetensors_file import write_tensors
from .openpi_folder import inspect_model, published_policy
from .openpi_weights import EXPLORATION
from .vla_export import export_vla, load_vla
from .vla_policy import VLAPolicy


def from_published(
    source: str | Path,
    target: str | Path,
    *,
    tokenizer: str = "",
    instructions: Iterable[str] = (),
    cameras: Iterable[str] = (),
) -> Path:
    """Write what a published folder holds as `export_vla` writes policies; other arguments as of `published_policy`.

    Raises:
        CheckpointError: the weights are not those of a pi0 or pi0.5.
        UserError: the folder does not say enough.
    """
    model = inspect_model(source)
    cfg, spec = published_policy(model, tokenizer=tokenizer, instructions=tuple(instructions), cameras=tuple(cameras))
    return export_vla(cfg.build(spec), target, merge_adapters=False)


def to_published(source: str | Path, target: str | Path, layout: KeyMap) -> Path:
    """Write an exported policy with names and statistics that others read; returns the file of the weights.

    Raises:
        CheckpointError: it is no exported policy, or one that the layout has no names for.
    """
    return write_published(load_vla(source), target, layout)


def write_published(policy: VLAPolicy, target: str | Path, layout: KeyMap) -> Path:
    """Write `model.safetensors` and, where openpi keeps them, `assets/norm_stats.json`."""
    target, tensors = Path(target), dict(policy.named_parameters())
    names = layout.to_theirs(name for name in tensors if not name.startswith(EXPLORATION))
    (target / "assets").mkdir(parents=True, exist_ok=True)
    shapes = {theirs: (tensors[mine].dtype, tensors[mine].shape) for theirs, mine in names.items()}
    with replacing(target / "model.safetensors") as file:
        write_tensors(file, shapes, lambda theirs: tensors[names[theirs]])
    statistics = {"state": dict(policy.spec.state.statistics), "actions": dict(policy.spec.action.statistics)}
    write_text_atomically(
        target / "assets" / "norm_stats.json", json.dumps({"norm_stats": statistics}, indent=2) + "\n"
    )
    return target / "model.safetensors"
