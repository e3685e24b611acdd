"""Hold single rows, and start rows alike: what mjlab steps and draws for all environments at once, taken apart by rows.

A held row is stepped with the others, because the simulator knows no rows, and put back afterwards.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from mjlab.envs import ManagerBasedRlEnv

from .env_state import EnvState
from .seeded_draws import NotDrawnByRowError, SeededDraws
from .state_slots import state_roots, tensor_slots

logger = logging.getLogger(__name__)

Saved = dict[str, torch.Tensor]


@contextlib.contextmanager
def undrawn(env: ManagerBasedRlEnv) -> Iterator[None]:
    """Step without cameras and rays inside the block: they keep showing what they did."""
    simulation: Any = env.sim
    simulation.sense = lambda: None
    try:
        yield
    finally:
        del simulation.sense


class Rows:
    """The state of single rows: physics, and every tensor of managers, terms and entities with a row per environment.

    Buffers of histories and delays have another layout; environments with some can't be used with it.
    """

    def __init__(self, env: ManagerBasedRlEnv) -> None:
        self._env: Any = env
        self._physics = EnvState(env).physics()
        self._drawn_by_row = True

    def save(self) -> Saved:
        """Copies of all rows."""
        return {path: tensor.clone() for path, tensor in self.tensors().items()}

    def hold(self, saved: Saved, active: torch.Tensor) -> None:
        """Undo a step in the rows where `active`, bool `(num_envs,)`, is False, as if they had not been stepped.

        Args:
            saved: what `save` returned before the step.
            active: the rows that were meant.
        """
        env, held = self._env, ~active
        self.restore(saved, held)
        for name in ("reset_buf", "reset_terminated", "reset_time_outs", "_manual_reset_pending"):
            setattr(env, name, getattr(env, name) & active)
        env.reward_buf = env.reward_buf.masked_fill(held, 0.0)
        env.reward_manager._step_reward.masked_fill_(held.unsqueeze(1), 0.0)
        env.episode_length_buf -= held.long()

    def reset(self, env_ids: torch.Tensor, seeds: Sequence[int]) -> None:
        """Reset rows, `(K,)`, to states that depend on their seeds alone; observations have to be computed anew.

        A term that draws for all rows at once, such as a permutation, has no draw of a row to seed. From the first such
        draw on each row is reset by itself: as exact, but K times as many calls, and said in a warning.
        """
        if self._drawn_by_row:
            try:
                with SeededDraws(seeds, env_ids.device):
                    self._env._reset_idx(env_ids)
            except NotDrawnByRowError as reason:
                logger.warning(
                    "Rows are reset one by one, which is slower, because %s as an episode begins: let the term draw "
                    "one entry per environment, by torch.rand, randn, randint or uniform_.",
                    reason,
                )
                self._drawn_by_row = False
        if not self._drawn_by_row:
            self._reset_one_by_one(env_ids, seeds)

    def _reset_one_by_one(self, env_ids: torch.Tensor, seeds: Sequence[int]) -> None:
        with torch.random.fork_rng([env_ids.device] if env_ids.is_cuda else []):
            for row, seed in zip(env_ids.split(1), seeds, strict=True):
                torch.manual_seed(int(seed))
                self._env._reset_idx(row)

    def observe_reset(self, env_ids: torch.Tensor) -> dict[str, torch.Tensor]:
        """Finish a reset as mjlab's environment does once rows have their first state; return the observations."""
        env = self._env
        env.scene.write_data_to_sim()
        env.sim.forward()
        env.command_manager.compute(dt=0.0, env_ids=env_ids)
        env.sim.sense()
        env.obs_buf = env.observation_manager.compute(update_history=True, env_ids=env_ids)
        return env.obs_buf

    def tensors(self) -> Saved:
        """Path -> tensor; terms may have bound another one since the last call."""
        num_envs = self._env.num_envs
        found = dict(self._physics)
        for slot in tensor_slots(state_roots(self._env)):
            tensor = slot.get()
            if tensor.dim() and tensor.shape[0] == num_envs and tensor.stride(0):
                found[slot.path] = tensor
        return found

    def restore(self, saved: Saved, rows: torch.Tensor) -> None:
        """Write what `save` returned into `rows`, bool `(num_envs,)`."""
        for path, tensor in self.tensors().items():
            if path in saved and saved[path].shape == tensor.shape:
                tensor.copy_(torch.where(rows.view(-1, *[1] * (tensor.dim() - 1)), saved[path], tensor))
