"""How good a policy is: returns of a fixed number of episodes, and videos."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..algorithms.algorithm import Policy
from ..envs.vec_env import VecEnv
from ..utils.errors import EnvContractError
from ..utils.video import write_mp4

_STEPS_WITHOUT_HORIZON = 100_000
_MAX_FPS = 60.0


@dataclass(frozen=True)
class EvalResult:
    """Returns of `n` episodes."""

    mean: float
    std: float
    """Standard deviation over the episodes (divided by n)."""
    n: int
    mean_length: float
    success_rate: float | None
    """None where the environment does not define success."""
    returns: list[float]

    def to_dict(self) -> dict[str, Any]:
        """Plain data for `eval.json`."""
        return asdict(self)

    def __str__(self) -> str:
        success = "" if self.success_rate is None else f", success {self.success_rate:.0%}"
        return f"mean {self.mean:,.1f}, std {self.std:,.1f}, n {self.n}, mean length {self.mean_length:,.0f}{success}"


@torch.no_grad()
def evaluate(
    env: VecEnv, policy: Policy, episodes: int, *, deterministic: bool = True, seed: int | None = None
) -> EvalResult:
    """Play exactly `episodes` whole episodes and count all of them.

    How many episodes each environment contributes is fixed beforehand. Taking the first `episodes` that end would
    prefer short ones, and bias the mean wherever length and return are related. Returns are those of the task,
    also where wrappers of the user change the rewards that the learner gets.

    Args:
        env: Reset by this function; its running episodes are lost.
        policy: Plays; its mode is restored afterwards.
        episodes: Number of episodes over all environments, at least 1.
        deterministic: Play the mode of the policy instead of samples.
        seed: Makes the episodes reproducible.
    """
    if episodes < 1:
        raise ValueError(f"An evaluation needs at least 1 episode, got {episodes}.")
    device, num_envs = env.device, env.num_envs
    index = torch.arange(num_envs, device=device)
    quota = episodes // num_envs + (index < episodes % num_envs).long()  # (num_envs,), sums to `episodes`
    rounds = -(-episodes // num_envs)
    results = torch.zeros(3, num_envs, rounds, device=device, dtype=torch.float64)  # return, length, success
    running = torch.zeros(2, num_envs, device=device, dtype=torch.float64)
    finished = torch.zeros(num_envs, device=device, dtype=torch.int64)
    has_success = "success" in env.spec.extras
    limit = (env.max_episode_length or _STEPS_WITHOUT_HORIZON) * rounds + 1
    with _playing(policy, deterministic=deterministic):
        obs, _ = env.reset(seed=seed)
        for _ in range(limit):
            obs, reward, done, extras = env.step(policy(obs))
            running[0] += extras.get("raw_rewards", reward)
            running[1] += 1
            counted = (done != 0) & (finished < quota)
            rows, columns = index[counted], finished[counted]
            results[:2, rows, columns] = running[:, counted]
            if has_success:
                results[2, rows, columns] = extras["success"][counted].double()
            running[:, done != 0] = 0
            finished += done != 0
            policy.reset(done)
            if bool((finished >= quota).all()):
                break
        else:
            raise EnvContractError(
                f"{env.spec.task} did not finish {episodes} episodes within {limit:,} steps: "
                "give the environment a horizon."
            )
    mask = torch.arange(rounds, device=device) < quota.unsqueeze(1)  # (num_envs, rounds)
    returns, lengths, success = (values[mask].cpu() for values in results)
    return EvalResult(
        mean=returns.mean().item(),
        std=returns.std(unbiased=False).item(),
        n=episodes,
        mean_length=lengths.mean().item(),
        success_rate=success.mean().item() if has_success else None,
        returns=returns.tolist(),
    )


@torch.no_grad()
def measure(env: VecEnv, policy: Policy, steps: int, *, seed: int | None = None) -> dict[str, dict[str, float]]:
    """Means of `env.measurements()` over `steps` steps and all environments, with their number; {} if it has none.

    Unlike `evaluate` this weighs every moment alike, however often episodes end.

    Args:
        env: Reset by this function; its running episodes are lost.
        policy: Plays its mode.
        steps: Length of the measurement.
        seed: Makes the episodes reproducible.
    """
    if not env.measurements():
        return {}
    sums: dict[str, dict[str, torch.Tensor]] = {}
    with _playing(policy, deterministic=True):
        obs, _ = env.reset(seed=seed)
        for _ in range(steps):
            obs, _, done, _ = env.step(policy(obs))
            policy.reset(done)
            for subject, parts in env.measurements().items():
                found = sums.setdefault(subject, {})
                for part, values in parts.items():
                    found[part] = found.get(part, torch.zeros((), device=env.device)) + values.mean()
    return {
        subject: {part: float(total / steps) for part, total in parts.items()}
        | {"num_envs": env.num_envs, "steps": steps}
        for subject, parts in sums.items()
    }


def record_video(
    env: VecEnv, policy: Policy, path: Path, *, steps: int, deterministic: bool = True, seed: int | None = None
) -> int:
    """Film environment 0 for `steps` steps and return the number of frames.

    Time is real where the environment defines the length of its step.

    Raises:
        RuntimeError: the environment can't render.
    """
    rate = 1.0 / env.spec.step_dt if env.spec.step_dt else 30.0
    stride = max(1, round(rate / _MAX_FPS))
    return write_mp4(path, _frames(env, policy, steps, stride, deterministic, seed), fps=rate / stride)


@torch.no_grad()
def _frames(
    env: VecEnv, policy: Policy, steps: int, stride: int, deterministic: bool, seed: int | None
) -> Iterator[np.ndarray]:
    with _playing(policy, deterministic=deterministic):
        obs, _ = env.reset(seed=seed)
        for step in range(steps):
            if step % stride == 0:
                yield env.render()
            obs, _, done, _ = env.step(policy(obs))
            policy.reset(done)


@contextmanager
def _playing(policy: Policy, *, deterministic: bool) -> Iterator[None]:
    """Let a policy start anew in one mode and put its mode back."""
    before = policy.deterministic
    policy.deterministic = deterministic
    policy.reset()
    try:
        yield
    finally:
        policy.deterministic = before
        policy.reset()
