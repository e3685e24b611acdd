"""Videos of a policy: every executed action, also those inside a chunk, with the instruction below the picture."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..algorithms.algorithm import Policy
from ..envs.vec_env import VecEnv
from ..utils.captions import add_caption
from ..utils.video import write_mp4
from .evaluation import choose_actions, playing

_MAX_FPS = 60.0
_OUTCOME_SECONDS = 0.5
"""Seconds that the last picture of an episode with an instruction stays, with its outcome."""


def record_video(
    env: VecEnv,
    policy: Policy,
    path: Path,
    *,
    steps: int,
    deterministic: bool = True,
    seed: int | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> int:
    """Film environment 0 for `steps` executed actions and return the number of frames.

    The video runs in real time if the environment defines the length of its step. Where the environment gives
    instructions, they, the step and the outcome of each episode are written below the picture, and the last picture of
    an episode stays for half a second. It shows the moment before the last action: an environment that resets itself
    can't be drawn at the end.

    Raises:
        RuntimeError: The environment can't render.
        NonFiniteError: An action is NaN or infinite.
        Stopped: `should_stop`, called whenever the policy acts, returned True; no file is left.
    """
    rate = 1.0 / env.spec.step_dt if env.spec.step_dt else 30.0
    stride = max(1, round(rate / _MAX_FPS))
    film = _Film(env, steps, stride, hold=round(_OUTCOME_SECONDS * rate / stride))
    frames = _frames(env, policy, film, deterministic, seed, should_stop)
    return write_mp4(path, frames, fps=rate / stride)


class _Film:
    """Pictures of environment 0, taken before every `stride`-th of its actions, `steps` in all."""

    def __init__(self, env: VecEnv, steps: int, stride: int, hold: int) -> None:
        self.env, self.steps, self.stride, self.hold = env, steps, stride, hold
        self.num_executed = 0
        self.episode_step = 0
        self.instruction: str | None = None
        self._taken: list[np.ndarray] = []
        self._last: tuple[np.ndarray, int] | None = None

    @property
    def is_over(self) -> bool:
        """True if all actions are filmed."""
        return self.num_executed >= self.steps

    def before_action(self, executes: torch.Tensor | None = None) -> None:
        """Take a picture if it is time; `executes`, bool `(num_envs,)`, tells which rows the action reaches."""
        if executes is not None and not bool(executes[0]):
            return
        if self.is_over:  # the rest of a chunk is cut, and with it what it leads to
            self._last = None
            return
        if self.num_executed % self.stride == 0:
            # A renderer may reuse its buffer within the chunk.
            self._last = np.array(self.env.render()), self.episode_step
            self._taken.append(self._captioned(*self._last))
        self.num_executed += 1
        self.episode_step += 1

    def after_step(self, ended: bool, extras: dict[str, Any]) -> list[np.ndarray]:
        """Return the pictures since the last call, and the outcome of an episode that ended."""
        frames, self._taken = self._taken, []
        if ended:
            if self.instruction is not None and "success" in extras and self._last is not None:
                frames += [self._captioned(*self._last, bool(extras["success"][0]))] * self.hold
            self.episode_step, self._last = 0, None
        self.read_instruction(extras)
        return frames

    def read_instruction(self, extras: dict[str, Any]) -> None:
        """Take the text of the current episode from the extras of a reset or a step."""
        self.instruction = extras["instruction"][0] if "instruction" in extras else None

    def _captioned(self, picture: np.ndarray, step: int, success: bool | None = None) -> np.ndarray:
        return picture if self.instruction is None else add_caption(picture, self.instruction, step, success)


@torch.no_grad()
def _frames(
    env: VecEnv,
    policy: Policy,
    film: _Film,
    deterministic: bool,
    seed: int | None,
    should_stop: Callable[[], bool] | None,
) -> Iterator[np.ndarray]:
    finished = torch.zeros(env.num_envs, device=env.device, dtype=torch.int64)
    sees_chunks = env.watch_chunks(film.before_action)
    try:
        with playing(policy, deterministic=deterministic, seed=seed):
            obs, extras = env.reset(seed=seed)
            film.read_instruction(extras)
            while not film.is_over:
                actions = choose_actions(env, policy, obs, finished, should_stop)
                if not sees_chunks:
                    film.before_action()
                obs, _, done, extras = env.step(actions)
                finished += done != 0
                policy.reset(done)
                yield from film.after_step(bool(done[0]), extras)
    finally:
        env.watch_chunks(None)
