"""The policy of another run, frozen."""

from __future__ import annotations

from ...components.vla_policy import VLAPolicy, VLAPolicyCfg
from ...components.vla_spec import VLASpec
from ...configclass import ConfigError
from ...envs.spec import EnvSpec
from ...utils.checkpoint import load_checkpoint
from ...utils.errors import SpecMismatch
from ...utils.run_dir import resolve_checkpoint
from ..vla_training.initial_weights import initial_policy


def frozen_policy(cfg: VLAPolicyCfg, init_from: str, env: EnvSpec) -> VLAPolicy:
    """Build a policy with the weights of another run, in evaluation mode and without gradients.

    Args:
        cfg: The policy, configured as in that run.
        init_from: Its checkpoint or run directory.
        env: Environment to act in, after `MultiModal`.

    Raises:
        ConfigError: no run is named.
        SpecMismatch: the policy can't act in the environment.
    """
    if not init_from:
        raise ConfigError(
            "algorithm.init_from is empty, expected the run whose policy is improved: train one first, for example "
            "with scripts/vla/pretrain/train_single_gpu.py."
        )
    saved = load_checkpoint(resolve_checkpoint(init_from), schema={"algorithm": dict})["algorithm"]
    policy, _ = initial_policy(cfg, VLASpec.from_dict(saved.get("spec", {})), init_from)
    policy.require_env(env)
    if not 0 < env.action.chunk <= policy.chunk_size:
        raise SpecMismatch(
            f"'{env.task}' executes {env.action.chunk or 'single'} actions per step, and the policy predicts chunks of "
            f"{policy.chunk_size}: set the environment's multi_modal.chunk_size to at most that."
        )
    return policy.requires_grad_(False).eval()
