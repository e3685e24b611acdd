"""Exported VLA policies: a folder that needs neither the run nor the base model it came from.

model.safetensors      all weights, and the statistics of states and actions
config.json            configuration and spec of the policy, as plain data
base_model/            configuration and tokenizer of the vision-language model, in transformers' format
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..networks.vlm.lora import merge_lora
from ..utils.errors import CheckpointError
from ..utils.module_state import copy_into, export_safetensors
from ..utils.safetensors_file import read_tensors
from .vla_policy import VLAPolicy, VLAPolicyCfg
from .vla_spec import VLASpec

FORMAT = "RoboRenForce VLA policy"
VERSION = 1


def export_vla(
    policy: VLAPolicy, folder: str | Path, *, merge_adapters: bool = True, dtype: torch.dtype | None = None
) -> Path:
    """Write a policy for others.

    Args:
        policy: It stays as it is.
        folder: Made if it does not exist.
        merge_adapters: Add LoRA's weights to those that they adapt, so that nobody needs peft.
        dtype: Of the weights; None: as they are.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    head = policy.cfg.head
    if merge_adapters:
        policy = copy.deepcopy(policy).cpu()
        merge_lora(policy)
        head = head.without_adapters()
    # Of the base class, whose plain data names the classes of everything below it.
    fields = {name: getattr(policy.cfg, name) for name in ("class_type", "preprocessing", "action_tokens", "cameras")}
    cfg = VLAPolicyCfg(backbone=policy.backbone.export(folder), head=head, **fields)
    config = {"format": FORMAT, "version": VERSION, "policy": cfg.to_dict(), "spec": policy.spec.to_dict()}
    export_safetensors(policy, folder, config, dtype=dtype)
    return folder


def load_vla(folder: str | Path, *, trust: bool = False) -> VLAPolicy:
    """Build an exported policy on the CPU.

    Args:
        folder: What `export_vla` wrote.
        trust: Whether its configuration may name classes of any package.

    Raises:
        CheckpointError: it is something else, or damaged.
    """
    cfg, spec = exported_cfg(folder, trust=trust)
    policy: VLAPolicy = cfg.build(spec)
    copy_into(policy.state_dict(), exported_weights(folder), "model")
    return policy


def is_exported(folder: str | Path) -> bool:
    """Return True if a folder looks like what `export_vla` wrote."""
    return all((Path(folder) / name).is_file() for name in ("config.json", "model.safetensors"))


def exported_cfg(folder: str | Path, *, trust: bool = False) -> tuple[VLAPolicyCfg, VLASpec]:
    """Return configuration and spec of an exported policy; arguments and errors as of `load_vla`."""
    folder = Path(folder)
    config = _read_config(folder / "config.json")
    cfg = VLAPolicyCfg.from_dict(config["policy"], trust=trust)
    cfg.backbone = cfg.backbone.located(folder)
    return cfg, VLASpec.from_dict(config["spec"])


def exported_weights(folder: str | Path) -> dict[str, Tensor]:
    """Return the weights of an exported policy on the CPU; errors as of `load_vla`."""
    return read_tensors(Path(folder) / "model.safetensors", fix="export it again")


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"'{path}' can't be read ({error}): name a folder that export_vla wrote.") from None
    if not isinstance(config, dict) or config.get("format") != FORMAT or config.get("version") != VERSION:
        raise CheckpointError(
            f"'{path}' describes no {FORMAT} of version {VERSION}: name a folder that export_vla wrote."
        )
    if not {"policy", "spec"} <= config.keys():
        raise CheckpointError(f"'{path}' has no 'policy' or no 'spec': export the policy again.")
    return config
