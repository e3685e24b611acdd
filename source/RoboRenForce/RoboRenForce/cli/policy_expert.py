"""A trained policy as the expert that records demonstrations."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import replace
from typing import Any

import torch
from tensordict import TensorDict

from ..algorithms.vla_training import VLAPlayPolicy
from ..algorithms.vla_training.initial_weights import policy_of_run
from ..components.chunk_execution import RecedingHorizonCfg
from ..components.vla_export import exported_cfg, is_exported
from ..components.vla_policy import VLAPolicyCfg
from ..envs.multi_modal import MultiModal
from ..envs.vec_env import EvalPolicy, VecEnv
from ..envs.wrapper import VecEnvWrapper
from ..runners.checkpoint_task import task_of_checkpoint
from ..runners.playing import build_player
from ..runners.saved_run import SavedRun, read_run
from ..utils.errors import SpecMismatch
from ..utils.run_dir import resolve_checkpoint


def trained_expert(args: Namespace, env: MultiModal, device: torch.device, num_executed: int | None) -> EvalPolicy:
    """Build the policy of `args.checkpoint` for single actions in `env`.

    Args:
        args: What `collect_demos_parser` has parsed.
        env: The environment to record, without chunks.
        device: Where the policy is.
        num_executed: Actions of a VLA policy's chunk that are executed before the next one; None: all.

    Raises:
        SpecMismatch: the policy observes something else than the environment gives.
    """
    if is_exported(args.checkpoint):
        return _vla_expert(args, exported_cfg(args.checkpoint, trust=args.trust)[0], env, device, num_executed)
    saved = read_run(resolve_checkpoint(args.checkpoint, "latest"))
    runner_cfg = task_of_checkpoint(saved.data, trust=args.trust, task=args.task).runner_cfg
    if isinstance(runner_cfg.policy, VLAPolicyCfg):
        return _vla_expert(args, runner_cfg.policy, env, device, num_executed)
    return _inner_expert(args, saved, runner_cfg, env, device)


def _vla_expert(
    args: Namespace, cfg: VLAPolicyCfg, env: MultiModal, device: torch.device, num_executed: int | None
) -> EvalPolicy:
    """A policy that sees what is recorded."""
    policy, _ = policy_of_run(cfg, args.checkpoint)
    policy.add_instructions(env.instruction_table.values())
    execution = RecedingHorizonCfg(num_executed=num_executed and min(num_executed, policy.chunk_size))
    return VLAPlayPolicy(policy.to(device).eval(), env.spec, deterministic=not args.stochastic, execution=execution)


class PolicyExpert:
    """A policy that was trained on other observations of the same environment, such as the simulator's state.

    Args:
        policy: gets what `env` observes.
        env: what `MultiModal` wraps, with the policy's groups.
    """

    def __init__(self, policy: Any, env: VecEnv) -> None:
        self._policy, self._env = policy, env

    def __call__(self, obs: TensorDict) -> torch.Tensor:
        """Actions `(num_envs, action dim)`."""
        return self._policy(self._env.get_observations())

    def reset(self, dones: torch.Tensor | None = None) -> None:
        """See `EvalPolicy.reset`."""
        self._policy.reset(dones)


def _inner_expert(
    args: Namespace, saved: SavedRun, runner_cfg: Any, env: MultiModal, device: torch.device
) -> PolicyExpert:
    groups = list(env.env.spec.obs_groups) if saved.spec is None else list(saved.spec.obs_groups)
    missing = [name for name in groups if name not in env.env.spec.obs_groups]
    if missing:
        raise SpecMismatch(
            f"The policy of '{saved.path}' observes {missing}, which {env.env.spec.task} doesn't give beside "
            f"{sorted(env.env.spec.obs_groups)}: name a checkpoint of the same environment."
        )
    seen = _SomeGroups(env.env, groups)
    runner = build_player(runner_cfg, saved.spec, seen, device)
    runner.restore(saved, resume=False)
    runner.algorithm.eval()
    policy = runner.policy()
    policy.deterministic = not args.stochastic
    return PolicyExpert(policy, seen)


class _SomeGroups(VecEnvWrapper):
    """Only those observation groups that a policy was trained with."""

    def __init__(self, env: VecEnv, names: list[str]) -> None:
        super().__init__(env)
        spec = env.spec
        self.spec = replace(
            spec,
            obs_groups={name: spec.obs_groups[name] for name in names},
            obs_dtypes={name: dtype for name, dtype in spec.obs_dtypes.items() if name in names},
        )

    def get_observations(self) -> TensorDict:
        """See `VecEnv.get_observations`."""
        return self.env.get_observations().select(*self.spec.obs_groups)
