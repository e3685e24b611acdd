"""Plot Go1's curves against steps and against training seconds, and print the time to 90 % of the peer's reward.

    python benchmarks/plot_mjlab_curves.py

Reads benchmarks/results/mjlab_go1_curves.json (`mjlab_train.py --curves`) and mjlab_off_policy_<robot>.json
(`mjlab_off_policy.py`); writes docs/images/go1_curves.png and <robot>_off_policy.png. The threshold is 90 % of the mean
final reward of the peer's seeds; seconds are those of collecting and learning, compilation included.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from mjlab_off_policy import plot

ROOT = Path(__file__).parent.parent
COLORS = {"peer": "tab:gray", "ours": "tab:orange"}
LABELS = {"peer": "mjlab + rsl_rl", "ours": "RoboRenForce"}


def seconds_to(run: dict[str, Any], threshold: float) -> float | None:
    """Return the training seconds until the reward first reaches the threshold."""
    for iteration, reward in run["curves"]["reward"]:
        if reward >= threshold:
            return run["wall_s"][iteration - 1]
    return None


def main() -> None:
    data = json.loads((ROOT / "benchmarks/results/mjlab_go1_curves.json").read_text())
    figure, axes = plt.subplots(1, 3, figsize=(13, 3.6))
    panels = (("reward", "steps"), ("reward", "seconds"), ("linear_error", "steps"))
    for axis, (curve, against) in zip(axes, panels, strict=True):
        for system, runs in data["runs"].items():
            for run in runs:
                points = run["curves"][curve]
                if against == "steps":
                    x = [iteration * 4096 * 24 / 1e6 for iteration, _ in points]
                else:
                    x = [run["wall_s"][iteration - 1] for iteration, _ in points]
                label = f"{LABELS[system]}, seed {run['seed']}"
                axis.plot(
                    x, [y for _, y in points], color=COLORS[system], alpha=0.5 + 0.25 * run["seed"] / 2, label=label
                )
        axis.set_xlabel("million environment steps" if against == "steps" else "training seconds on one H200")
        axis.set_ylabel("mean episode reward" if curve == "reward" else "linear velocity error (mjlab's metric)")
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize=8)
    figure.suptitle("Mjlab-Velocity-Flat-Unitree-Go1, 4,096 environments, 300 iterations")
    figure.tight_layout()
    path = ROOT / "docs/images/go1_curves.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=90)
    for robot in ("go1", "g1"):
        found = json.loads((ROOT / f"benchmarks/results/mjlab_off_policy_{robot}.json").read_text())
        plot(found, ROOT / f"docs/images/{robot}_off_policy.png")
    finals = [run["curves"]["reward"][-1][1] for run in data["runs"]["peer"]]
    threshold = 0.9 * sum(finals) / len(finals)
    for system, runs in data["runs"].items():
        times = [seconds_to(run, threshold) for run in runs]
        print(f"{LABELS[system]}: reward {threshold:.1f} after {times} s")


if __name__ == "__main__":
    main()
