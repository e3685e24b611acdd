"""A teacher that sees the terrain, PPO, and a blind student of it, on mjlab's rough terrain.

    python benchmarks/mjlab_distill.py --device cuda --seeds 1 --iterations 1500 --output distill.json
    python benchmarks/plot_mjlab_arms.py distill.json --curves reward linear_error --image distill.png

`--iterations` are the teacher's, `--student_iterations` the student's. Both modes are played in new environments with
the same seed, on terrain of the levels that training begins with; `share` is the student's return as a share of the
teacher's.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from mjlab_arms import REWARD, VELOCITY, is_stopped, parser, played_anew, run_arms, train

ARMS = ("Go1Rough", "G1Rough")
LEVEL = {"terrain_level": "Curriculum/terrain_levels/mean"}
DISTANCE = {"distance": "Loss/imitation"}


def run(args: argparse.Namespace, arm: str, seed: int, folder: Path) -> dict[str, Any]:
    """Train the teacher of one robot, then its student, and play both."""
    task = f"RoboRenForce-MJLab-{arm}-Distill"  # where both are played: its environments show what either reads
    teacher_dir = folder / f"{arm}_teacher_{seed}"
    given: dict[str, Any] = {"num_envs": 4096, "iterations": 1500, "curves": REWARD | VELOCITY | LEVEL}
    runner, teacher = train(args, f"RoboRenForce-MJLab-{arm}-PPO", seed, teacher_dir, **given)
    runner.algorithm.eval()
    teacher["played"] = played_anew(task, runner.policy(), args, seed + 1000)
    runner.env.close()
    if is_stopped():
        return {"error": "SIGTERM ended the teacher, its student was not trained.", "teacher": teacher}

    given |= {"curves": given["curves"] | DISTANCE}
    given["overrides"] = [f"policy.teacher_cfg.checkpoint={teacher_dir}"]
    options = argparse.Namespace(**vars(args) | {"iterations": args.student_iterations})
    runner, student = train(options, task, seed, folder / f"{arm}_student_{seed}", **given)
    runner.algorithm.eval()
    student["played"] = played_anew(task, runner.policy(), args, seed + 1000)
    best = teacher["played"]["return"]
    student["played"] |= {"teacher_return": best, "share": round(student["played"]["return"] / best, 3)}
    return student | {"teacher": teacher}


def main() -> None:
    options = parser(__doc__, ARMS)
    options.set_defaults(arms=["Go1Rough"])
    options.add_argument("--student_iterations", type=int, default=300)
    run_arms(options.parse_args(), run)


if __name__ == "__main__":
    main()
