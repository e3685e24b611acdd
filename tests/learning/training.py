"""Train registered tasks in this process, judging the policy on the way: what the learning tests share.

Gates are chosen on seeds that no test uses (11 and up), with the worst of at least eight of them well above. Nothing is
bounded in seconds, so a busy machine makes a test slow and not red. `benchmarks/learning_curves.py` trains the same
`Gate`s and keeps their curves.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from RoboRenForce.algorithms import Policy
from RoboRenForce.envs.env_cfg import evaluation_cfg
from RoboRenForce.runners.evaluation import evaluate
from RoboRenForce.utils.registry import load_task

EPISODES = 10

Point = dict[str, float]
"""`steps` of all environments together, and what the policy was judged by then, as `return`."""


@dataclass(frozen=True)
class Run:
    """What became of one training."""

    seed: int
    curve: list[Point]

    @property
    def last(self) -> Point:
        """The end of the curve."""
        return self.curve[-1]

    def steps_to(self, threshold: float) -> float:
        """Return the steps after which the return first reached a threshold; infinity if it never did."""
        return next((point["steps"] for point in self.curve if point["return"] >= threshold), math.inf)


Runs = Mapping[str, list[Run]]
"""Arm of a comparison -> its runs, one a seed."""


@dataclass(frozen=True)
class Gate:
    """What an algorithm has to reach; the first line of the docstring of `check` says it."""

    arms: Mapping[str, Callable[[int], Run]]
    """Name -> function of a seed that trains."""
    check: Callable[[Runs], None]
    """Raises AssertionError if the gate is not passed."""
    threshold: float | None = None
    """Return whose first reaching is kept beside the curves."""
    seeds: tuple[int, ...] = (1, 2, 3)

    def runs(self) -> Iterable[tuple[str, Run]]:
        """Train every arm with every seed, one after another."""
        return ((arm, train(seed)) for arm, train in self.arms.items() for seed in self.seeds)

    def measured(self) -> dict[str, list[Run]]:
        """Return all runs by arm."""
        found: dict[str, list[Run]] = {arm: [] for arm in self.arms}
        for arm, run in self.runs():
            found[arm].append(run)
        return found


def median(runs: Iterable[Run], key: str = "return") -> float:
    """Return the median of what policies were judged by at the end."""
    return statistics.median(run.last[key] for run in runs)


def followed(
    runner: Any, judge: Callable[[Policy], Point], evaluations: int = 1, *, until: float = math.inf
) -> list[Point]:
    """Train to the end of a run, or until a return is reached; judge the policy evenly spread on the way."""
    found = []
    for part in range(1, evaluations + 1):
        runner.learn(runner.cfg.max_iterations * part // evaluations - runner.iteration)
        found.append({"steps": runner.steps} | judge(runner.policy()))
        if found[-1].get("return", -math.inf) >= until:
            break
    return found


def trained(runner_cfg: Any, env_cfg: Any, seed: int, *args: Any, episodes: int = EPISODES, **options: Any) -> Run:
    """Train a configuration, judged by the mean return of the deterministic policy; see `followed` for the rest."""
    env_cfg = env_cfg.replace(seed=1000 * seed)
    runner_cfg = runner_cfg.replace(seed=seed, logger=[], report=False, eval_interval=0)

    def judge(policy: Policy) -> Point:
        env = evaluation_cfg(env_cfg, episodes, 1000 * seed + 500).build()
        return {"return": evaluate(env, policy, episodes).mean}

    return Run(seed, followed(runner_cfg.build(env=env_cfg.build(), device="cpu"), judge, *args, **options))


def of_task(task_id: str, *overrides: str, **options: Any) -> Callable[[int], Run]:
    """Return the function that trains a registered task with a seed; see `trained`."""

    def train(seed: int) -> Run:
        task = load_task(f"RoboRenForce-Gym-{task_id}")
        task.apply_overrides(list(overrides))
        return trained(task.runner_cfg, task.env_cfg, seed, **options)

    return train


def curve(runner_cfg: Any, env_cfg: Any, seed: int, evaluations: int = 1, episodes: int = EPISODES) -> list[float]:
    """Mean returns of the deterministic policy, evenly spread over the iterations of a run; the last one at its end."""
    return [point["return"] for point in trained(runner_cfg, env_cfg, seed, evaluations, episodes=episodes).curve]


def curve_of_task(task_id: str, seed: int, *overrides: str, evaluations: int = 1) -> list[float]:
    """`curve` of a registered task."""
    return [point["return"] for point in of_task(task_id, *overrides, evaluations=evaluations)(seed).curve]


def final_returns(task_id: str, seeds: tuple[int, ...] = (1, 2, 3)) -> list[float]:
    """Returns of the registered configuration after its whole run, worst first."""
    return sorted(curve_of_task(task_id, seed)[-1] for seed in seeds)
