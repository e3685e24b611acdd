"""Fetch weights of published models from the Hugging Face hub: space is checked first, a broken download resumes."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from .errors import UserError
from .optional import require_package

PATTERNS = ("*.safetensors", "*.json", "*.txt", "*.model")
"""Files that a model needs; no code of others, no other formats of the same weights."""

MODELS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "qwen2vl": {"2B": ("Qwen/Qwen2-VL-2B-Instruct",), "7B": ("Qwen/Qwen2-VL-7B-Instruct",)},
    "qwen3vl": {
        "2B": ("Qwen/Qwen3-VL-2B-Instruct",),
        "4B": ("Qwen/Qwen3-VL-4B-Instruct",),
        "8B": ("Qwen/Qwen3-VL-8B-Instruct",),
    },
    "openpi": {
        "pi05": ("lerobot/pi05_base", "google/paligemma-3b-pt-224:tokenizer*"),
        "pi0": ("lerobot/pi0_base", "google/paligemma-3b-pt-224:tokenizer*"),
    },
    "groot": {"3B": ("nvidia/GR00T-N1.7-3B", "nvidia/Cosmos-Reason2-2B")},
}
"""Name -> size -> repositories, with a pattern where only some files are needed; the first size is the usual one."""
ALIASES = {"gr00t": "groot"}


def repositories(name: str, size: str | None = None) -> tuple[str, ...]:
    """Return the files of a model of `MODELS`.

    Raises:
        UserError: there is no such model or size.
    """
    sizes = MODELS.get(ALIASES.get(name, name))
    if sizes is None:
        raise UserError(f"There is no model '{name}': name one of {', '.join([*MODELS, *ALIASES])}.")
    if size is not None and size not in sizes:
        raise UserError(f"'{name}' has no size '{size}': choose from {', '.join(sizes)}.")
    return sizes[size or next(iter(sizes))]


def setup_arguments(repository: str, name: str) -> str:
    """Return the arguments with which `setup_models.sh` downloads a repository.

    Args:
        repository: `owner/name`.
        name: Model of `MODELS` that is named, in its usual size, for a repository that is in none.
    """
    for model, sizes in MODELS.items():
        for size, there in sizes.items():
            if repository in there:
                return f"{model} --size {size}"
    return name


def download_model(repository: str, folder: str | Path | None = None) -> Path:
    """Download a model; files that are there already are not fetched again.

    Args:
        repository: `owner/name`, or `owner/name:pattern` for some of its files.
        folder: Where its files go; None: the cache of the hub, where `model_name=owner/name` finds them.

    Returns:
        The folder with the files.

    Raises:
        UserError: no network, no such model, no permission, or too little space.
    """
    repository, _, pattern = repository.partition(":")
    patterns = [pattern] if pattern else list(PATTERNS)
    hub = require_package("huggingface_hub", extra="vla", purpose="Downloads of models")
    errors = require_package("huggingface_hub.errors", extra="vla")
    target = {"local_dir": str(folder)} if folder is not None else {}
    try:
        files = hub.HfApi().model_info(repository, files_metadata=True).siblings
        place = Path(folder if folder is not None else hub.constants.HF_HUB_CACHE)
        _require_space(repository, _missing_bytes(hub, repository, files, patterns, folder), place)
        return Path(hub.snapshot_download(repository, allow_patterns=patterns, **target))
    except UserError:
        raise
    except errors.GatedRepoError:
        raise UserError(
            f"'{repository}' is gated: accept its licence on https://huggingface.co/{repository}, run `hf auth login`, "
            "and start again."
        ) from None
    except errors.RepositoryNotFoundError:
        raise UserError(f"The hub has no model '{repository}', or it needs a login: run `hf auth login`.") from None
    except Exception as error:  # noqa: BLE001 - hub, HTTP and socket errors have no common base; what came is kept
        reason = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:160]}"
        raise UserError(
            f"'{repository}' can't be downloaded ({reason}): check the network and start again, which goes on where it "
            "stopped; or copy the folder from a machine that has it and give it as model_name."
        ) from None


def _missing_bytes(
    hub: Any, repository: str, files: Iterable[Any], patterns: Iterable[str], folder: str | Path | None
) -> int:
    """Bytes of the wanted files that are not on the disk yet."""
    total = 0
    for file in files:
        name = file.rfilename
        if not any(fnmatch(name, pattern) for pattern in patterns):
            continue
        if folder is not None:
            there = (Path(folder) / name).is_file()
        else:
            there = isinstance(hub.try_to_load_from_cache(repository, name), str)
        total += 0 if there else file.size or 0
    return total


def _require_space(repository: str, needed: int, place: Path) -> None:
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if needed > free:
        raise UserError(
            f"'{repository}' takes {needed / 1e9:.1f} GB more and '{place}' has {free / 1e9:.1f} GB free: free some, "
            "give another folder, or set HF_HOME to another disk."
        )
