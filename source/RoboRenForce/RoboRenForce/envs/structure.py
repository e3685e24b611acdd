"""Checks of shapes and dtypes that the environment contract defines: cheap, and without reading the device.

Tensors that are copied into a buffer broadcast, and a wrong dtype is cast, silently. So runners check the first
steps of every environment, and one of each iteration, before anything is learned from them.
"""

from __future__ import annotations

from typing import Any

import torch
from tensordict import TensorDict

from ..utils.errors import EnvContractError
from .run_comparison import same_device
from .vec_env import ALWAYS_IN_EXTRAS, VecEnv

_BOOL_EXTRAS = ("terminated", "time_outs", "success", "active")


def require_observations(env: VecEnv, obs: Any, where: str) -> None:
    """Raise an `EnvContractError` unless `obs` is as the spec of `env` declares."""
    check = StructureCheck(env)
    check.observations(obs, where)
    if check.violations:
        raise contract_error(env, check.violations)


def require_step(env: VecEnv, returned: Any) -> None:
    """Raise an `EnvContractError` unless `returned` is a valid step of `env`."""
    check = StructureCheck(env)
    check.step(returned)
    if check.violations:
        raise contract_error(env, check.violations)


def contract_error(env: VecEnv, violations: list[str]) -> EnvContractError:
    """Build one error that lists all violations."""
    listed = "\n".join(f"  {number}. {violation}" for number, violation in enumerate(violations, 1))
    return EnvContractError(f"{type(env).__name__} breaks the VecEnv contract:\n{listed}")


class StructureCheck:
    """Check of groups, keys, shapes, dtypes and devices returned by an environment, against its spec."""

    def __init__(self, env: VecEnv) -> None:
        self.env = env
        self.violations: list[str] = []

    def expect(self, condition: bool, sentence: str) -> bool:
        """Record `sentence` once if `condition` fails; returns the condition."""
        if not condition and sentence not in self.violations:
            self.violations.append(sentence)
        return condition

    def observations(self, obs: Any, where: str) -> None:
        """Check that groups, shapes, dtypes and device match the spec."""
        spec = self.env.spec
        if not self.expect(isinstance(obs, TensorDict), f"{where} returns {type(obs).__name__}, expected a TensorDict"):
            return
        self.expect(
            obs.batch_size == (spec.num_envs,),
            f"{where} has batch size {list(obs.batch_size)}, expected [{spec.num_envs}]",
        )
        found = sorted(obs.keys())
        if not self.expect(
            found == sorted(spec.obs_groups),
            f"{where} has the groups {found}, spec.obs_groups declares {sorted(spec.obs_groups)}",
        ):
            return
        for name, shape in spec.obs_groups.items():
            self.tensor(obs[name], f"{where}: group '{name}'", spec.dtype_of(name), shape)

    def tensor(self, value: Any, what: str, dtype: torch.dtype, shape: tuple[int, ...] = ()) -> None:
        """Check that `value` is a tensor `(num_envs, *shape)` of `dtype` on the environment's device."""
        if not self.expect(isinstance(value, torch.Tensor), f"{what} is {type(value).__name__}, expected a tensor"):
            return
        expected = (self.env.num_envs, *shape)
        self.expect(value.shape == expected, f"{what} has shape {tuple(value.shape)}, expected {expected}")
        self.expect(value.dtype == dtype, f"{what} has dtype {value.dtype}, expected {dtype}")
        self.expect(
            same_device(value.device, self.env.device),
            f"{what} is on {value.device}, the environment on {self.env.device}",
        )

    def step(self, step: Any) -> None:
        """Check one returned step."""
        if not self.expect(
            isinstance(step, tuple) and len(step) == 4, "step doesn't return (obs, rewards, dones, extras)"
        ):
            return
        obs, rewards, dones, extras = step
        self.observations(obs, "step")
        self.tensor(rewards, "rewards", torch.float32)
        self.tensor(dones, "dones", torch.int64)
        declared = sorted({*ALWAYS_IN_EXTRAS, *self.env.spec.extras})
        if not self.expect(isinstance(extras, dict), f"extras is {type(extras).__name__}, expected a dict"):
            return
        if not self.expect(
            sorted(extras) == declared, f"extras has the keys {sorted(extras)}, declared are {declared}"
        ):
            return
        for name in declared:
            self._extra(name, extras[name])

    def _extra(self, name: str, value: Any) -> None:
        spec, what = self.env.spec, f"extras['{name}']"
        columns = {
            "reward_terms": len(spec.reward_terms),
            **{extra: spec.extra_dims.get(extra, 0) for extra in ("command", "dynamics", "chunk_rewards")},
        }
        if name in _BOOL_EXTRAS:
            self.tensor(value, what, torch.bool)
        elif name == "log":
            if self.expect(isinstance(value, dict), f"{what} is {type(value).__name__}, expected a dict"):
                for key, entry in value.items():
                    scalar = isinstance(entry, int | float) or (isinstance(entry, torch.Tensor) and entry.dim() == 0)
                    self.expect(isinstance(key, str) and scalar, f"{what}[{key!r}] is no 0-dim tensor or number")
        elif name == "final_observations":
            self.observations(value, what)
        elif name == "instruction":
            texts = (
                isinstance(value, list) and len(value) == spec.num_envs and all(isinstance(text, str) for text in value)
            )
            self.expect(texts, f"{what} is no list of {spec.num_envs} strings")
        elif name == "raw_rewards":
            self.tensor(value, what, torch.float32)
        elif name in columns:
            self.tensor(value, what, torch.float32, (columns[name],))
        else:
            self.tensor(value, what, torch.int64)
