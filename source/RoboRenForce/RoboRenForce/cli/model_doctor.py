"""`rrf doctor --model DIR`: what a folder of a vision-language-action model is, and what it lacks."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from ..components.openpi_config import read_object
from ..components.openpi_folder import PublishedModel, inspect_model, memory
from ..components.vla_export import FORMAT, exported_cfg, is_exported
from ..utils.console import say
from ..utils.errors import UserError
from ..utils.run_dir import RunDir
from ..utils.safetensors_file import read_shapes


def model_doctor(folder: str | Path) -> bool:
    """Print what is there; returns whether a policy can be built from it.

    Raises:
        CheckpointError: it is no model that is known.
        UserError: it is a run directory.
    """
    folder = Path(folder).expanduser()
    run = RunDir(folder)
    if run.params("run").is_file():
        there = is_exported(run.exported)
        fix = f"name '{run.exported}'" if there else f"export its policy by `rrf export --target {folder}`"
        raise UserError(f"'{folder}' is the directory of a run, expected the folder of a model: {fix}.")
    if is_exported(folder) and read_object(folder / "config.json").get("format") == FORMAT:
        _table(_exported(folder))
        return True
    model = inspect_model(folder)
    _table(_published(model))
    return not (model.missing or model.unexpected or model.without_units)


def _table(rows: Iterable[tuple[str, str]]) -> None:
    for name, text in rows:
        say(f"{name:14s} {text}")


def _exported(folder: Path) -> Iterator[tuple[str, str]]:
    cfg, spec = exported_cfg(folder)
    file = folder / "model.safetensors"
    count: dict[str, int] = {}
    for name, shape in read_shapes(file, fix="export it again").items():
        part = name.partition(".")[0]
        count[part] = count.get(part, 0) + math.prod(shape)
    yield "model", f"exported policy: {type(cfg.backbone).__name__} with {type(cfg.head).__name__}"
    yield "parameters", _counted(count)
    yield "cameras", ", ".join(spec.cameras)
    yield "state", f"{spec.state.dim} numbers, statistics {', '.join(spec.state.statistics) or 'none'}"
    yield "action", f"{spec.action.dim} numbers in chunks of {cfg.head.chunk_size}"
    yield "instructions", f"{len(spec.instructions)}"
    named = getattr(cfg.backbone, "tokenizer", "")
    yield "tokenizer", f"{named}" if named else "none of its own: the backbone's, or not needed"
    yield "memory", f"acting {file.stat().st_size / 1e9:.3g} GB for weights as the file holds them; activations on top"


def _published(model: PublishedModel) -> Iterator[tuple[str, str]]:
    yield "model", f"{model.variant}, layout '{model.layout}', {len(model.files)} file(s)"
    yield "parameters", _counted(model.parameters)
    yield "missing", _first(model.missing)
    yield "unexpected", _first(model.unexpected)
    yield (
        "actions",
        f"{model.action_dim} dimensions, chunks of {model.chunk_size}, {model.num_steps} steps of denoising",
    )
    if model.variant == "pi05":
        known = {True: "with the state", False: "without the state"}
        unsaid = "with the state, if nobody says otherwise: the folder does not (convert.py --no-state_in_prompt)"
        yield "prompt", unsaid if model.state_in_prompt is None else known[model.state_in_prompt]
    yield "cameras", ", ".join(model.cameras) or "not named: give them in the order of training"
    for name in ("state", "action"):
        found = model.statistics.get(name, {})
        text = f"{', '.join(found)} of {model.units(name)} dimensions, read by {model.methods[name]}"
        text = text if found else "none: a base model, fine-tune it on data"
        yield f"{name} units", text
    yield "tokenizer", str(model.tokenizer or "none: backbone.tokenizer has to name PaliGemma's (gated) tokenizer.json")
    needs = ", ".join(f"{what} {size:.1f}" for what, size in memory(model).items())
    yield "memory", f"{needs} GB for weights, gradients and AdamW; computed, activations come on top"


def _counted(parts: Mapping[str, int]) -> str:
    shown = ", ".join(f"{name} {count / 1e9:.3g}" for name, count in parts.items())
    return f"{sum(parts.values()) / 1e9:.4g} billion: {shown}"


def _first(names: list[str]) -> str:
    return f"{len(names)} ({names[0]}, ...)" if names else "none"
