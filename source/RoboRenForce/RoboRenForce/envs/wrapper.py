"""Base class of wrappers: an environment around another one, by composition."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from tensordict import TensorDict

from .instructions import InstructionTable
from .simulator_interface import SimulatorInterface
from .vec_env import ActionWatcher, EvalPolicy, StepReturn, VecEnv


class VecEnvWrapper(VecEnv):
    """Forward the whole contract to `env`; subclasses override only what they change.

    The wrapper's `spec` is its own: a subclass that changes what `step` returns replaces it with
    `dataclasses.replace(env.spec, ...)`.
    """

    def __init__(self, env: VecEnv) -> None:
        self.env = env
        self.spec = env.spec
        self.device = env.device
        self.cfg = env.cfg

    @property
    def episode_length_buf(self) -> torch.Tensor:
        """The inner environment's counters, int64 `(num_envs,)`; settable."""
        return self.env.episode_length_buf

    @episode_length_buf.setter
    def episode_length_buf(self, value: torch.Tensor) -> None:
        self.env.episode_length_buf = value

    @property
    def unwrapped(self) -> Any:
        """Innermost environment: the simulator's own object if there is one."""
        return self.env.unwrapped

    def reset(self, *, seed: int | None = None) -> tuple[TensorDict, dict[str, Any]]:
        """See `VecEnv.reset`."""
        return self.env.reset(seed=seed)

    def get_observations(self) -> TensorDict:
        """See `VecEnv.get_observations`."""
        return self.env.get_observations()

    def step(self, actions: torch.Tensor) -> StepReturn:
        """See `VecEnv.step`."""
        return self.env.step(actions)

    def reset_rows(self, env_ids: torch.Tensor, seeds: Sequence[int]) -> tuple[TensorDict, dict[str, Any]]:
        """See `VecEnv.reset_rows`."""
        return self.env.reset_rows(env_ids, seeds)

    def step_rows(self, actions: torch.Tensor, active: torch.Tensor, *, draw: bool = True) -> StepReturn:
        """See `VecEnv.step_rows`."""
        return self.env.step_rows(actions, active, draw=draw)

    def set_eval_policy(self, policy: EvalPolicy | None) -> None:
        """See `VecEnv.set_eval_policy`."""
        self.env.set_eval_policy(policy)

    @property
    def instruction_table(self) -> InstructionTable:
        """See `VecEnv.instruction_table`."""
        return self.env.instruction_table

    def state_dict(self) -> dict[str, Any]:
        """See `VecEnv.state_dict`."""
        return self.env.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `VecEnv.load_state_dict`."""
        self.env.load_state_dict(state)

    def render(self) -> Any:
        """See `VecEnv.render`."""
        return self.env.render()

    def watch_chunks(self, watcher: ActionWatcher | None) -> bool:
        """See `VecEnv.watch_chunks`."""
        return self.env.watch_chunks(watcher)

    def measurements(self) -> dict[str, dict[str, torch.Tensor]]:
        """See `VecEnv.measurements`; rows are those of the inner environment."""
        return self.env.measurements()

    def simulator_interface(self) -> SimulatorInterface:
        """See `VecEnv.simulator_interface`."""
        return self.env.simulator_interface()

    def export_metadata(self, run: str, **options: Any) -> dict[str, str]:
        """See `VecEnv.export_metadata`."""
        return self.env.export_metadata(run, **options)

    def close(self) -> None:
        """See `VecEnv.close`."""
        self.env.close()


def choose_rows(rows: torch.Tensor, chosen: TensorDict, other: TensorDict) -> TensorDict:
    """Return `chosen` in the rows where `rows`, bool `(num_envs,)`, is True, `other` elsewhere."""
    groups: dict[str, Any] = dict(chosen.items())
    for name, tensor in groups.items():
        groups[name] = torch.where(rows.view(-1, *[1] * (tensor.dim() - 1)), tensor, other[name])
    return TensorDict(groups, batch_size=other.batch_size, device=other.device)
