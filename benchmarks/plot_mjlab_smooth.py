"""Join the runs of `mjlab_smooth.py` into one result file and one plot, and print each arm as shares of PPO's.

    python benchmarks/plot_mjlab_smooth.py smooth/*.json

Reward and action rate of an arm are means over its seeds and the last `--last` iterations.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import fmean
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from mjlab_smooth import ARMS
from report import write_json

ROOT = Path(__file__).parent.parent
COLORS: dict[str, str] = dict(zip(ARMS, ("tab:gray", "tab:blue", "tab:green", "tab:orange"), strict=True))


def last_mean(runs: list[dict[str, Any]], curve: str, last: int) -> float:
    """Return the mean of the last points of a curve over all runs."""
    return fmean(value for run in runs for _, value in run["result"]["curves"][curve][-last:] if value is not None)


def joined(runs: list[dict[str, Any]], last: int) -> dict[str, Any]:
    """Return arm -> its final reward and action rate, also as shares of PPO's, and its runs."""
    found: dict[str, Any] = {}
    for arm in ARMS:
        own = sorted((run for run in runs if run["arguments"]["arm"] == arm), key=lambda run: run["arguments"]["seed"])
        if own:
            found[arm] = {name: round(last_mean(own, name, last), 4) for name in ("reward", "action_rate")}
            found[arm]["played"] = [run["result"]["played"] for run in own]
            found[arm]["loss_terms"] = own[0]["result"]["loss_terms"]
            found[arm]["runs"] = [
                {"seed": run["arguments"]["seed"], "seconds": run["result"]["seconds"], **run["result"]["curves"]}
                for run in own
            ]
    for result in found.values():
        for name in ("reward", "action_rate"):
            result[f"{name}_share"] = round(result[name] / found["PPO"][name], 3)
    return found


def draw(found: dict[str, Any], title: str, path: Path, steps_per_iteration: int) -> None:
    """Draw reward and action rate of all runs against environment steps."""
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.6))
    for axis, (name, label) in zip(
        axes, {"reward": "mean episode reward", "action_rate": "mean |mu(t) - mu(t-1)|"}.items(), strict=True
    ):
        for arm, result in found.items():
            for index, run in enumerate(result["runs"]):
                points = [(i * steps_per_iteration / 1e6, value) for i, value in run[name] if value is not None]
                x, y = zip(*points, strict=True)
                axis.plot(x, y, color=COLORS[arm], alpha=0.8, label=None if index else arm)
        axis.set_xlabel("million environment steps")
        axis.set_ylabel(label)
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize=8)
    figure.suptitle(title)
    figure.tight_layout()
    figure.savefig(path, dpi=90)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+")
    parser.add_argument("--last", type=int, default=20)
    parser.add_argument("--output", default=str(ROOT / "benchmarks/results/mjlab_smooth.json"))
    parser.add_argument("--image", default=str(ROOT / "docs/images/go1_smooth.png"))
    args = parser.parse_args()

    runs = [json.loads(Path(path).read_text()) for path in args.files]
    if not any(run["arguments"]["arm"] == "PPO" for run in runs):
        raise SystemExit("No run of the arm PPO among the files, which the others are compared with; add one.")
    found, first = joined(runs, args.last), runs[0]
    for arm, result in found.items():
        print(
            f"{arm:8s} reward {result['reward']:8.2f} ({100 * result['reward_share']:.0f} %)  "
            f"action rate {result['action_rate']:.4f} ({100 * result['action_rate_share']:.0f} %)"
        )
    shared = {name: first[name] for name in ("versions", "hardware")}
    data = {"benchmark": "mjlab_smooth", "arguments": {**first["arguments"], "last": args.last}, "results": found}
    for name in ("arm", "seed"):
        data["arguments"].pop(name)
    write_json(args.output, data | shared | {"commands": [run["command"] for run in runs]})
    title = f"{first['arguments']['robot']}, {first['arguments']['num_envs']:,} environments, no action-rate penalty"
    draw(found, title, Path(args.image), first["result"]["steps_per_iteration"])


if __name__ == "__main__":
    main()
