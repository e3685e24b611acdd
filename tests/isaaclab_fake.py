"""A manager-based environment with the documented interface of Isaac Lab, and next to no physics.

What an adapter meets there is there: a dictionary of observation groups whose terms are not concatenated, cameras as
uint8 (N, H, W, 3), `step` with five values and the reset inside it, states that `scene.get_state` returns and
`reset_to` takes, relative to the origins of the environments.

A hand reaches for a cube. Joints: two of the waist, which should not move, x and y of the hand, two fingers.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import torch

HEIGHT, WIDTH = 24, 32
State = dict[str, dict[str, dict[str, torch.Tensor]]]


class Scene:
    """One articulation and one rigid object per environment, in world coordinates."""

    def __init__(self, num_envs: int) -> None:
        rows = torch.arange(num_envs, dtype=torch.float32)
        self.env_origins = torch.stack([2.5 * rows, 0 * rows, 0 * rows], 1)
        self.joint_position = torch.zeros(num_envs, 6)
        self.cube_pose = torch.zeros(num_envs, 7)

    def get_state(self, is_relative: bool = False) -> State:
        pose = self.cube_pose.clone()
        if is_relative:
            pose[:, :3] -= self.env_origins
        joints = self.joint_position.clone()
        return {
            "articulation": {"robot": {"joint_position": joints, "joint_velocity": torch.zeros_like(joints)}},
            "rigid_object": {"cube": {"root_pose": pose, "root_velocity": torch.zeros(len(pose), 6)}},
        }

    def reset_to(self, state: State, env_ids: torch.Tensor, is_relative: bool = False) -> None:
        """Take over a state, whose rows are those of `env_ids`."""
        pose = state["rigid_object"]["cube"]["root_pose"].clone()
        if is_relative:
            pose[:, :3] += self.env_origins[env_ids]
        self.joint_position[env_ids] = state["articulation"]["robot"]["joint_position"]
        self.cube_pose[env_ids] = pose


class FakeManagerBasedRLEnv:
    """See the module."""

    max_episode_length = 12
    step_dt = 0.1

    def __init__(self, num_envs: int, seed: int) -> None:
        self.num_envs, self.device = num_envs, "cpu"
        self.scene = Scene(num_envs)
        self.episode_length_buf = torch.zeros(num_envs, dtype=torch.long)
        self.extras: dict[str, Any] = {}
        self._success = torch.zeros(num_envs, dtype=torch.bool)
        self.action_manager = SimpleNamespace(total_action_dim=6, active_terms=["waist", "arm", "fingers"])
        self.observation_manager = SimpleNamespace(compute=self._observe)
        self.termination_manager = SimpleNamespace(
            active_terms=["time_out", "success"], get_term=lambda name: {"success": self._success}[name]
        )
        self.reset(seed=seed)

    def reset(
        self, seed: int | None = None, env_ids: Sequence[int] | torch.Tensor | None = None, options: Any = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        if seed is not None:
            torch.manual_seed(seed)
        self._reset_idx(torch.arange(self.num_envs) if env_ids is None else torch.as_tensor(env_ids))
        return self._observe(), self.extras

    def reset_to(
        self, state: State, env_ids: torch.Tensor, seed: int | None = None, is_relative: bool = False
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        if seed is not None:
            torch.manual_seed(seed)
        self._reset_idx(env_ids)
        self.scene.reset_to(state, env_ids, is_relative=is_relative)
        return self._observe(), self.extras

    def step(self, action: torch.Tensor) -> tuple[dict[str, Any], torch.Tensor, torch.Tensor, torch.Tensor, dict]:
        assert action.shape == (self.num_envs, 6), action.shape
        before = self._distance()
        self.scene.joint_position += 0.25 * action.clamp(-1.0, 1.0)
        self.episode_length_buf += 1
        distance = self._distance()
        self._success = distance < 0.3
        waist = self.scene.joint_position[:, :2].abs().sum(1)
        reward = before - distance + self._success.float() - waist
        terminated = self._success.clone()
        truncated = self.episode_length_buf >= self.max_episode_length
        self.extras = {"log": {"Episode_Reward/waist": waist.mean()}}
        ended = (terminated | truncated).nonzero().squeeze(1)
        if len(ended):
            self._reset_idx(ended)
        return self._observe(), reward, terminated, truncated, self.extras

    def render(self) -> Any:
        return self._observe()["policy"]["front_camera"][0].numpy()

    def close(self) -> None:
        pass

    def _reset_idx(self, env_ids: torch.Tensor) -> None:
        self.scene.joint_position[env_ids] = 0.0
        drawn = (51 * torch.rand(len(env_ids), 2)).round() / 32 - 0.8125  # exact also far from the world's origin
        place = torch.cat([drawn, torch.zeros(len(env_ids), 5)], 1)
        place[:, :3] += self.scene.env_origins[env_ids]
        self.scene.cube_pose[env_ids] = place
        self.episode_length_buf[env_ids] = 0

    def _distance(self) -> torch.Tensor:
        return (self._cube() - self.scene.joint_position[:, 2:4]).norm(dim=1)

    def _cube(self) -> torch.Tensor:
        return (self.scene.cube_pose - torch.nn.functional.pad(self.scene.env_origins, (0, 4)))[:, :2]

    def _observe(self) -> dict[str, Any]:
        picture = torch.full((self.num_envs, HEIGHT, WIDTH, 3), 30, dtype=torch.uint8)
        for place, channel in ((self._cube(), 0), (self.scene.joint_position[:, 2:4], 1)):
            _draw(picture, place, channel)
        joints = self.scene.joint_position.clone()
        return {"policy": {"front_camera": picture, "robot_joint_state": joints}, "critic": self._cube()}


def _draw(pictures: torch.Tensor, place: torch.Tensor, channel: int) -> None:
    """Draw a square at x, y within [-1, 1] into one channel."""
    rows, columns = torch.arange(HEIGHT).view(1, -1, 1), torch.arange(WIDTH).view(1, 1, -1)
    row = ((place[:, 1] + 1) / 2 * (HEIGHT - 1)).view(-1, 1, 1)
    column = ((place[:, 0] + 1) / 2 * (WIDTH - 1)).view(-1, 1, 1)
    square = ((rows - row).abs() < 2) & ((columns - column).abs() < 2)
    pictures[..., channel] = torch.where(square, 255, pictures[..., channel])
