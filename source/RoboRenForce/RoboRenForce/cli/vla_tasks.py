"""Learning a VLA policy from a data set alone: two task ids without an environment, and the flags of their scripts.

`RoboRenForce-VLA-Pretrain` and `RoboRenForce-VLA-SFT` are found by `load_task`; tasks with an environment, which add
evaluations, take the same flags.
"""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ..algorithms.vla_training import SFTAlgorithmCfg, VLAPretrainAlgorithmCfg
from ..components.action_heads import FlowHeadCfg
from ..components.openpi_policy import OpenPIPolicyCfg, Size
from ..components.vla_policy import MLPBaselinePolicyCfg, Qwen2VLPolicyCfg, Qwen3VLPolicyCfg, VLAPolicyCfg
from ..envs.env_cfg import NoEnvCfg
from ..networks.action_expert import Variant
from ..networks.vlm import Qwen3VLCfg
from ..runners.arguments import Parser, train_parser
from ..runners.training_run import TrainingRun, prepare_training
from ..runners.vla_pretrain_runner import VLAPretrainRunner, VLAPretrainRunnerCfg
from ..runners.vla_sft_runner import VLASFTRunner, VLASFTRunnerCfg
from ..utils.errors import ConfigError, Problem, UserError
from ..utils.registry import Task, add_task_finder
from .saved_policy import policy_of

PRETRAIN, SFT = "RoboRenForce-VLA-Pretrain", "RoboRenForce-VLA-SFT"
MLP_BASELINE, QWEN3_VL_SMALL = "mlp_baseline", "qwen3_vl_small"
"""Models without published weights, which learn from scratch."""
OPENPI: Mapping[str, tuple[Variant, Size]] = {
    "pi0_tiny": ("pi0", "tiny"),
    "pi05_tiny": ("pi05", "tiny"),
    "pi0": ("pi0", "full"),
    "pi05": ("pi05", "full"),
}
"""Models of the pi family; `policy.weights` names published weights, else they are random."""
_OVERRIDES = {
    "dataset_path": "dataset.data_root",
    "epochs": "epochs",
    "batch_size": "loader.batch_size",
    "num_workers": "loader.num_workers",
    "lr": "algorithm.optimizer.learning_rate",
    "warmup_steps": "algorithm.optimizer.schedule.warmup_steps",
    "checkpoint": "algorithm.init_from",
    "kl_coef": "algorithm.kl_coef",
}
"""Flag -> what it is short for."""


def find_task(task_id: str) -> Task | None:
    """Make one of the two tasks, also by the name of its runner, as runs are called that Python built; else None."""
    task_id = {VLAPretrainRunner.__name__: PRETRAIN, VLASFTRunner.__name__: SFT}.get(task_id, task_id)
    if task_id not in (PRETRAIN, SFT):
        return None
    policy = policy_named(MLP_BASELINE)
    if task_id == PRETRAIN:
        return Task(task_id, NoEnvCfg(), VLAPretrainRunnerCfg(policy=policy, algorithm=VLAPretrainAlgorithmCfg()))
    return Task(task_id, NoEnvCfg(), VLASFTRunnerCfg(policy=policy, algorithm=SFTAlgorithmCfg()))


add_task_finder(find_task)


def policy_named(model_name: str, like: VLAPolicyCfg | None = None) -> VLAPolicyCfg:
    """A policy around a model: `mlp_baseline`, `qwen3_vl_small`, an id like Qwen/Qwen3-VL-2B-Instruct, or a folder.

    Args:
        model_name: Which backbone; or a whole policy, `pi05`, for example.
        like: Whose head, preprocessing and cameras it gets; of the pi family, cameras alone.

    Raises:
        UserError: nothing here reads such a model.
    """
    kept: dict[str, Any] = {"head": FlowHeadCfg()}
    if like is not None:
        kept = {name: getattr(like, name) for name in ("head", "preprocessing", "cameras")}
    if model_name == MLP_BASELINE:
        return MLPBaselinePolicyCfg(**kept)
    if model_name == QWEN3_VL_SMALL:
        return Qwen3VLPolicyCfg(backbone=Qwen3VLCfg(model_name="small", finetune="full", image_size=[128, 128]), **kept)
    if model_name in OPENPI:
        variant, size = OPENPI[model_name]
        return OpenPIPolicyCfg(variant=variant, size=size, cameras=kept.get("cameras", []))
    kind, file = model_name.lower(), Path(model_name) / "config.json"
    if file.is_file():
        kind = _model_type(file)
    for part, policy_cfg in (("qwen2", Qwen2VLPolicyCfg), ("qwen3", Qwen3VLPolicyCfg)):
        if part in kind.replace("_", ""):
            policy: VLAPolicyCfg = policy_cfg(**kept)
            policy.backbone = policy.backbone.replace(model_name=model_name)
            return policy
    raise UserError(
        f"--model_name is '{model_name}', expected {MLP_BASELINE}, {QWEN3_VL_SMALL}, {', '.join(OPENPI)}, or the id or "
        "folder of a Qwen2-VL or Qwen3-VL model; other backbones are set by policy.backbone in a task of your own."
    )


def _model_type(file: Path) -> str:
    try:
        config: Any = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"'{file}' can't be read ({error}): download the model again.") from None
    if not isinstance(config, dict) or "model_type" not in config:
        raise UserError(f"'{file}' names no model_type: give --model_name the folder of a Qwen2-VL or Qwen3-VL model.")
    return str(config["model_type"])


def vla_parser(description: str | None, *, task: str) -> Parser:
    """The options of learning from demonstrations, beside those of all training."""
    parser = train_parser(description, task=task)
    parser.add_argument(
        "--model_name",
        help=f"{MLP_BASELINE}, {QWEN3_VL_SMALL}, {', '.join(OPENPI)}, or id or folder of a Qwen2-VL or Qwen3-VL model",
    )
    parser.add_argument("--dataset_path", help="folder of a LeRobot data set")
    parser.add_argument("--epochs", type=float, help="passes over the data")
    parser.add_argument("--batch_size", type=int, help="samples per process and update")
    parser.add_argument("--num_workers", type=int, help="processes that read and decode")
    parser.add_argument("--lr", type=float, help="learning rate")
    parser.add_argument("--warmup_steps", type=int, help="steps until the full learning rate")
    parser.add_argument("--freeze_backbone", action="store_true", help="learn the action head only")
    parser.add_argument("--checkpoint", metavar="PATH", help="run or checkpoint whose policy learning begins with")
    parser.add_argument("--kl_coef", type=float, help="weight of the distance to that policy")
    return parser


def prepare_vla_training(args: Namespace) -> TrainingRun:
    """Prepare what the flags of `vla_parser` say; `--checkpoint` alone brings the policy's configuration too."""
    try:
        return prepare_training(args, _begin_with_checkpoint)
    except ConfigError as error:
        problems = [_with_flag(problem) for problem in error.problems]
        if problems == [*error.problems]:
            raise
        raise ConfigError(problems, error.subject) from None


def _with_flag(problem: Problem) -> Problem:
    """Let what is missing name the flag that sets it."""
    flag = next((name for name, path in _OVERRIDES.items() if path == problem.path), None)
    return replace(problem, fix=f"give --{flag}") if problem.is_missing and flag else problem


def _begin_with_checkpoint(task: Task, args: Namespace) -> None:
    if args.checkpoint is not None and args.model_name is None and task.id in (PRETRAIN, SFT):
        task.runner_cfg.policy = policy_of(args.checkpoint)
    apply_vla_flags(task, args)


def apply_vla_flags(task: Task, args: Namespace) -> None:
    """Change a task by the flags of `vla_parser`; overrides of the command line come after them."""
    cfg = task.runner_cfg
    if args.model_name is not None:
        cfg.policy = policy_named(args.model_name, cfg.policy)
    flags = [f"{path}={vars(args)[name]}" for name, path in _OVERRIDES.items() if vars(args)[name] is not None]
    task.apply_overrides(flags)
    if args.freeze_backbone:
        cfg.algorithm.freeze_backbone = True
    if args.device is None and args.resume is None and torch.cuda.is_available():
        task.env_cfg.device = "cuda"
