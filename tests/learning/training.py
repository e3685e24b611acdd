"""Train registered tasks in this process, evaluating on the way: what the learning tests share.

Gates are chosen on seeds that no test uses (11 and up), with the worst of at least eight of them well above. Nothing is
bounded in seconds, so a busy machine makes a test slow and not red.
"""

from __future__ import annotations

from typing import Any

from RoboRenForce.envs.env_cfg import evaluation_cfg
from RoboRenForce.runners.evaluation import evaluate
from RoboRenForce.utils.registry import load_task

EPISODES = 10


def curve(runner_cfg: Any, env_cfg: Any, seed: int, evaluations: int = 1, episodes: int = EPISODES) -> list[float]:
    """Mean returns of the deterministic policy, evenly spread over the iterations of a run; the last one at its end."""
    env_cfg = env_cfg.replace(seed=1000 * seed)
    runner_cfg = runner_cfg.replace(seed=seed, logger=[], report=False, eval_interval=0)
    runner = runner_cfg.build(env=env_cfg.build(), device="cpu")
    found = []
    for part in range(1, evaluations + 1):
        runner.learn(runner_cfg.max_iterations * part // evaluations - runner.iteration)
        env = evaluation_cfg(env_cfg, episodes, 1000 * seed + 500).build()
        found.append(evaluate(env, runner.policy(), episodes).mean)
    return found


def curve_of_task(task_id: str, seed: int, *overrides: str, evaluations: int = 1) -> list[float]:
    """`curve` of a registered task."""
    task = load_task(f"RoboRenForce-Gym-{task_id}")
    task.apply_overrides(list(overrides))
    return curve(task.runner_cfg, task.env_cfg, seed, evaluations)


def final_returns(task_id: str, seeds: tuple[int, ...] = (1, 2, 3)) -> list[float]:
    """Returns of the registered configuration after its whole run, worst first."""
    return sorted(curve_of_task(task_id, seed)[-1] for seed in seeds)
