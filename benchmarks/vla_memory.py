"""Memory of vision-language-action policies of real size, for acting, LoRA of rank 16 and training of all weights.

    python benchmarks/vla_memory.py --device cuda --output benchmarks/results/vla_memory.json
    python benchmarks/vla_memory.py --computed --output benchmarks/results/vla_memory_computed.json
    python benchmarks/vla_memory.py --tiny --device cpu

One 224 x 224 image and 40 tokens of text; weights are random, and drawn on the device. Measured is the peak of what
tensors take (GiB), in steps of the learner and the policy that runs use: acting at batch size 1, training under
bfloat16 autocast with AdamW. `--computed` adds up weights, gradients and the state of AdamW by their types instead,
which needs no GPU and is what is needed at least: activations and temporary tensors come on top. Every model is a
process of its own.
"""

from __future__ import annotations

import argparse
import gc
import json
import subprocess
import sys
from typing import Any

MODELS = (
    "small",
    "Qwen/Qwen2-VL-2B-Instruct",
    "Qwen/Qwen3-VL-2B-Instruct",
    "Qwen/Qwen3-VL-4B-Instruct",
    "Qwen/Qwen2-VL-7B-Instruct",
    "Qwen/Qwen3-VL-8B-Instruct",
)
USES = ("full", "LoRA", "acting")
"""Acting comes last: memory of its CUDA graph stays."""
STEPS = 4
"""Of which acting is captured in the third."""
ADAMW_BYTES = 8
"""Two moments in float32 for each trained parameter; its gradient is as large as itself."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--tiny", action="store_true", help="a model of 0.2 million parameters, to try this script")
    parser.add_argument("--batch_size", type=int, default=8, help="of training")
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--computed", action="store_true", help="compute what is needed at least; measure nothing")
    parser.add_argument("--output", default="")
    parser.add_argument("--child", default="", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(computed(args.child) if args.computed else measured(args.child, args)))
        return
    results = {}
    for model in ("tiny",) if args.tiny else args.models.split(","):
        results[model] = _in_a_process(model, args)
        print(model, results[model], flush=True)
    if args.output:
        from report import environment_report, write_json

        settings = {"batch_size": args.batch_size, "computed": args.computed}
        write_json(
            args.output, {"benchmark": "vla_memory", "arguments": settings, "results": results, **environment_report()}
        )


def _in_a_process(model: str, args: argparse.Namespace) -> dict[str, Any]:
    options = [f"--batch_size={args.batch_size}", f"--device={args.device}", *["--computed"] * args.computed]
    command = [sys.executable, __file__, "--child", model, *options]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    return json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else {"failed": done.returncode}


def computed(model: str) -> dict[str, float]:
    """GiB of weights, gradients and optimizer state for each use, counted on a model whose tensors hold no data."""
    from RoboRenForce.components.vla_spec import VectorSpec, VLASpec
    from vla_sft_vs_hf import ACTIONS, STATE, draw_weights_on, policy_cfg

    draw_weights_on("meta")
    unit = {"mean": 0.0, "std": 1.0, "min": -1.0, "max": 1.0, "q01": -1.0, "q99": 1.0}
    state, action = (VectorSpec(dim, (), {k: (v,) * dim for k, v in unit.items()}) for dim in (STATE, ACTIONS))
    spec = VLASpec(cameras=("front",), state=state, action=action, instructions=("push",))
    row: dict[str, float] = {}
    for use in USES:
        parameters = list(policy_cfg(use, model).build(spec).parameters())
        weights = sum(p.numel() * p.element_size() for p in parameters)
        trained = [p for p in parameters if p.requires_grad and use != "acting"]
        training = sum(p.numel() * (p.element_size() + ADAMW_BYTES) for p in trained)
        row[f"{use}_gib"] = round((weights + training) / 2**30, 2)
    return row


def measured(model: str, args: argparse.Namespace) -> dict[str, float | None]:
    """Peak GiB of each use; None where it does not fit into the memory of the device."""
    return {f"{use}_gib": _peak(use, model, args) for use in USES}


def _peak(use: str, model: str, args: argparse.Namespace) -> float | None:
    import torch
    from RoboRenForce.utils.errors import NotEnoughMemory
    from vla_sft_vs_hf import ours

    gc.collect()
    if args.device != "cpu":
        torch.cuda.empty_cache()
        left = torch.cuda.memory_allocated() / 2**30  # workspaces of cuBLAS
        assert left < 0.2, f"{left:.2f} GiB of what was measured before are left"
    try:
        step = ours(use, 1 if use == "acting" else args.batch_size, argparse.Namespace(model=model, device=args.device))
        if args.device != "cpu":
            torch.cuda.reset_peak_memory_stats()
        for _ in range(STEPS):
            step()
    except (torch.OutOfMemoryError, NotEnoughMemory):
        return None
    return round(torch.cuda.max_memory_allocated() / 2**30, 2) if args.device != "cpu" else None


if __name__ == "__main__":
    main()
