"""`rrf doctor --model DIR`: what a folder of a vision-language-action model is, and what it lacks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from ..components.openpi_folder import PublishedModel, inspect_model, memory
from ..components.vla_export import FORMAT, exported_cfg, is_exported
from ..utils.console import say


def model_doctor(folder: str | Path) -> bool:
    """Print what is there; returns whether a policy can be built from it.

    Raises:
        CheckpointError: it is no model that is known.
    """
    if is_exported(folder) and FORMAT in (Path(folder) / "config.json").read_text(encoding="utf-8"):
        _table(_exported(folder))
        return True
    model = inspect_model(folder)
    _table(_published(model))
    return not model.missing and not model.unexpected


def _table(rows: Iterable[tuple[str, str]]) -> None:
    for name, text in rows:
        say(f"{name:14s} {text}")


def _exported(folder: str | Path) -> Iterator[tuple[str, str]]:
    cfg, spec = exported_cfg(folder)
    yield "model", f"exported policy: {type(cfg.backbone).__name__} with {type(cfg.head).__name__}"
    yield "cameras", ", ".join(spec.cameras)
    yield "state", f"{spec.state.dim} numbers, statistics {', '.join(spec.state.statistics) or 'none'}"
    yield "action", f"{spec.action.dim} numbers in chunks of {cfg.head.chunk_size}"
    yield "instructions", f"{len(spec.instructions)}"


def _published(model: PublishedModel) -> Iterator[tuple[str, str]]:
    yield "model", f"{model.variant}, layout '{model.layout}', {len(model.files)} file(s)"
    parts = ", ".join(f"{name} {count / 1e9:.3f}" for name, count in model.parameters.items())
    yield "parameters", f"{sum(model.parameters.values()) / 1e9:.3f} billion: {parts}"
    yield "missing", _first(model.missing)
    yield "unexpected", _first(model.unexpected)
    yield "actions", f"{model.action_dim} dimensions, chunks of {model.chunk_size}"
    yield "cameras", ", ".join(model.cameras) or "not named: give them in the order of training"
    for name in ("state", "action"):
        found = model.statistics.get(name, {})
        size = len(next(iter(found.values()))) if found else 0
        text = f"{', '.join(found)} of {size} dimensions" if found else "none: a base model, fine-tune it on data"
        yield f"{name} units", text
    yield "tokenizer", str(model.tokenizer or "none: backbone.tokenizer has to name PaliGemma's (gated) tokenizer.json")
    needs = ", ".join(f"{what} {size:.1f}" for what, size in memory(model).items())
    yield "memory", f"{needs} GB for weights, gradients and AdamW; computed, activations come on top"


def _first(names: list[str]) -> str:
    return f"{len(names)} ({names[0]}, ...)" if names else "none"
