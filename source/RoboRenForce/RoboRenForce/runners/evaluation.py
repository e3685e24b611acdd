"""Evaluation of a policy: returns and successes of a fixed number of episodes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from tensordict import TensorDict

from ..algorithms.algorithm import Policy
from ..envs.vec_env import VecEnv
from ..utils.errors import EnvContractError, NonFiniteError
from ..utils.success_rate import SuccessRate, rates_by_text

_STEPS_WITHOUT_HORIZON = 100_000


class Stopped(Exception):  # noqa: N818 - reads better where it is raised
    """An evaluation or a video was asked to end before it was complete."""


@dataclass(frozen=True)
class EvalResult:
    """Returns of `n` episodes."""

    mean: float
    std: float
    """Standard deviation over the episodes (divided by n)."""
    n: int
    mean_length: float
    success_rate: float | None
    """Share of successful episodes; None if the environment does not define success."""
    returns: list[float]
    terms: dict[str, float] | None = None
    """Mean return of each reward term; None if the environment does not split its reward."""
    success: SuccessRate | None = None
    """The same share as `success_rate`, with its interval."""
    success_by_instruction: dict[str, SuccessRate] | None = None
    """Instruction -> share of its episodes; None if the environment gives no instructions."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for `eval.json`."""
        return asdict(self)

    def __str__(self) -> str:
        success = "" if self.success is None else f", success {self.success}"
        return f"mean {self.mean:,.1f}, std {self.std:,.1f}, n {self.n}, mean length {self.mean_length:,.0f}{success}"


@torch.no_grad()
def evaluate(
    env: VecEnv,
    policy: Policy,
    episodes: int,
    *,
    deterministic: bool = True,
    seed: int | None = None,
    max_steps: int | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> EvalResult:
    """Play exactly `episodes` whole episodes and count all of them.

    The number of episodes of each environment is fixed beforehand. Taking the first `episodes` that end would prefer
    short ones, and bias the mean if length and return are related. Returns are those of the task, also if wrappers of
    the user change the rewards that the learner gets.

    Args:
        env: Environment; it is reset, so its current episodes are lost.
        policy: Policy to play; its mode is restored afterwards.
        episodes: Number of episodes over all environments, at least 1.
        deterministic: True to play the mode of the policy instead of samples.
        seed: Seed that makes the episodes reproducible.
        max_steps: Steps of each environment in which they have to finish; None: those that the horizon allows.
        should_stop: Called before every step.

    Raises:
        EnvContractError: The episodes are not finished after `max_steps`.
        NonFiniteError: An action or a return is NaN or infinite.
        Stopped: `should_stop` returned True.
    """
    if episodes < 1:
        raise ValueError(f"An evaluation needs at least 1 episode, got {episodes}.")
    device, num_envs = env.device, env.num_envs
    index = torch.arange(num_envs, device=device)
    quota = episodes // num_envs + (index < episodes % num_envs).long()  # (num_envs,), sums to `episodes`
    rounds = -(-episodes // num_envs)
    terms = env.spec.reward_terms if "reward_terms" in env.spec.extras else ()
    # Rows: return, length, one per reward term, and in `results` success.
    running = torch.zeros(2 + len(terms), num_envs, device=device, dtype=torch.float64)
    results = torch.zeros(len(running) + 1, num_envs, rounds, device=device, dtype=torch.float64)
    finished = torch.zeros(num_envs, device=device, dtype=torch.int64)
    has_success = "success" in env.spec.extras
    texts: dict[tuple[int, int], str] = {}  # row and round -> instruction
    limit = max_steps or (env.max_episode_length or _STEPS_WITHOUT_HORIZON) * rounds + 1
    with playing(policy, deterministic=deterministic):
        obs, extras = env.reset(seed=seed)
        instructions = extras.get("instruction")
        for _ in range(limit):
            action = choose_actions(env, policy, obs, finished, should_stop)
            obs, reward, done, extras = env.step(action)
            running[0] += extras.get("raw_rewards", reward)
            running[1] += extras.get("executed_steps", 1)
            if terms:
                running[2:] += extras["reward_terms"].t()
            counted = (done != 0) & (finished < quota)
            rows, columns = index[counted], finished[counted]
            results[:-1, rows, columns] = running[:, counted]
            if has_success:
                results[-1, rows, columns] = extras["success"][counted].double()
            if instructions is not None:
                for row, column in zip(rows.tolist(), columns.tolist(), strict=True):
                    texts[row, column] = instructions[row]
                instructions = extras["instruction"]  # those of rows that ended belong to their next episodes
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
    _require_finite_returns(env.spec.task, results[0])
    mask = torch.arange(rounds, device=device) < quota.unsqueeze(1)  # (num_envs, rounds)
    returns, lengths, *sums, success = (values[mask].cpu() for values in results)
    outcomes = success.bool().tolist()
    return EvalResult(
        mean=returns.mean().item(),
        std=returns.std(unbiased=False).item(),
        n=episodes,
        mean_length=lengths.mean().item(),
        success_rate=success.mean().item() if has_success else None,
        returns=returns.tolist(),
        terms={name: total.mean().item() for name, total in zip(terms, sums, strict=True)} or None,
        success=SuccessRate.of(outcomes) if has_success else None,
        success_by_instruction=rates_by_text([texts[key] for key in sorted(texts)], outcomes)
        if has_success and texts
        else None,
    )


@torch.no_grad()
def measure(env: VecEnv, policy: Policy, steps: int, *, seed: int | None = None) -> dict[str, dict[str, float]]:
    """Return means of `env.measurements()` over `steps` steps and all environments, with their number; {} if none.

    Unlike in `evaluate` every moment has the same weight, however often episodes end.

    Args:
        env: Environment; it is reset, so its current episodes are lost.
        policy: Policy whose mode is played.
        steps: Number of steps.
        seed: Seed that makes the episodes reproducible.

    Raises:
        NonFiniteError: An action or a measurement is NaN or infinite.
    """
    if not env.measurements():
        return {}
    sums: dict[str, dict[str, torch.Tensor]] = {}
    finished = torch.zeros(env.num_envs, device=env.device, dtype=torch.int64)
    with playing(policy, deterministic=True):
        obs, _ = env.reset(seed=seed)
        for _ in range(steps):
            obs, _, done, _ = env.step(choose_actions(env, policy, obs, finished))
            finished += done != 0
            policy.reset(done)
            for subject, parts in env.measurements().items():
                found = sums.setdefault(subject, {})
                for part, values in parts.items():
                    found[part] = found.get(part, torch.zeros((), device=env.device)) + values.mean()
    means = {subject: {part: float(total / steps) for part, total in parts.items()} for subject, parts in sums.items()}
    for subject, parts in means.items():
        for part, mean in parts.items():
            if not math.isfinite(mean):
                raise NonFiniteError(f"{env.spec.task} measured {subject}.{part} as {mean} within {steps:,} steps.")
    return {subject: {**parts, "num_envs": env.num_envs, "steps": steps} for subject, parts in means.items()}


def choose_actions(
    env: VecEnv,
    policy: Policy,
    obs: TensorDict,
    finished: torch.Tensor,
    should_stop: Callable[[], bool] | None = None,
) -> torch.Tensor:
    """Return the actions for `obs`, which must be finite; `finished` `(num_envs,)` counts episodes for the message."""
    if should_stop is not None and should_stop():
        raise Stopped
    action = policy(obs)
    bad = ~torch.isfinite(action).reshape(env.num_envs, -1).all(1)  # discrete actions are (num_envs,)
    if bool(bad.any()):
        row = int(bad.nonzero()[0])
        groups = [name for name in env.spec.obs_groups if not bool(torch.isfinite(obs[name][row]).all())]
        cause = f"its observations {groups} are not finite" if groups else "though its observations are finite"
        raise NonFiniteError(
            f"The policy chose NaN or infinity for environment {row} of {env.spec.task} in its episode "
            f"{int(finished[row]) + 1} ({cause}): {'check the environment' if groups else 'take another checkpoint'}."
        )
    return action


def _require_finite_returns(task: str, returns: torch.Tensor) -> None:
    """Refuse to average NaN or infinity; `returns` is `(num_envs, rounds)`."""
    bad = (~torch.isfinite(returns)).nonzero()
    if len(bad):
        row, episode = bad[0].tolist()
        raise NonFiniteError(
            f"Episode {episode + 1} of environment {row} of {task} has the return {float(returns[row, episode])}: "
            "check the environment's rewards."
        )


@contextmanager
def playing(policy: Policy, *, deterministic: bool) -> Iterator[None]:
    """Temporarily set `deterministic`; reset the state on entry and exit."""
    before = policy.deterministic
    policy.deterministic = deterministic
    policy.reset()
    try:
        yield
    finally:
        policy.deterministic = before
        policy.reset()
