"""Random episodes with observations that say where they come from, and what a replay has to make of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from RoboRenForce.envs.spec import ActionSpec, EnvSpec

CPU = torch.device("cpu")


@dataclass
class Tape:
    """`(T, N)` arrays. Every observation is a number of its own; `next_obs` continues unless the episode ended."""

    obs: np.ndarray
    action: np.ndarray
    reward: np.ndarray
    terminated: np.ndarray
    done: np.ndarray
    next_obs: np.ndarray

    @property
    def steps(self) -> int:
        return self.obs.shape[0]

    @property
    def envs(self) -> int:
        return self.obs.shape[1]

    def spec(self) -> EnvSpec:
        return EnvSpec("tape", self.envs, {"policy": (2,), "critic": (1,)}, ActionSpec("continuous", 1), 100)

    def add_to(self, buffer, first: int = 0, end: int | None = None) -> None:
        for t in range(first, self.steps if end is None else end):
            buffer.add(
                fields(
                    groups(self.obs[t]),
                    torch.tensor(self.action[t]).unsqueeze(-1),
                    torch.tensor(self.reward[t]),
                    torch.tensor(self.terminated[t]),
                    torch.tensor(self.done[t]),
                    groups(self.next_obs[t]),
                )
            )


def fields(obs, action, reward, terminated, done, next_obs, **more: torch.Tensor) -> dict[str, torch.Tensor]:
    """A step by the names of a replay's schema."""
    values = {"action": action, "reward": reward, "terminated": terminated, "done": done, **more}
    values |= {f"obs/{name}": value for name, value in obs.items()}
    return values | {f"next_obs/{name}": value for name, value in next_obs.items()}


def groups(number: np.ndarray) -> dict[str, torch.Tensor]:
    """Two groups of different widths, both of which contain the number."""
    value = torch.tensor(number, dtype=torch.float32)
    return {"policy": torch.stack([value, -value], -1), "critic": value.unsqueeze(-1)}


def random_tape(steps: int, envs: int, seed: int, end: float = 0.25) -> Tape:
    """Episodes that terminate or are truncated with probability `end` per step, half and half."""
    random = np.random.default_rng(seed)
    names = iter(range(1, 2 * steps * envs + envs + 1))
    tape = Tape(
        *(np.zeros((steps, envs), dtype) for dtype in (np.float32, np.float32, np.float32, bool, bool, np.float32))
    )
    now = [next(names) for _ in range(envs)]
    for t in range(steps):
        for n in range(envs):
            tape.obs[t, n] = now[n]
            tape.action[t, n] = random.uniform(-1, 1)
            tape.reward[t, n] = random.normal()
            tape.done[t, n] = random.random() < end
            tape.terminated[t, n] = tape.done[t, n] and random.random() < 0.5
            tape.next_obs[t, n] = next(names)
            now[n] = next(names) if tape.done[t, n] else tape.next_obs[t, n]
    return tape


def position(tape: Tape, obs: float) -> tuple[int, int]:
    """Where an observation is the current one: `(t, n)`."""
    ((t, n),) = np.argwhere(tape.obs == np.float32(obs))
    return int(t), int(n)


def n_step(tape: Tape, t: int, n: int, horizon: int, gamma: float, newest: int) -> tuple[float, float, float]:
    """Reward, discount and successor of the window from `(t, n)` on, by the definition."""
    reward, factor = 0.0, 1.0
    for k in range(t, min(t + horizon - 1, newest) + 1):
        reward += factor * tape.reward[k, n]
        factor *= gamma
        if tape.done[k, n]:
            break
    return reward, 0.0 if tape.terminated[k, n] else factor, float(tape.next_obs[k, n])
