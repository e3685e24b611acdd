"""Initial weights of a policy, and fingerprints of frozen ones."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...components.action_heads import ActionHead
from ...components.action_tokens import ActionTokens
from ...components.vla_export import exported_cfg, exported_weights, is_exported
from ...components.vla_policy import VLAPolicy, VLAPolicyCfg
from ...components.vla_preprocessing import STATE
from ...components.vla_spec import VLASpec
from ...data.dataset import LeRobotDataset
from ...data.mixture import MixtureDataset
from ...utils.checkpoint import load_checkpoint
from ...utils.errors import CheckpointError, did_you_mean
from ...utils.run_dir import resolve_checkpoint
from .data_spec import ACTION
from .frozen_weights import fingerprints, require_same_frozen

logger = logging.getLogger(__name__)
_FAR = 10.0
"""Normalized size of new data that a policy does not know: most of its own was within 1, or a few deviations."""
_FITTED = 8192
"""Chunks per data set that a head is fitted to."""


def initial_policy(cfg: VLAPolicyCfg, spec: VLASpec, init_from: str) -> tuple[VLAPolicy, set[str]]:
    """Build a policy and give it the weights of another run; the averaged ones if it has any.

    Normalization goes on with the statistics that the weights were trained with.

    Args:
        cfg: The policy.
        spec: What the data holds.
        init_from: Checkpoint or run directory; empty: the weights that the backbone comes with.

    Returns:
        The policy, and the names of the tensors that were loaded.

    Raises:
        CheckpointError: it is of another kind of run, or of another policy.
        SpecMismatch: its policy can't learn from such data; the message is a table.
    """
    if not init_from:
        return cfg.build(spec), set()
    policy, loaded = policy_of_run(cfg, init_from)
    policy.require_data(spec)
    policy.add_instructions(spec.instructions)
    _warn_of_other_ranges(policy, spec, init_from)
    return policy, loaded


def _warn_of_other_ranges(policy: VLAPolicy, spec: VLASpec, init_from: str) -> None:
    """Name the dimensions in which new data leaves what the policy was trained with by far."""
    own, cfg = policy.preprocessing, policy.cfg.preprocessing
    parts = (("state", own.state, cfg.state, spec.state), ("action", own.action, cfg.action, spec.action))
    for what, normalizer, options, new in parts:
        reach = normalizer.reach(new)
        far = [] if options.method == "identity" else (reach > _FAR).nonzero().flatten().tolist()
        if far:
            logger.warning(
                "The %s of this data reaches %.0f times as far as that which '%s' learned from, in dimension %s, and "
                "its statistics stay in use: learn from both data sets (a mixture), or without init_from.",
                *(what, float(reach.max()), init_from, ", ".join(map(new.name_of, far))),
            )


def policy_of_run(cfg: VLAPolicyCfg, init_from: str, *, own_exploration: bool = False) -> tuple[VLAPolicy, set[str]]:
    """Build a policy for the data of another run, with its weights; the averaged ones if it has any.

    Args:
        cfg: The policy, configured as in that run.
        init_from: Checkpoint or run directory, or a folder that `export_vla` wrote.
        own_exploration: True to take what `ActionHead.exploration` names from `cfg`, not from the run.

    Returns:
        The policy, and the names of the tensors that were loaded.

    Raises:
        CheckpointError: it is of another kind of run, of another policy, or stands on another base model.
    """
    path, spec, tensors, left_out, frozen = _weights_of(init_from)
    policy: VLAPolicy = cfg.build(spec)
    own = tuple(f"head.{name}" for name in policy.head.exploration) if own_exploration else ()
    kept = {name for name in policy.state_dict() if name.startswith(own)} if own else set()
    tensors = {name: tensor for name, tensor in tensors.items() if not (own and name.startswith(own))}
    _copy_into(policy, tensors, kept.union(left_out), str(path))
    names = dict(policy.named_parameters())
    compared = [name for name in left_out if name not in kept]
    require_same_frozen(fingerprints({name: names[name] for name in compared}), frozen, compared)
    return policy, set(tensors)


def _weights_of(init_from: str) -> tuple[Path, VLASpec, dict[str, Any], list[str], dict[str, int]]:
    """Return place, spec, tensors, names of frozen tensors that are left out, and fingerprints of these."""
    if is_exported(init_from):
        return Path(init_from), exported_cfg(init_from)[1], exported_weights(init_from), [], {}
    path = resolve_checkpoint(init_from)
    saved = load_checkpoint(path, schema={"algorithm": dict})["algorithm"]
    if not {"spec", "policy"} <= saved.keys():
        raise CheckpointError(f"'{path}' holds no vision-language-action policy: init_from needs a run of one.")
    tensors = saved["policy"]["tensors"] | saved["optimizer"].get("ema", {})
    return path, VLASpec.from_dict(saved["spec"]), tensors, saved["policy"]["left_out"], saved.get("frozen", {})


def fit_head(policy: VLAPolicy, dataset: LeRobotDataset | MixtureDataset) -> None:
    """Learn from chunks of the data what no gradient teaches: vocabularies of tokens. The same in every process."""
    learners: list[ActionHead | ActionTokens] = []
    if policy.action_tokens is not None:
        learners.append(policy.action_tokens)
    if type(policy.head).fit is not ActionHead.fit:
        learners.append(policy.head)
    if not learners:
        return
    chunks = []
    for part in dataset.datasets:
        blind: LeRobotDataset = part.cfg.replace(cameras=[]).build()
        rows = np.linspace(0, len(blind) - 1, min(len(blind), _FITTED)).round().astype(np.int64)
        batch = blind.get_batch(rows)
        actions, width = batch[ACTION], policy.spec.action.dim
        state = batch.get(STATE, torch.zeros(len(rows), 0))
        if actions.shape[2] == width and state.shape[1] == policy.spec.state.dim:  # others are padded in a mixture
            whole = ~batch[f"{ACTION}_is_pad"].any(1)
            chunks.append(policy.preprocessing.normalize_actions(actions, state)[whole])
    for learner in learners:
        learner.fit(torch.cat(chunks))


@torch.no_grad()
def _copy_into(policy: VLAPolicy, tensors: dict[str, Any], left_out: set[str], path: str) -> None:
    mine = {name: value for name, value in policy.state_dict(keep_vars=True).items() if isinstance(value, Tensor)}
    for name, value in tensors.items():
        if name not in mine or mine[name].shape != value.shape:
            got = f"has the shape {list(mine[name].shape)}" if name in mine else "does not exist"
            raise CheckpointError(
                f"'{path}' holds '{name}' {list(value.shape)}, which {got} in this policy: configure the policy as in "
                f"the run it is from. {'' if name in mine else did_you_mean(name, mine)}".rstrip()
            )
        mine[name].copy_(value)
    fresh = tuple(f"head.{name}" for name in policy.head.untaught)
    absent = [n for n in mine if n not in tensors and n not in left_out and not n.startswith(fresh)]
    if absent:
        raise CheckpointError(
            f"'{path}' lacks '{absent[0]}' and {len(absent) - 1} more tensors of this policy: configure the policy as "
            "in the run it is from."
        )
