"""The policy that reinforcement learning begins with."""

from __future__ import annotations

from ...components.vla_policy import VLAPolicy, VLAPolicyCfg
from ...configclass import ConfigError
from ..algorithm import RunContext
from ..vla_training.initial_weights import policy_of_run
from .options import PolicyGradientOptions


def starting_policy(policy: VLAPolicyCfg, cfg: PolicyGradientOptions, context: RunContext) -> VLAPolicy:
    """Build the policy of `cfg.init_from` without dropout, freeze what is not trained, and check that it can be.

    Args:
        policy: Configured as in that run; what is about exploration may differ.
        cfg: Options.
        context: Of the run.

    Raises:
        ConfigError: no run is named, or the options don't suit the head.
        UserError: the head has no density.
        SpecMismatch: the policy can't act in the environment.
    """
    if not cfg.init_from:
        raise ConfigError(
            "algorithm.init_from is empty, expected the run whose policy is improved: train one first, for example "
            "with scripts/vla/pretrain/train_single_gpu.py."
        )
    model, _ = policy_of_run(policy, cfg.init_from, own_exploration=cfg.exploration == "config")
    model.head.require_density()
    model.to(context.device).eval()
    if cfg.freeze_backbone:
        model.backbone.requires_grad_(False)
    model.require_env(context.spec)
    if context.spec.action.chunk > model.chunk_size:
        raise ConfigError(
            f"'{context.spec.task}' executes {context.spec.action.chunk} actions per step, and the policy predicts "
            f"chunks of {model.chunk_size}: set env.multi_modal.chunk_size to at most that."
        )
    if model.head.only_whole_chunks and cfg.log_prob_level != "chunk":
        raise ConfigError(
            f"algorithm.log_prob_level is '{cfg.log_prob_level}', and a {type(model.head).__name__} configured like "
            "this has log-probabilities of whole chunks only: set algorithm.log_prob_level=chunk."
        )
    return model
