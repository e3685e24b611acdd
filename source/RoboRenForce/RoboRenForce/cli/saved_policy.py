"""The policy of another run, by which learning is configured that begins with it."""

from __future__ import annotations

from ..components.vla_export import exported_cfg, is_exported
from ..components.vla_policy import VLAPolicyCfg
from ..runners.checkpoint_task import task_of_checkpoint
from ..runners.saved_run import read_run
from ..utils.errors import CheckpointError
from ..utils.run_dir import resolve_checkpoint


def policy_of(model_path: str) -> VLAPolicyCfg:
    """Return the configuration of the policy of another run, or of an exported one.

    Raises:
        CheckpointError: it is no run of a VLA policy.
    """
    if is_exported(model_path):
        return exported_cfg(model_path)[0]
    saved = read_run(resolve_checkpoint(model_path))
    policy = task_of_checkpoint(saved.data).runner_cfg.policy
    if not isinstance(policy, VLAPolicyCfg):
        raise CheckpointError(
            f"'{saved.path}' holds a {type(policy).__name__}, expected a vision-language-action policy: name a run of "
            "scripts/vla, or its checkpoint."
        )
    return policy
