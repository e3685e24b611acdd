"""Exported VLA policies as runs that can be played."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from ..components.vla_export import exported_cfg, exported_weights
from ..data import LeRobotDatasetCfg
from ..utils.errors import UserError
from ..utils.registry import Task, load_task
from ..utils.sharded_state import LEFT_OUT
from .saved_run import SavedRun
from .vla_pretrain_runner import VLAPretrainRunnerCfg


def exported_run(folder: str | Path, task_id: str | None, *, trust: bool = False) -> tuple[SavedRun, Task]:
    """Return what stands for the checkpoint of an exported policy, and the task that it is played in.

    Args:
        folder: What `export_vla` wrote.
        task_id: Where it is played; the folder does not say.
        trust: Whether its configuration may name classes of any package.

    Raises:
        UserError: no task is named.
        CheckpointError: the folder is damaged.
    """
    if task_id is None:
        raise UserError(f"'{folder}' is an exported policy, which names no task: name one to play it in with --task.")
    policy, spec = exported_cfg(folder, trust=trust)
    task = load_task(task_id)
    runner_cfg = VLAPretrainRunnerCfg(
        policy=policy,
        dataset=LeRobotDatasetCfg(data_root=str(folder)),  # never opened: the policy is only played
        seed=task.runner_cfg.seed,
    )
    weights = {"tensors": exported_weights(folder), LEFT_OUT: []}
    learner: dict[str, Any] = {"spec": spec.to_dict(), "policy": weights, "frozen": {}, "optimizer": {}}
    data = {"task": task.id, "spec": None, "algorithm": learner}
    played = replace(task, runner_cfg=runner_cfg)
    played.apply_overrides(["algorithm=RoboRenForce.algorithms.vla_training:VLAPretrainAlgorithmCfg"])
    return SavedRun(Path(folder) / "model.safetensors", data), played
