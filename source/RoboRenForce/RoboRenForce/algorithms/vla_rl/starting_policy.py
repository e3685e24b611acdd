"""The policy that reinforcement learning begins with: of another run, improved itself or frozen."""

from __future__ import annotations

from ...components.vla_policy import VLAPolicy, VLAPolicyCfg
from ...configclass import ConfigError
from ...envs.spec import EnvSpec
from ...utils.errors import SpecMismatch
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
    model = _of_run(policy, cfg.init_from, own_exploration=cfg.exploration == "config")
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


def frozen_policy(policy: VLAPolicyCfg, init_from: str, env: EnvSpec) -> VLAPolicy:
    """Build a policy with the weights of another run, in evaluation mode and without gradients.

    Args:
        policy: Configured as in that run.
        init_from: Its checkpoint or run directory.
        env: Environment to act in, after `MultiModal`.

    Raises:
        ConfigError: no run is named.
        SpecMismatch: the policy can't act in the environment.
    """
    model = _of_run(policy, init_from)
    model.require_env(env)
    if not 0 < env.action.chunk <= model.chunk_size:
        raise SpecMismatch(
            f"'{env.task}' executes {env.action.chunk or 'single'} actions per step, and the policy predicts chunks of "
            f"{model.chunk_size}: set the environment's multi_modal.chunk_size to at most that."
        )
    return model.requires_grad_(False).eval()


def _of_run(policy: VLAPolicyCfg, init_from: str, *, own_exploration: bool = False) -> VLAPolicy:
    if not isinstance(policy, VLAPolicyCfg):
        raise ConfigError(
            f"This learner improves a VLAPolicyCfg, but policy is a {type(policy).__name__}: set "
            "policy=MLPBaselinePolicyCfg(head=...), or another vision-language-action policy."
        )
    if not init_from:
        raise ConfigError(
            "algorithm.init_from is empty, expected the run whose policy is improved: train one first, for example "
            "with scripts/vla/pretrain/train_single_gpu.py."
        )
    return policy_of_run(policy, init_from, own_exploration=own_exploration)[0]
