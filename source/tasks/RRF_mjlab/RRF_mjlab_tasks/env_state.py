"""Saving and restoring of an mjlab environment's state: physics, randomized model fields, terms, timers, counters."""

from __future__ import annotations

from typing import Any

import torch
from mjlab.envs import ManagerBasedRlEnv
from RoboRenForce.utils.errors import SpecMismatch

from .state_slots import Slot, plain_slots, state_roots, tensor_slots

_PHYSICS = (
    "time",
    "qpos",
    "qvel",
    "act",
    "ctrl",
    "qacc_warmstart",
    "qfrc_applied",
    "xfrc_applied",
    "mocap_pos",
    "mocap_quat",
)
_COUNTERS = ("common_step_counter", "_sim_step_counter")
_CACHES = ("_cache_valid",)
_REWARD_TERMS = "reward/"


class EnvState:
    """Access to the state of one environment."""

    def __init__(self, env: ManagerBasedRlEnv) -> None:
        self._env: Any = env

    def save(self) -> dict[str, Any]:
        """Return a copy of the state: tensors on the environment's device and plain numbers."""
        env = self._env
        return {
            "num_envs": env.num_envs,
            "counters": {name: getattr(env, name) for name in _COUNTERS},
            "episode_length": env.episode_length_buf.clone(),
            "physics": {name: tensor.clone() for name, tensor in self.physics().items()},
            "model": {name: tensor.clone() for name, tensor in self._model().items()},
            "terms": {slot.path: slot.get().clone() for slot in self._tensors()},
            "numbers": {slot.path: slot.get() for slot in self._numbers()},
        }

    def load(self, state: dict[str, Any]) -> None:
        """Restore the output of `save`; `forward()` and `sense()` have to follow.

        Raises:
            SpecMismatch: The state belongs to another environment.
        """
        env = self._env
        terms, numbers = self._tensors(), self._numbers()
        self._check(state, terms)
        for name, value in state["counters"].items():
            setattr(env, name, value)
        env.episode_length_buf.copy_(state["episode_length"])
        for group, present in (("physics", self.physics()), ("model", self._model())):
            for name, tensor in present.items():
                tensor.copy_(state[group][name])
        for slot in terms:
            _restore(slot, state["terms"].get(slot.path))
        for slot in numbers:
            if slot.path in state["numbers"] and slot.key not in _CACHES:
                slot.set(state["numbers"][slot.path])
        for sensor in env.scene.sensors.values():
            sensor._invalidate_cache()
        env.observation_manager._obs_buffer = None

    def reward_memories(self) -> dict[str, torch.Tensor]:
        """Return copies of the reward terms' state, some of which (peaks of a swing) outlives mjlab's reset."""
        return {slot.path: slot.get().clone() for slot in self._tensors() if slot.path.startswith(_REWARD_TERMS)}

    def load_reward_memories(self, memories: dict[str, torch.Tensor]) -> None:
        """Restore the output of `reward_memories`."""
        for slot in self._tensors():
            _restore(slot, memories.get(slot.path))

    def _check(self, state: dict[str, Any], terms: list[Slot]) -> None:
        if state["num_envs"] != self._env.num_envs:
            raise SpecMismatch(f"The state holds {state['num_envs']} environments, this one has {self._env.num_envs}.")
        wrong = [
            f"{slot.path} {tuple(slot.get().shape)} here and {tuple(state['terms'][slot.path].shape)} there"
            for slot in terms
            if slot.path in state["terms"] and state["terms"][slot.path].shape != slot.get().shape
        ]
        if wrong:
            raise SpecMismatch(f"The state belongs to another task: {'; '.join(wrong[:5])}.")

    def physics(self) -> dict[str, torch.Tensor]:
        """State that the simulator integrates, live, `(num_envs, ...)` each."""
        sim = self._env.sim
        names = [name for name in _PHYSICS if getattr(sim.wp_data, name).size]
        return {name: getattr(sim.data, name)._tensor for name in names}

    def _model(self) -> dict[str, torch.Tensor]:
        sim = self._env.sim
        fields = {name: getattr(sim.model, name)._tensor for name in sorted(sim.expanded_fields)}
        return {name: tensor for name, tensor in fields.items() if tensor.numel() and tensor.stride(0)}

    def _tensors(self) -> list[Slot]:
        return tensor_slots(state_roots(self._env))

    def _numbers(self) -> list[Slot]:
        return plain_slots(state_roots(self._env))


def _restore(slot: Slot, value: torch.Tensor | None) -> None:
    if value is not None:
        slot.get().copy_(value)
