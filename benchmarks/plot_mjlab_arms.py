"""Join the runs of a comparison on mjlab's tasks into one result file and one plot, and print shares of the first arm.

    python benchmarks/plot_mjlab_arms.py smooth/*.json --curves reward action_rate \
        --output benchmarks/results/mjlab_smooth.json --image docs/images/go1_smooth.png

The files are those of `mjlab_smooth.py`, `mjlab_blocks.py`, `mjlab_imitation.py` or `mjlab_distill.py`, one for all
arms and seeds or one for each. `<curve>_share` is the end of a curve, its mean over the last 20 iterations and all
seeds, as a share of that of the first arm.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from mjlab_arms import means
from report import write_json

LABELS = {
    "reward": "mean episode reward",
    "action_rate": "mean |mu(t) - mu(t-1)|",
    "style": "style reward",
    "linear_error": "linear velocity error (mjlab's metric)",
}
NOT_OF_ALL = ("arms", "seeds")
"""Arguments that say which runs a file holds."""


def joined(files: list[dict[str, Any]], curves: list[str], arms: list[str] | None = None) -> dict[str, Any]:
    """Return one result file for files of one comparison.

    Args:
        files: What the files hold.
        curves: Curves whose ends are given as shares of the first arm's.
        arms: These, in this order; None: all, as they come.

    Raises:
        SystemExit: They are of several comparisons, hold the same run twice, or lack an arm.
    """
    runs: dict[str, list[dict[str, Any]]] = {}
    for file in files:
        for arm, found in file["runs"].items():
            runs.setdefault(arm, []).extend(found)
    if missing := set(arms or ()) - set(runs):
        raise SystemExit(f"The files hold no run of {', '.join(sorted(missing))}, but of {', '.join(runs)}.")
    runs = {arm: runs[arm] for arm in arms or runs}
    for arm, found in runs.items():
        found.sort(key=lambda run: run["seed"])
        seeds = [run["seed"] for run in found]
        if len(set(seeds)) < len(seeds):
            raise SystemExit(f"The files hold {arm} with the seeds {seeds}: leave out what is there twice.")
    if len(names := {file["benchmark"] for file in files}) > 1:
        raise SystemExit(f"The files are of several comparisons: {', '.join(sorted(names))}.")
    results = {arm: means(found) for arm, found in runs.items()}
    first = next(iter(results.values()))
    for result in results.values():
        for name in curves:
            if first.get(name) and name in result:
                result[f"{name}_share"] = round(result[name] / first[name], 3)
    shared = {name: files[0][name] for name in ("versions", "hardware")}
    arguments = {name: value for name, value in files[0]["arguments"].items() if name not in NOT_OF_ALL}
    commands = list(dict.fromkeys(file["command"] for file in files))
    data = {"benchmark": files[0]["benchmark"], "arguments": arguments, "results": results, "runs": runs} | shared
    return data | {"command": commands[0]} | ({"commands": commands} if len(commands) > 1 else {})


def draw(data: dict[str, Any], curves: list[str], title: str, path: Path) -> None:
    """Draw curves of all runs against environment steps; those of a teacher are dashed."""
    figure, axes = plt.subplots(1, len(curves), figsize=(1.0 + 4.5 * len(curves), 3.6), squeeze=False)
    for axis, name in zip(axes[0], curves, strict=True):
        labels: set[str] = set()
        for index, (arm, runs) in enumerate(data["runs"].items()):
            for run in runs:
                for label, line, part in ((arm, "-", run), (f"{arm}, teacher", "--", run.get("teacher", {}))):
                    if points := part.get("curves", {}).get(name):
                        x = [iteration * part["steps_per_iteration"] / 1e6 for iteration, _ in points]
                        y, shown = [value for _, value in points], None if label in labels else label
                        axis.plot(x, y, line, color=f"C{index}", alpha=0.8, label=shown)
                        labels.add(label)
        axis.set_xlabel("million environment steps")
        axis.set_ylabel(LABELS.get(name, name.replace("_", " ")))
        axis.grid(alpha=0.3)
        if labels:
            axis.legend(fontsize=8)
    figure.suptitle(title)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=90)


def title_of(data: dict[str, Any]) -> str:
    """Return the tasks without their algorithms, and the sizes."""
    runs = [run for found in data["runs"].values() for run in found if "task" in run]
    ours = "RoboRenForce-MJLab-"
    names = [run["task"].removeprefix(ours).rpartition("-")[0] for run in runs if run["task"].startswith(ours)]
    names += [run["task"] for run in runs if not run["task"].startswith(ours)]
    sizes = dict.fromkeys(f"{run['num_envs']:,}" for run in runs)
    return f"{', '.join(dict.fromkeys(names))}: {' / '.join(sizes)} environments"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+")
    parser.add_argument("--curves", nargs="+", default=["reward"])
    parser.add_argument("--arms", nargs="+", help="these, in this order (default: all, as they come)")
    parser.add_argument("--title", help="of the plot (default: tasks and sizes)")
    parser.add_argument("--output", help="result file")
    parser.add_argument("--image", help="plot")
    args = parser.parse_args()

    data = joined([json.loads(Path(path).read_text()) for path in args.files], args.curves, args.arms)
    for arm, result in data["results"].items():
        print(arm, {name: value for name, value in result.items() if name.removesuffix("_share") in args.curves})
    if args.output:
        write_json(args.output, data)
    if args.image:
        draw(data, args.curves, args.title or title_of(data), Path(args.image))


if __name__ == "__main__":
    main()
