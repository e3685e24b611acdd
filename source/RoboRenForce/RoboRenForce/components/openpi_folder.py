"""Folders of pi0 and pi0.5 as they are published: what they hold, without reading the weights."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from ..networks.action_expert import Variant
from ..networks.vlm import LoRACfg
from ..networks.vlm.paligemma_prompt import WORDS
from ..utils.errors import CheckpointError, UserError
from ..utils.key_map import best_layout
from ..utils.safetensors_file import read_shapes, read_tensors
from .openpi_config import Method, PublishedConfig, read_object
from .openpi_policy import OpenPIPolicyCfg, expert_head, paligemma
from .openpi_weights import DOWNLOAD, LAYOUTS, LEROBOT, read_pickled, weight_files
from .vla_normalizer import VectorNormalizerCfg
from .vla_preprocessing import VLAPreprocessingCfg
from .vla_spec import STATISTICS, VectorSpec, VLASpec

Shape = tuple[int, ...]
Statistics = dict[str, dict[str, tuple[float, ...]]]
"""`state` and `action` -> name of a statistic -> a number per dimension."""
_GEMMAS = ("backbone.language.", "head.network.gemma.")
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
    num_steps: int = 10
    """Of denoising."""
    methods: dict[str, Method] = field(default_factory=dict)
    """How `state` and `action` are normalized."""
    state_in_prompt: bool | None = None
    """None: the folder does not say, as of a pi0, which has no such prompt."""
    prompt_state_dim: int | None = None
    """Numbers that the state is padded to in the prompt."""
    is_relative: bool = False
    """Whether actions are relative to the state, in dimensions that the folder does not number."""
    parameters: dict[str, int] = field(default_factory=dict)
    """Number by part: vision, language, expert."""

    @property
    def action_dim(self) -> int:
        """Dimensions of actions in the weights."""
        return self.shapes.get("head.network.action_out_proj.bias", (0,))[0]

    @property
    def without_units(self) -> list[str]:
        """Those of `state` and `action` of which there are no statistics; a base model has none."""
        return [name for name in ("state", "action") if not self.statistics.get(name)]

    def units(self, name: str) -> int:
        """Dimensions of the statistics of `state` or `action`."""
        return len(next(iter(self.statistics.get(name, {}).values()), ()))


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
    config = PublishedConfig(folder / "config.json")
    return PublishedModel(
        files=files,
        layout=layout.name,
        variant=variant,
        shapes=shapes,
        missing=sorted(expected.keys() - shapes.keys()),
        unexpected=sorted(name for name, shape in shapes.items() if expected.get(name) != shape),
        statistics=_statistics(folder),
        tokenizer=next((file for file in (folder / "tokenizer.json",) if file.is_file()), None),
        cameras=config.cameras(),
        chunk_size=config.count("chunk_size", "action_horizon", default=50),  # LeRobot's name, and openpi's
        num_steps=config.count("num_inference_steps", default=10),
        methods=config.methods("quantile" if variant == "pi05" else "mean_std"),
        state_in_prompt=config.flag("discrete_state_input", default=True if layout is LEROBOT else None)
        if variant == "pi05"
        else None,
        prompt_state_dim=config.count("max_state_dim", default=32) if layout is LEROBOT and variant == "pi05" else None,
        is_relative=bool(config.flag("use_relative_actions", default=False)),
        parameters=_count(shapes),
    )


def published_policy(
    model: PublishedModel,
    *,
    tokenizer: str,
    instructions: tuple[str, ...],
    cameras: tuple[str, ...] = (),
    chunk_size: int | None = None,
    state_in_prompt: bool | None = None,
    relative_actions: tuple[int, ...] = (),
) -> tuple[OpenPIPolicyCfg, VLASpec]:
    """Return configuration and spec of the policy that a folder holds.

    Args:
        model: What the folder holds.
        tokenizer: Folder of PaliGemma's tokenizer; empty: that of the model's folder.
        instructions: Texts that the policy is told.
        cameras: In the order of training; empty: those that the folder names.
        chunk_size: Actions of a chunk; None: what the folder says.
        state_in_prompt: Whether the prompt of a pi0.5 holds the state; None: what the folder says, or True.
        relative_actions: Dimensions whose action was learned as the difference to the state's same dimension.

    Raises:
        UserError: the folder does not say what states, actions or cameras are.
    """
    folder = model.files[0].parent
    lacking = model.without_units
    if lacking:
        raise UserError(
            f"'{folder}' holds no statistics of {' and '.join(lacking)}, so that nobody knows the units "
            "of the policy: a base model has none; fine-tune it (policy.weights) on data, which has."
        )
    cameras = cameras or model.cameras
    if not cameras:
        raise UserError("The folder does not name its cameras: give --cameras, in the order of training.")
    if model.is_relative and not relative_actions:
        raise UserError(
            f"'{folder / 'config.json'}' has use_relative_actions = true, expected to be told of which dimensions: "
            "give --relative_actions, as in 0 1 2 3 4 5."
        )
    if state_in_prompt is not None and model.variant == "pi0":
        raise UserError("A pi0 reads its state as a token, not in the prompt: leave --state_in_prompt out.")
    found = str(model.tokenizer.parent) if model.tokenizer is not None else ""
    backbone = paligemma(model.variant).replace(tokenizer=tokenizer or found, prompt_state_dim=model.prompt_state_dim)
    if model.variant == "pi05":
        said = model.state_in_prompt if state_in_prompt is None else state_in_prompt
        backbone.state_in_prompt = said is not False
    relative = tuple(sorted(set(relative_actions)))
    cfg = OpenPIPolicyCfg(
        variant=model.variant,
        weights=str(model.files[0]) if len(model.files) == 1 else str(folder),
        backbone=backbone,
        head=expert_head(model.variant).replace(chunk_size=chunk_size or model.chunk_size, num_steps=model.num_steps),
        preprocessing=VLAPreprocessingCfg(
            resize="pad",
            state=VectorNormalizerCfg(method=model.methods["state"], as_published=True),
            action=VectorNormalizerCfg(method=model.methods["action"], as_published=True),
            relative_actions=[(dimension, dimension) for dimension in relative],
        ),
    )
    state, action = (VectorSpec(model.units(name), (), model.statistics[name]) for name in ("state", "action"))
    spec = VLASpec(cameras=cameras, instructions=instructions, state=state, action=replace(action, relative=relative))
    return cfg, spec


def memory(model: PublishedModel) -> dict[str, float]:
    """GB of weights, gradients and AdamW's state, by what is done; activations come on top.

    Frozen weights of PaliGemma are bfloat16, those of the expert float32; trained ones take 16 bytes: float32, their
    gradients and two moments.
    """
    expert, adapters = model.parameters["expert"], LoRACfg()
    others = sum(model.parameters.values()) - expert
    adapted, taught = 0, 0
    for name, shape in model.shapes.items():
        if name.startswith(_GEMMAS):
            adapted += sum(shape) if re.fullmatch(f"{adapters.layers}.weight", name) else 0
        elif name.startswith("head."):
            taught += torch.Size(shape).numel()  # what of the expert stands around its Gemma is trained in any case
    bytes_of = {
        "acting": 2 * others + 4 * expert,
        "expert only": 2 * others + 16 * expert,
        f"LoRA of rank {adapters.rank}": 2 * others + 4 * expert + 12 * taught + 16 * adapters.rank * adapted,
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
            tensors = read_tensors(file, fix=DOWNLOAD)
            return _named(tensors, {"state": "observation.state.", "action": "action."}, file)
    for file in sorted(folder.rglob("norm_stats.json")):
        found = read_object(file).get("norm_stats")
        if not isinstance(found, dict) or not all(isinstance(part, dict) for part in found.values()):
            raise _no_statistics(file, "norm_stats")
        flat = {f"{key}.{name}": values for key, part in found.items() for name, values in part.items()}
        return _named(flat, {"state": "state.", "action": "actions."}, file)
    return {}


def _named(flat: Mapping[str, Any], keys: Mapping[str, str], file: Path) -> Statistics:
    found: Statistics = {}
    for what, start in keys.items():
        found[what] = {}
        for name in STATISTICS:
            if (value := flat.get(start + name)) is None:
                continue
            try:
                numbers = tuple(torch.as_tensor(value, dtype=torch.float64).flatten().tolist())
            except (TypeError, ValueError, RuntimeError):
                raise _no_statistics(file, start + name) from None
            sizes = {len(numbers), *map(len, found[what].values())}
            if not numbers or len(sizes) > 1 or not all(map(math.isfinite, numbers)):
                raise _no_statistics(file, start + name)
            found[what][name] = numbers
    return found


def _no_statistics(file: Path, name: str) -> CheckpointError:
    return CheckpointError(
        f"'{file}' holds no statistics under '{name}', expected a finite number per dimension, as many for each: "
        "download the model again."
    )
