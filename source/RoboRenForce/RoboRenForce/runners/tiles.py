"""Videos of several environments side by side: an episode of each, with instruction, step, reward and outcome.

A picture is what the policy sees of its first camera, so it needs no renderer; there is one whenever the policy acts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tensordict import TensorDict

from ..algorithms.algorithm import Policy
from ..envs.spec import EnvSpec
from ..envs.vec_env import VecEnv
from ..utils.captions import add_caption
from ..utils.errors import UserError
from ..utils.video import write_mp4
from .evaluation import choose_actions, playing

_SMALLEST = 160
"""Pixels of a tile's height below which it is enlarged, so that its caption can be read."""
_HOLD_SECONDS = 1.0
_MOST_STEPS = 1000


def record_tiles(
    env: VecEnv,
    policy: Policy,
    path: Path,
    *,
    camera: str | None = None,
    captions: bool = True,
    steps: int | None = None,
    deterministic: bool = True,
    seed: int | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> int:
    """Film the first episode of every environment and return the number of frames.

    An environment whose episode is over keeps its last picture, with its outcome.

    Args:
        env: It is reset.
        policy: Policy to play.
        path: Where to write.
        camera: Image group; None: the first.
        captions: Whether instruction, step, reward and outcome are written below each picture.
        steps: Most environment steps of an episode; None: its horizon.
        deterministic: True to play the mode of the policy instead of samples.
        seed: Seed that makes the episodes reproducible.
        should_stop: Called whenever the policy acts; no file is left where it returns True.

    Raises:
        UserError: There is no such camera.
    """
    camera = _camera(env.spec, camera)
    chunk = max(1, env.spec.action.chunk)
    rate = 1.0 / (env.spec.step_dt or 0.1) / chunk
    tiles = _Tiles(env, camera, captions)
    limit = math.ceil((steps or env.max_episode_length or _MOST_STEPS) / chunk)
    frames = _frames(env, policy, tiles, limit, max(1, round(_HOLD_SECONDS * rate)), deterministic, seed, should_stop)
    return write_mp4(path, frames, fps=rate)


class _Tiles:
    """One picture of each environment, until its first episode is over."""

    def __init__(self, env: VecEnv, camera: str, captions: bool) -> None:
        self._camera, self._captions = camera, captions
        self._steps = [0] * env.num_envs
        self._rewards = [0.0] * env.num_envs
        self._texts: list[str] = [""] * env.num_envs
        self._over: dict[int, np.ndarray] = {}
        self._columns = math.ceil(math.sqrt(env.num_envs))

    @property
    def all_over(self) -> bool:
        """True if every first episode has ended."""
        return len(self._over) == len(self._steps)

    def begin(self, extras: dict[str, Any]) -> None:
        """Take the instructions of the episodes that begin."""
        self._texts = list(extras.get("instruction", self._texts))

    def grid(self, obs: TensorDict) -> np.ndarray:
        """Return the pictures of the moment, side by side."""
        pictures = obs[self._camera].cpu().numpy()
        tiles = [
            self._over[row] if row in self._over else self._tile(row, picture) for row, picture in enumerate(pictures)
        ]
        tiles += [np.zeros_like(tiles[0])] * (-len(tiles) % self._columns)
        rows = [np.concatenate(tiles[i : i + self._columns], 1) for i in range(0, len(tiles), self._columns)]
        return np.concatenate(rows)

    def after_step(self, obs: TensorDict, rewards: torch.Tensor, dones: torch.Tensor, extras: dict[str, Any]) -> None:
        """Count the step, and keep the last picture of episodes that ended."""
        num_envs = len(self._steps)
        executed = extras["executed_steps"].tolist() if "executed_steps" in extras else [1] * num_envs
        success = extras["success"].tolist() if "success" in extras else [None] * num_envs
        last = extras.get("final_observations", obs)[self._camera]
        for row, (reward, done) in enumerate(zip(rewards.tolist(), dones.tolist(), strict=True)):
            if row in self._over:
                continue
            self._steps[row] += executed[row]
            self._rewards[row] += reward
            if done:
                self._over[row] = self._tile(row, last[row].cpu().numpy(), success[row])

    def _tile(self, row: int, picture: np.ndarray, success: bool | None = None) -> np.ndarray:
        factor = -(-_SMALLEST // picture.shape[0])
        picture = picture.repeat(factor, 0).repeat(factor, 1)
        if not self._captions:
            return picture
        return add_caption(picture, self._texts[row], self._steps[row], success, reward=self._rewards[row])


@torch.no_grad()
def _frames(
    env: VecEnv,
    policy: Policy,
    tiles: _Tiles,
    limit: int,
    hold: int,
    deterministic: bool,
    seed: int | None,
    should_stop: Callable[[], bool] | None,
) -> Iterator[np.ndarray]:
    finished = torch.zeros(env.num_envs, device=env.device, dtype=torch.int64)
    with playing(policy, deterministic=deterministic, seed=seed):
        obs, extras = env.reset(seed=seed)
        tiles.begin(extras)
        yield tiles.grid(obs)
        for _ in range(limit):
            obs, rewards, dones, extras = env.step(choose_actions(env, policy, obs, finished, should_stop))
            finished += dones != 0
            policy.reset(dones)
            tiles.after_step(obs, rewards, dones, extras)
            yield tiles.grid(obs)
            if tiles.all_over:
                break
        yield from [tiles.grid(obs)] * hold


def _camera(spec: EnvSpec, camera: str | None) -> str:
    """Return the image group to show."""
    known = [name for name, shape in spec.obs_groups.items() if spec.dtype_of(name) == torch.uint8 and len(shape) == 3]
    if not known or camera not in (None, *known):
        raise UserError(
            f"A video of tiles shows a camera of '{spec.task}', got {camera or 'none'}, expected one of {known}: name "
            "it, or let the environment observe images."
        )
    return camera or known[0]
