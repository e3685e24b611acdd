"""Loading of Qwen models: from a folder, the cache of the Hugging Face hub, or with random weights."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ...utils.errors import CheckpointError, UserError
from ...utils.hub_models import setup_arguments
from ...utils.optional import require_package
from ...utils.seeding import preserved_rng
from .byte_tokenizer import byte_tokenizer

UNPUBLISHED = ("tiny", "small")
"""Architectures that there are no weights for."""


def find_model(name: str, setup: str) -> Path:
    """The folder of a model that lies on this machine.

    Args:
        name: A folder, or an id of the hub.
        setup: Argument of `setup_models.sh` that downloads models of its family, for the error.

    Raises:
        UserError: it does not; nothing is downloaded here.
    """
    if Path(name).expanduser().is_dir():
        return Path(name).expanduser()
    hub = require_package("huggingface_hub", extra="vla", purpose="vision-language models")
    try:
        return Path(hub.snapshot_download(name, local_files_only=True))
    except (hub.errors.LocalEntryNotFoundError, hub.errors.HFValidationError, OSError):
        raise UserError(
            f"'{name}' is neither a folder nor in the cache of the Hugging Face hub: run "
            f"`scripts/models/setup_models.sh {setup_arguments(name, setup)}` where there is a network, or give "
            "model_name the folder of the weights; model_name='tiny' and random_weights=true need none."
        ) from None


def load_tokenizer(folder: Path) -> Any:
    """The `tokenizers.Tokenizer` of a model's folder.

    Raises:
        UserError: there is none, as after a download that needed a token.
    """
    file = folder / "tokenizer.json"
    if not file.is_file():
        raise UserError(
            f"'{folder}' has no tokenizer.json: download that file of the model too (for a gated model log in with "
            "`hf auth login` before)."
        )
    tokenizers = require_package("tokenizers", extra="vla", purpose="vision-language models")
    return tokenizers.Tokenizer.from_file(str(file))


def build_architecture(model_class: Any, config: Any, dtype: torch.dtype, seed: int) -> nn.Module:
    """The model with random weights, which depend on the seed alone."""
    with preserved_rng():
        torch.manual_seed(seed)
        return model_class._from_config(config, dtype=dtype, attn_implementation="sdpa")


def load_weights(model_class: Any, folder: Path, config: Any, dtype: torch.dtype) -> nn.Module:
    """The model with the weights of a folder, without its language-model head.

    Raises:
        CheckpointError: a weight is missing or unexpected, or the files can't be read.
    """
    try:
        model, info = model_class.from_pretrained(
            folder,
            config=config,
            dtype=dtype,
            attn_implementation="sdpa",
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError) as error:  # what transformers raises for absent and damaged files
        raise CheckpointError(
            f"The weights in '{folder}' can't be read ({str(error).splitlines()[0]}): download them again with "
            "scripts/models/setup_models.sh, which resumes."
        ) from None
    last = config.get_text_config().num_hidden_layers
    problems = {
        "missing": sorted(info["missing_keys"]),
        "unexpected": sorted(key for key in info["unexpected_keys"] if not _is_cut(key, last)),
        "of another shape": sorted(str(key) for key in info["mismatched_keys"]),
    }
    for what, keys in problems.items():
        if keys:
            raise CheckpointError(
                f"'{keys[0]}' is {what} in '{folder}' ({len(keys)} such weights): it is another model than its "
                "config.json says, or a part of its files is absent."
            )
    return model


def require_type(config_class: Any, wanted: str, folder: Path) -> None:
    """Raise a UserError if a folder holds no model, or one of another family."""
    if not (folder / "config.json").is_file():
        raise UserError(f"'{folder}' has no config.json: name the folder that holds a model.")
    try:
        got = config_class.get_config_dict(folder)[0].get("model_type")
    except (OSError, ValueError) as error:  # what transformers raises for damaged files
        raise UserError(f"'{folder / 'config.json'}' can't be read ({error}): download the model again.") from None
    if got != wanted:
        raise UserError(
            f"'{folder}' holds a model of type '{got}', expected '{wanted}': take the backbone of that type."
        )


def tokenizer_of(folder: Path | None) -> Any:
    """That of the folder, or bytes where there is none."""
    return byte_tokenizer() if folder is None else load_tokenizer(folder)


def _is_cut(key: str, num_layers: int) -> bool:
    """Return True for weights of the language-model head, or of layers beyond the kept ones."""
    layer = re.search(r"(?<!visual\.)\blayers\.(\d+)\.", key)
    return key.startswith("lm_head.") or (layer is not None and int(layer[1]) >= num_layers)
