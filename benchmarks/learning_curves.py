"""Train what the long learning tests train, and keep the curves: return against environment steps, seed by seed.

    python benchmarks/learning_curves.py --family mbpo
    python benchmarks/make_tables.py

One family a run, on one core, by the functions of tests/learning: the test fails where the gate of the file is not
passed. Rows hold the end of each run; `curve` in the file holds the way there.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import json
import math
import sys
import time
from pathlib import Path
from typing import Any

import torch
from peer_scripts import shown_command
from report import environment_report, write_json

TESTS = Path(__file__).resolve().parents[1] / "tests/learning"
FAMILIES = {
    "mbpo": ("test_model_based_learns", "MBPO"),
    "imagination": ("test_model_based_learns", "IMAGINATION"),
    "tdmpc2": ("test_planning_learns", "PLANNING"),
    "belief_ppo": ("test_belief_learns", "CARTPOLE"),
    "belief_sac": ("test_belief_learns", "PENDULUM"),
    "distillation": ("test_distillation_learns", "DISTILLATION"),
    "amp": ("test_amp_learns", "AMP"),
    "gail": ("test_gail_learns", "GAIL"),
    "blocks": ("test_blocks_learn", "BLOCKS"),
    "smooth": ("test_smooth_learns", "SMOOTH"),
}
"""Name -> module below tests/learning and its gate."""


def measure(gate: Any) -> dict[str, Any]:
    """Train every arm with every seed; returns curves and whether the gate is passed."""
    found: dict[str, list[Any]] = {arm: [] for arm in gate.arms}
    rows: dict[str, list[dict[str, Any]]] = {arm: [] for arm in gate.arms}
    start = time.perf_counter()
    for arm, run in gate.runs():
        found[arm].append(run)
        row = {"seed": run.seed} | {name: round(value, 4) for name, value in run.last.items()}
        if gate.threshold is not None and (steps := run.steps_to(gate.threshold)) < math.inf:
            row["steps_to_threshold"] = steps
        sys.stdout.write(f"{arm} {json.dumps(row)} after {time.perf_counter() - start:.0f} s\n")
        sys.stdout.flush()
        curve = [{name: round(value, 4) for name, value in point.items()} for point in run.curve]
        rows[arm].append(row | {"curve": curve})
    try:
        gate.check(found)
    except AssertionError:
        passed = False
    else:
        passed = True
    return {"runs": rows, "passed": passed}


def sentence(gate: Any) -> str:
    """Return what a gate asks for."""
    return (inspect.getdoc(gate.check) or "").partition("\n")[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", required=True, choices=sorted(FAMILIES))
    parser.add_argument("--note", default="", help="conditions of the run")
    parser.add_argument("--output", help="default: benchmarks/results/learning_<family>.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    sys.path.insert(0, str(TESTS))
    module, name = FAMILIES[args.family]
    gate = getattr(importlib.import_module(module), name)
    found = measure(gate)
    note = [sentence(gate), "Passed." if found["passed"] else "Not passed.", args.note]
    data = {
        "benchmark": "learning_curves",
        "arguments": {"family": args.family, "seeds": len(gate.seeds)}
        | ({} if gate.threshold is None else {"threshold": gate.threshold}),
        **found,
        "note": " ".join(note).strip(),
        **environment_report(),
        "command": shown_command(sys.argv),
    }
    write_json(args.output or f"benchmarks/results/learning_{args.family}.json", data)


if __name__ == "__main__":
    main()
