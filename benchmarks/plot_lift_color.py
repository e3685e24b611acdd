"""Plot what GRPO and PPO add to a policy of LiftColor, against frames of the environment and against seconds.

    python benchmarks/plot_lift_color.py

Reads benchmarks/results/lift_color_rl.json (`lift_color.py`), writes docs/images/lift_color_rl.png: success in the
episodes of training, where actions are sampled, as a mean of up to five neighbouring points. PPO does not wait for
whole episodes: until the first ones are over, only those have ended that succeeded early. Points from then are left
out.
"""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from lift_color import RL_ENVS

ROOT = Path(__file__).parent.parent
COLORS = {"GRPO": "tab:blue", "VLAPPO": "tab:orange"}
EPISODE = 120
"""Steps of the longest one."""


def main() -> None:
    results = json.loads((ROOT / "benchmarks/results/lift_color_rl.json").read_text(encoding="utf-8"))["results"]
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.6), sharey=True)
    for name, row in sorted(results.items()):
        algorithm = name.split()[0]
        if algorithm not in RL_ENVS:
            continue
        whole = 0 if algorithm == "GRPO" else EPISODE * RL_ENVS[algorithm]
        points = {point["env_frames"]: point for point in row["curve"] if point["env_frames"] >= whole}
        success = [p["success_sampled"] for p in points.values()]
        near = [success[max(0, i - 2) : i + 3] for i in range(len(success))]
        for axis, key, scale in zip(axes, ("env_frames", "seconds"), (1e-6, 1.0), strict=True):
            means = [100.0 * sum(some) / len(some) for some in near]
            label = f"{algorithm}, {name.split(', ')[-1]}"
            style = "-" if name.endswith("1") else "--"
            axis.plot([p[key] * scale for p in points.values()], means, style, color=COLORS[algorithm], label=label)
    for axis, label in zip(axes, ("million environment steps", "seconds, two runs on one H200"), strict=True):
        axis.set_xlabel(label)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("success in training, %")
    axes[0].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(ROOT / "docs/images/lift_color_rl.png", dpi=90)


if __name__ == "__main__":
    main()
