"""The tensors through which an environment step enters and leaves a captured policy step; their addresses stay."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from tensordict import TensorDict

from ..envs.spec import EnvSpec
from .transition import default_dtype


class StepInputs:
    """What is known about the current step of `N` environments."""

    def __init__(self, spec: EnvSpec, device: torch.device) -> None:
        def zeros(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
            return torch.zeros(spec.num_envs, *shape, dtype=default_dtype(dtype), device=device)

        def observations() -> TensorDict:
            groups = {name: zeros(*shape, dtype=spec.dtype_of(name)) for name, shape in spec.obs_groups.items()}
            return TensorDict(groups, batch_size=[spec.num_envs])

        self.obs = observations()
        self.final_obs = observations()
        self.action = zeros(*spec.action.shape, dtype=spec.action.dtype)
        self.value = zeros()
        self.reward = zeros()
        self.done = zeros()
        self.terminated = zeros(dtype=torch.bool)
        self.time_outs = zeros(dtype=torch.bool)
        self.start = torch.ones(spec.num_envs, dtype=torch.bool, device=device)
        """Whether `obs` is the first of an episode."""
        self.states: dict[str, torch.Tensor] = {}
        """Recurrent state of each recurrent network before `obs`, `(layers, N, features)`."""


def copy_together(into: list[torch.Tensor], source: list[torch.Tensor]) -> None:
    """Copy tensors of one dtype by one launch; those of several dtypes are copied one by one."""
    torch._foreach_copy_(into, source)  # pyright: ignore[reportPrivateImportUsage]


def copy_observations(into: TensorDict, source: TensorDict | Mapping[str, torch.Tensor]) -> None:
    """Copy the groups that `into` holds; cheaper than TensorDict's own checked update."""
    for name, rows in into.items():
        tensor: Any = rows  # a group is one tensor, never a nested TensorDict
        tensor.copy_(source[name])
