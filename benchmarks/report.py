"""Metadata that every benchmark writes beside its numbers: the command, the versions and the machine."""

from __future__ import annotations

import json
import os
import platform
import shlex
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

PACKAGES = (
    "torch",
    "tensordict",
    "gymnasium",
    "mujoco",
    "mjlab",
    "mujoco-warp",
    "warp-lang",
    "rsl-rl-lib",
    "jax",
    "stable-baselines3",
    "transformers",
    "peft",
)


def environment_report() -> dict[str, Any]:
    """Return versions and hardware as plain data."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    cuda = torch.cuda.is_available()
    return {
        "command": command_without("--output"),
        "versions": versions | {"python": platform.python_version()},
        "hardware": {
            "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if cuda else [],
            "cpu_cores": os.cpu_count(),
            "torch_threads": torch.get_num_threads(),
        },
    }


def write_json(path: str | Path, data: dict[str, Any]) -> None:
    """Write a result file, creating its folder."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data, indent=2) + "\n")


def command_without(*places: str) -> str:
    """The command without options that name a place of this machine, and without the folder of the script."""
    words = [word for word in sys.argv[1:] if word.partition("=")[0] not in places or "=" not in word]
    for place in places:
        if place in words:
            at = words.index(place)
            del words[at : at + 2]
    return f"python benchmarks/{os.path.basename(sys.argv[0])} {shlex.join(words)}".rstrip()
