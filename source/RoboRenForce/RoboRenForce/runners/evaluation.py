"""Evaluation of a policy: returns and successes of a fixed number of episodes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from tensordict import TensorDict

from ..algorithms.algorithm import Policy
from ..envs.vec_env import VecEnv
from ..utils.errors import EnvContractError, NonFiniteError
from ..utils.seeding import seeded
from ..utils.success_rate import SuccessRate, rates_by_text
from .smoothness import Smoothness, SmoothnessMeter

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
    smoothness: Smoothness | None = None
    """How smooth the actions were; None if they are discrete or come in chunks."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for `eval.json`."""
        return asdict(self)

    def __str__(self) -> str:
        more = "" if self.success is None else f", success {self.success}"
        if self.smoothness is not None and self.smoothness.action_change is not None:
            more += f", action change {self.smoothness.action_change:.3g}"
        return f"mean {self.mean:,.1f}, std {self.std:,.1f}, n {self.n}, mean length {self.mean_length:,.0f}{more}"


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
        seed: Seed that makes the episodes and the samples reproducible.
        max_steps: Steps of each environment in which they have to finish; None: those that the horizon allows.
        should_stop: Called before every step.

    Raises:
        EnvContractError: The episodes are not finished after `max_steps`.
        NonFiniteError: An action or a return is NaN or infinite.
        Stopped: `should_stop` returned True.
    """
    tally, action_spec = _Tally(env, episodes), env.spec.action
    meter = None
    if action_spec.kind == "continuous" and not action_spec.chunk:
        meter = SmoothnessMeter(policy, action_spec, env.num_envs, env.max_episode_length, env.device)
    limit = max_steps or (env.max_episode_length or _STEPS_WITHOUT_HORIZON) * tally.rounds + 1
    with playing(policy, deterministic=deterministic, seed=seed):
        obs, extras = env.reset(seed=seed)
        tally.begin(extras)
        for _ in range(limit):
            counted = tally.finished < tally.quota
            if meter is not None:
                meter.add_slope(obs, counted)
            action = choose_actions(env, policy, obs, tally.finished, should_stop)
            obs, reward, done, extras = env.step(action)
            if meter is not None:
                meter.add(action, done, counted)
            tally.add(reward, done, extras)
            policy.reset(done)
            if tally.is_complete:
                return replace(tally.result(), smoothness=None if meter is None else meter.result())
    raise EnvContractError(
        f"{env.spec.task} did not finish {episodes} episodes within {limit:,} steps: give the environment a horizon."
    )


class _Tally:
    """Sums over the running episodes, and what came of those that count."""

    def __init__(self, env: VecEnv, episodes: int) -> None:
        if episodes < 1:
            raise ValueError(f"An evaluation needs at least 1 episode, got {episodes}.")
        device, num_envs, spec = env.device, env.num_envs, env.spec
        self.index = torch.arange(num_envs, device=device)
        # (num_envs,), sums to `episodes`.
        self.quota = episodes // num_envs + (self.index < episodes % num_envs).long()
        self.rounds = -(-episodes // num_envs)
        self.finished = torch.zeros(num_envs, device=device, dtype=torch.int64)
        self._task, self._has_success = spec.task, "success" in spec.extras
        self._terms = spec.reward_terms if "reward_terms" in spec.extras else ()
        # Rows: return, length, one per reward term, and in `_results` success.
        self._running = torch.zeros(2 + len(self._terms), num_envs, device=device, dtype=torch.float64)
        shape = (len(self._running) + 1, num_envs, self.rounds)
        self._results = torch.zeros(shape, device=device, dtype=torch.float64)
        self._instructions: list[str] | None = None
        self._texts: dict[tuple[int, int], str] = {}  # row and round -> instruction

    @property
    def is_complete(self) -> bool:
        """True if every environment has played its share."""
        return bool((self.finished >= self.quota).all())

    def begin(self, extras: Mapping[str, Any]) -> None:
        """Take the instructions of the first episodes from the extras of a reset."""
        self._instructions = extras.get("instruction")

    def add(self, reward: torch.Tensor, done: torch.Tensor, extras: Mapping[str, Any]) -> None:
        """Count a step, and the episodes that ended with it."""
        running, ended = self._running, done != 0
        running[0] += extras.get("raw_rewards", reward)
        running[1] += extras.get("executed_steps", 1)
        if self._terms:
            running[2:] += extras["reward_terms"].t()
        counted = ended & (self.finished < self.quota)
        rows, columns = self.index[counted], self.finished[counted]
        self._results[:-1, rows, columns] = running[:, counted]
        if self._has_success:
            self._results[-1, rows, columns] = extras["success"][counted].double()
        if self._instructions is not None:
            for row, column in zip(rows.tolist(), columns.tolist(), strict=True):
                self._texts[row, column] = self._instructions[row]
            self._instructions = extras["instruction"]  # those of rows that ended belong to their next episodes
        running[:, ended] = 0
        self.finished += ended

    def result(self) -> EvalResult:
        """Return what the episodes amount to."""
        _require_finite_returns(self._task, self._results[0])
        # (num_envs, rounds)
        mask = torch.arange(self.rounds, device=self.quota.device) < self.quota.unsqueeze(1)
        returns, lengths, *sums, success = (values[mask].cpu() for values in self._results)
        outcomes = success.bool().tolist()
        texts = [self._texts[key] for key in sorted(self._texts)]
        return EvalResult(
            mean=returns.mean().item(),
            std=returns.std(unbiased=False).item(),
            n=len(returns),
            mean_length=lengths.mean().item(),
            success_rate=success.mean().item() if self._has_success else None,
            returns=returns.tolist(),
            terms={name: total.mean().item() for name, total in zip(self._terms, sums, strict=True)} or None,
            success=SuccessRate.of(outcomes) if self._has_success else None,
            success_by_instruction=rates_by_text(texts, outcomes) if self._has_success and texts else None,
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
    with playing(policy, deterministic=True, seed=seed):
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
def playing(policy: Policy, *, deterministic: bool, seed: int | None = None) -> Iterator[None]:
    """Temporarily set `deterministic`; reset the state on entry and exit.

    With a seed, samples depend on it alone, and the generators are afterwards as they were.
    """
    before = policy.deterministic
    policy.deterministic = deterministic
    policy.reset()
    try:
        with seeded(seed):
            yield
    finally:
        policy.deterministic = before
        policy.reset()
