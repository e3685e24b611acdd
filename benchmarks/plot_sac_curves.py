"""Plot the evaluations of `sac_vs_peers.py` against environment steps and against training seconds.

    python benchmarks/plot_sac_curves.py

Reads benchmarks/results/sac_halfcheetah.json and writes docs/images/sac_halfcheetah.png: every seed as a thin line, the
mean over the seeds as a thick one, and on the right how long each system took.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import mean
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

ROOT = Path(__file__).parent.parent
COLORS = {
    "ours": "tab:orange",
    "ours_dsact": "tab:green",
    "cleanrl": "black",
    "cleanrl_cpu": "tab:gray",
    "leanrl": "tab:blue",
}
LABELS = {
    "ours": "RoboRenForce SAC",
    "ours_dsact": "RoboRenForce DSAC-T",
    "cleanrl": "CleanRL SAC",
    "cleanrl_cpu": "CleanRL SAC (CPU)",
    "leanrl": "LeanRL SAC (compile + graphs)",
}


def mean_curve(runs: list[dict[str, Any]]) -> list[list[float]]:
    """Average `[steps, seconds, return]` point by point over the seeds, up to the shortest of them."""
    curves = zip(*(run["eval"] for run in runs), strict=False)
    return [[mean(values) for values in zip(*points, strict=True)] for points in curves]


def plot(data: dict[str, Any]) -> plt.Figure:
    """Plot return against steps and against minutes."""
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.6), sharey=True)
    for axis, column, scale in ((axes[0], 0, 1e3), (axes[1], 1, 60.0)):
        for system, runs in data["runs"].items():
            color, label = COLORS.get(system, "tab:red"), LABELS.get(system, system)
            for run in runs:
                axis.plot(
                    [point[column] / scale for point in run["eval"]],
                    [point[2] for point in run["eval"]],
                    color=color,
                    alpha=0.3,
                    linewidth=0.8,
                )
            average = mean_curve(runs)
            axis.plot(
                [point[column] / scale for point in average], [point[2] for point in average], color=color, label=label
            )
        axis.grid(alpha=0.3)
    axes[0].set_xlabel("thousand environment steps")
    machine = (data["hardware"]["gpus"] or ["CPU"])[0]
    axes[1].set_xlabel(f"training minutes, {machine}, all runs at once")
    axes[0].set_ylabel(f"return of {data['arguments']['episodes']} deterministic episodes")
    axes[0].legend(fontsize=8)
    figure.suptitle(f"{data['arguments']['env']}, {len(data['runs'].get('ours', []))} seeds")
    figure.tight_layout()
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--result", default=str(ROOT / "benchmarks/results/sac_halfcheetah.json"))
    parser.add_argument("--image", default=str(ROOT / "docs/images/sac_halfcheetah.png"))
    args = parser.parse_args()
    figure = plot(json.loads(Path(args.result).read_text()))
    Path(args.image).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(args.image, dpi=90)


if __name__ == "__main__":
    main()
