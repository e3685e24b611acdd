"""A simulator of fixed cost whose cameras show noise, for benchmarks of policies that act in chunks."""

from __future__ import annotations

import time

import torch
from RoboRenForce.envs.instructions import instruction_id
from RoboRenForce.envs.spec import ActionSpec, EnvSpec
from RoboRenForce.envs.vec_env import StepReturn
from tensordict import TensorDict

INSTRUCTION = "put the red block on the blue plate, now"
CAMERAS, STATE, ACTIONS = ("front", "wrist"), 8, 7
_MOMENTS = 4


class FakeSimulator:
    """Rows that never end; every action of a chunk takes `step_ms`, of the host, after the actions are known.

    Args:
        num_envs: Rows.
        size: Height and width of the frames.
        chunk: Actions of a step.
        step_ms: Milliseconds of one action of all rows.
        frames_on: Where frames are returned; everything else is on `device`.
        device: Of the learner.
    """

    def __init__(
        self, *, num_envs: int, size: int, chunk: int, step_ms: float, frames_on: torch.device, device: torch.device
    ) -> None:
        self.spec = EnvSpec(
            "fake simulator",
            num_envs,
            {**{camera: (size, size, 3) for camera in CAMERAS}, "proprio": (STATE,), "instruction_id": (1,)},
            ActionSpec("continuous", ACTIONS, chunk=chunk),
            max_episode_length=100_000,
            extras=("final_observations", "executed_steps", "chunk_rewards"),
            obs_dtypes={**dict.fromkeys(CAMERAS, "uint8"), "instruction_id": "int64"},
            extra_dims={"chunk_rewards": chunk},
        )
        self._seconds = step_ms * chunk / 1000
        generator, rows = torch.Generator().manual_seed(0), (_MOMENTS, num_envs)
        groups = {
            camera: torch.randint(256, (*rows, size, size, 3), generator=generator, dtype=torch.uint8).to(frames_on)
            for camera in CAMERAS
        }
        groups["proprio"] = torch.randn(*rows, STATE, generator=generator).to(frames_on)
        groups["instruction_id"] = torch.full((*rows, 1), instruction_id(INSTRUCTION), device=frames_on)
        self._groups = groups
        self._rewards = torch.randn(*rows, chunk, generator=generator).to(device)
        self._never = torch.zeros(num_envs, dtype=torch.bool, device=device)
        self._executed = torch.full((num_envs,), chunk, device=device)
        self._moment = 0

    def get_observations(self) -> TensorDict:
        """The current observations."""
        groups = {name: moments[self._moment] for name, moments in self._groups.items()}
        return TensorDict(groups, batch_size=[self.spec.num_envs])

    def step(self, actions: torch.Tensor) -> StepReturn:
        """Execute a chunk in every row."""
        actions.cpu()
        time.sleep(self._seconds)
        self._moment = (self._moment + 1) % _MOMENTS
        obs, rewards, never = self.get_observations(), self._rewards[self._moment], self._never
        extras = {
            "terminated": never,
            "time_outs": never,
            "final_observations": obs,
            "executed_steps": self._executed,
            "chunk_rewards": rewards,
            "log": {},
        }
        return obs, rewards.sum(1), never.long(), extras
