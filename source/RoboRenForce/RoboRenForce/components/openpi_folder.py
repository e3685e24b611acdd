"""Folders of pi0 and pi0.5 as they are published: what they hold, without reading the weights."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ..networks.action_expert import Variant
from ..networks.vlm import LoRACfg
from ..networks.vlm.paligemma_prompt import WORDS
from ..utils.errors import CheckpointError, UserError
from ..utils.key_map import best_layout
from ..utils.safetensors_file import read_shapes, read_tensors
from .openpi_policy import OpenPIPolicyCfg, expert_head, paligemma
from .openpi_weights import DOWNLOAD, LAYOUTS, read_pickled, weight_files
from .vla_spec import STATISTICS, VectorSpec, VLASpec

Shape = tuple[int, ...]
Statistics = dict[str, dict[str, tuple[float, ...]]]
"""`state` and `action` -> name of a statistic -> a number per dimension."""
_STEP = re.compile(r"policy_preprocessor.*normalizer.*\.safetensors$")


@dataclass(frozen=True)
class PublishedModel:
    """What a folder holds."""

    files: list[Path]
    layout: str
    variant: Variant
    shapes: dict[str, Shape]
    """By our names."""
    missing: list[str]
    """Our names of weights that the published size has and the folder lacks."""
    unexpected: list[str]
    """Our names of weights that have another shape than published, or no place."""
    statistics: Statistics
    tokenizer: Path | None
    cameras: tuple[str, ...] = ()
    chunk_size: int = 50
    parameters: dict[str, int] = field(default_factory=dict)
    """Number by part: vision, language, expert."""

    @property
    def action_dim(self) -> int:
        """Dimensions of actions in the weights."""
        return self.shapes.get("head.network.action_out_proj.bias", (0,))[0]


def inspect_model(path: str | Path) -> PublishedModel:
    """Look into a folder, or a file, of any known layout.

    Raises:
        CheckpointError: there are no weights, or of another model.
    """
    files, folder = weight_files(path), Path(path).expanduser()
    folder = folder.parent if folder.is_file() else folder
    theirs = {name: shape for file in files for name, shape in _shapes(file).items()}
    layout = best_layout(list(LAYOUTS.values()), theirs)
    if layout is None:
        raise CheckpointError(f"'{path}' holds no pi0 or pi0.5: the layouts {', '.join(LAYOUTS)} are known.")
    shapes = {mine: theirs[name] for mine, name in layout.from_theirs(theirs).items()}
    variant: Variant = "pi05" if any(name.startswith("head.network.time_mlp_in.") for name in shapes) else "pi0"
    expected = _published_shapes(variant)
    config = _json(folder / "config.json")
    return PublishedModel(
        files=files,
        layout=layout.name,
        variant=variant,
        shapes=shapes,
        missing=sorted(expected.keys() - shapes.keys()),
        unexpected=sorted(name for name, shape in shapes.items() if expected.get(name) != shape),
        statistics=_statistics(folder),
        tokenizer=next((file for file in (folder / "tokenizer.json",) if file.is_file()), None),
        cameras=_cameras(config),
        chunk_size=int(config.get("chunk_size", 50)),
        parameters=_count(shapes),
    )


def published_policy(
    model: PublishedModel, *, tokenizer: str, instructions: tuple[str, ...], cameras: tuple[str, ...] = ()
) -> tuple[OpenPIPolicyCfg, VLASpec]:
    """Return configuration and spec of the policy that a folder holds.

    Args:
        model: What the folder holds.
        tokenizer: Folder of PaliGemma's tokenizer; empty: that of the model's folder.
        instructions: Texts that the policy is told.
        cameras: In the order of training; empty: those that the folder names.

    Raises:
        UserError: the folder does not say what states, actions or cameras are.
    """
    lacking = [name for name in ("state", "action") if not model.statistics.get(name)]
    if lacking:
        raise UserError(
            f"'{model.files[0].parent}' holds no statistics of {' and '.join(lacking)}, so that nobody knows the units "
            "of the policy: a base model has none; fine-tune it (policy.weights) on data, which has."
        )
    cameras = cameras or model.cameras
    if not cameras:
        raise UserError("The folder does not name its cameras: give --cameras, in the order of training.")
    found = str(model.tokenizer.parent) if model.tokenizer is not None else ""
    cfg = OpenPIPolicyCfg(
        variant=model.variant,
        weights=str(model.files[0]) if len(model.files) == 1 else str(model.files[0].parent),
        backbone=paligemma(model.variant).replace(tokenizer=tokenizer or found),
        head=expert_head(model.variant).replace(chunk_size=model.chunk_size),
    )
    vectors = {
        name: VectorSpec(len(next(iter(values.values()))), (), values) for name, values in model.statistics.items()
    }
    return cfg, VLASpec(cameras=cameras, instructions=instructions, **vectors)


def memory(model: PublishedModel) -> dict[str, float]:
    """GB of weights, gradients and AdamW's state, by what is done; activations come on top.

    Frozen weights are bfloat16; trained ones take 16 bytes: float32, their gradients and two moments.
    """
    expert, adapters = model.parameters["expert"], LoRACfg()
    others = sum(model.parameters.values()) - expert
    adapted = [sum(shape) for name, shape in model.shapes.items() if re.fullmatch(f"{adapters.layers}.weight", name)]
    bytes_of = {
        "acting": 2 * (others + expert),
        "expert only": 2 * others + 16 * expert,
        f"LoRA of rank {adapters.rank}": 2 * (others + expert) + 16 * adapters.rank * sum(adapted),
        "all": 16 * (others + expert),
    }
    return {what: number / 1e9 for what, number in bytes_of.items()}


def _published_shapes(variant: Variant) -> dict[str, Shape]:
    with torch.device("meta"):
        head = expert_head(variant)
        backbone = paligemma(variant).replace(tokenizer=WORDS).build(num_cameras=1, state_dim=1, taps=head.taps(32))
        parts = {"backbone": backbone, "head": head.build(width=backbone.width, state_dim=1, action_dim=32)}
    return {f"{name}.{path}": tuple(p.shape) for name, part in parts.items() for path, p in part.named_parameters()}


def _shapes(file: Path) -> dict[str, Shape]:
    if file.suffix == ".pt":
        return {name: tuple(tensor.shape) for name, tensor in read_pickled(file).items()}
    return read_shapes(file, fix=DOWNLOAD)


def _count(shapes: Mapping[str, Shape]) -> dict[str, int]:
    parts = {"vision": "backbone.vision.", "language": "backbone.", "expert": "head."}
    found = dict.fromkeys(parts, 0)
    for name, shape in shapes.items():
        found[next(part for part, start in parts.items() if name.startswith(start))] += torch.Size(shape).numel()
    return found


def _statistics(folder: Path) -> Statistics:
    """Those of LeRobot's normalizer, or of openpi's assets."""
    for file in sorted(folder.glob("*.safetensors")):
        if _STEP.match(file.name):
            return _named(read_tensors(file, fix=DOWNLOAD), {"state": "observation.state.", "action": "action."})
    for file in sorted(folder.rglob("norm_stats.json")):
        found = _json(file).get("norm_stats", {})
        flat = {f"{key}.{name}": values for key, part in found.items() for name, values in part.items()}
        return _named(flat, {"state": "state.", "action": "actions."})
    return {}


def _named(flat: Mapping[str, Any], keys: Mapping[str, str]) -> Statistics:
    found: Statistics = {}
    for what, start in keys.items():
        values = {name: flat.get(start + name) for name in STATISTICS}
        found[what] = {
            name: tuple(torch.as_tensor(value, dtype=torch.float64).flatten().tolist())
            for name, value in values.items()
            if value is not None
        }
    return found


def _cameras(config: Mapping[str, Any]) -> tuple[str, ...]:
    start = "observation.images."
    return tuple(name.removeprefix(start) for name in config.get("input_features", {}) if name.startswith(start))


def _json(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        found: Any = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"'{file}' can't be read ({error}): download the model again.") from None
    return found if isinstance(found, dict) else {}
