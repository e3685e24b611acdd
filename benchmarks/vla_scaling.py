"""Weak scaling of fine-tuning Qwen2-VL-2B with random weights over the GPUs of one host: the same batch on each.

    python benchmarks/vla_scaling.py --gpus 1,2,4 --output benchmarks/results/vla_scaling.json

Arms: backbone frozen and LoRA, both with a copy on every GPU (DDP), and all weights, sharded (FSDP2). Policy and
batches are those of `vla_sft_vs_hf.py`. Each size is a torchrun of its own; all processes wait for the sum of
gradients, so that the first one's time is everybody's. Memory is the peak of the GPU that needs most.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from report import environment_report, write_json
from vla_sft_vs_hf import CHUNK, MODEL, SIZE, draw_weights_on, policy_cfg, write_demonstrations
from vla_steps import rates

ARMS = {"frozen": "ddp", "LoRA": "ddp", "full": "fsdp"}
"""What is trained -> how it is spread."""
BLOCKS = ["Qwen2VLVisionBlock", "Qwen2VLDecoderLayer"]
OPTIONS = ("model", "batch_size", "steps", "repeats", "device")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpus", default="1,2,4")
    parser.add_argument("--arms", default=",".join(ARMS))
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--batch_size", type=int, default=64, help="per GPU")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--timeout", type=float, default=150.0, help="seconds of an arm and size")
    parser.add_argument("--output", default="")
    parser.add_argument("--worker", choices=ARMS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        work(args)
        return
    results: dict[str, dict[str, Any]] = {}
    for arm in args.arms.split(","):
        for gpus in (int(text) for text in args.gpus.split(",")):
            name = f"{arm}, {gpus} GPU{'s' * (gpus > 1)}"
            results[name] = spread(arm, gpus, args)
            alone = results.get(f"{arm}, 1 GPU", {})
            if "samples_per_s" in alone and "samples_per_s" in results[name]:
                results[name]["scaling"] = round(results[name]["samples_per_s"] / alone["samples_per_s"], 2)
            print(name, results[name], flush=True)
            if args.output:
                settings = {key: value for key, value in vars(args).items() if key not in ("worker", "output")}
                facts = {"benchmark": "vla_scaling", "arguments": settings, "results": results}
                write_json(args.output, {**facts, **environment_report()})


def spread(arm: str, gpus: int, args: argparse.Namespace) -> dict[str, Any]:
    """Measure an arm with so many processes."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={gpus}", __file__]
    command += ["--worker", arm, *(f"--{name}={getattr(args, name)}" for name in OPTIONS)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=args.timeout, check=False)
    except subprocess.TimeoutExpired:
        return {"failed": f"took more than {args.timeout:.0f} s"}
    found = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not found:
        print(done.stderr[-3000:], file=sys.stderr)
        return {"failed": f"exit code {done.returncode}"}
    return json.loads(found[-1])


def work(args: argparse.Namespace) -> None:
    """Train in this process, one of several; the first prints the rates of all."""
    import torch
    from RoboRenForce.algorithms.algorithm import RunContext
    from RoboRenForce.algorithms.vla_training import VLAPretrainAlgorithmCfg
    from RoboRenForce.data import DataLoaderCfg, LeRobotDatasetCfg, to_device
    from RoboRenForce.envs.no_spec import NO_SPEC
    from RoboRenForce.utils.device import find_device
    from RoboRenForce.utils.distributed import DistributedContext
    from RoboRenForce.utils.parallelize import ParallelCfg

    device = find_device(args.device)
    distributed = DistributedContext.from_environment(device)
    torch.set_float32_matmul_precision("high")
    draw_weights_on(device)
    parallel = ParallelCfg(kind=ARMS[args.worker], blocks=BLOCKS, mixed_precision="bf16")
    with tempfile.TemporaryDirectory() as folder:
        write_demonstrations(Path(folder) / "data", max(args.batch_size, 64), ("front",), SIZE)
        data = LeRobotDatasetCfg(data_root=f"{folder}/data").for_policy(CHUNK, [], "all").build()
        context = RunContext(spec=NO_SPEC, device=device, max_updates=10_000, data=data, distributed=distributed)
        learner = VLAPretrainAlgorithmCfg(parallel=parallel).build(
            policy=policy_cfg(args.worker, args.model), context=context
        )
        batch = to_device(next(iter(DataLoaderCfg(batch_size=args.batch_size, num_workers=0).build(data))), device)
    samples = args.batch_size * distributed.world_size
    row = rates(lambda: learner.update(batch), samples, args.steps, args.repeats, device)
    peaks = distributed.gather_objects(row.get("peak_memory_gib", 0.0))
    if distributed.is_main:
        print(json.dumps({"gpus": distributed.world_size, **row, "peak_memory_gib": max(peaks or [0.0])}))
    distributed.close()


if __name__ == "__main__":
    main()
