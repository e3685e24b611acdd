"""PPO of a vision-language-action policy of real size: a step of ours, and of an organization like RLinf's.

    python benchmarks/vla_rl_step.py --output benchmarks/results/vla_rl_step.json
    python benchmarks/vla_rl_step.py --tiny          # the same code on a CPU, in two minutes

A step is a rollout and an update. Qwen3-VL-2B with random weights, frozen; a flow head (a diffusion transformer of 0.32
billion parameters, 4 denoising steps, chunks of 8 actions) with Flow-SDE; 64 environments of a fake simulator with two
cameras of 256 x 256 pixels, resized to 224 x 224, of 10 ms per action, on the host; 8 decisions per environment, 4
epochs of 4 mini-batches. No episode ends within a step, so that holding or resetting ended environments gains nothing
here. `rlinf_like.py` says how the peer is organized. `ours_recompute` is ours without stored features.

The memory part takes steps of larger models, of which the head or adapters (LoRA) are trained, within `--memory_cap`
GiB, less what a process takes beside torch's tensors. Every part and every model is a process of its own, and the
result is written after each.
"""

from __future__ import annotations

import argparse
import json
from statistics import median
from typing import Any

import vla_steps
from report import command_without
from vla_steps import cap_memory, collect, forget_peak, learner, peak_gib, run_child, timed

PARTS = ("ours", "ours_recompute", "rlinf_like", "memory")
MODEL = "Qwen/Qwen3-VL-{}-Instruct"
CHUNK, DENOISE, RANK = 8, 4, 16
MEMORY_CASES = [f"{size} {what}" for what in ("head", "lora") for size in ("2B", "4B", "8B")]


def main() -> None:
    args = parse()
    if args.child:
        part, _, case = args.child.partition(":")
        print(json.dumps(memory_case(case, args) if part == "memory" else steps(part, args)))
        return
    results: dict[str, Any] = {}
    for name in jobs(args):
        results[name] = _in_a_process(name, args)
        print(name, json.dumps({k: v for k, v in results[name].items() if not k.endswith("_all")}), flush=True)
        write(results, args)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default="ours,rlinf_like,memory", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--model", default="2B", help="of the step: 2B, 4B or 8B")
    parser.add_argument("--num_envs", type=int, default=64)
    parser.add_argument("--decisions", type=int, default=8, help="per environment and step")
    parser.add_argument("--step_ms", type=float, default=10.0, help="of the simulator, for one action of all rows")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--mini_batches", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=5, help="steps of ours that count")
    parser.add_argument("--peer_repeats", type=int, default=3, help="the same of rlinf_like")
    parser.add_argument("--cuda_graph", default="auto", help="of ours")
    parser.add_argument("--memory_cap", type=float, default=24.0, help="GiB of the memory part")
    parser.add_argument("--memory_cases", default=",".join(MEMORY_CASES))
    parser.add_argument("--tiny", action="store_true", help="a model of a few hundred thousand parameters, on the CPU")
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--output", default="")
    parser.add_argument("--child", default="", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.tiny:
        args.model, args.num_envs, args.decisions, args.step_ms, args.device = "tiny", 4, 2, 0.0, "cpu"
        args.repeats = args.peer_repeats = 2
    unknown = set(args.parts.split(",")) - set(PARTS)
    if unknown:
        parser.error(f"--parts names {', '.join(sorted(unknown))}, expected some of {', '.join(PARTS)}")
    return args


def jobs(args: argparse.Namespace) -> list[str]:
    """Names of the processes, in order."""
    parts = [part for part in args.parts.split(",") if part != "memory"]
    cases = ["tiny head", "tiny lora"] if args.tiny else args.memory_cases.split(",")
    return [*parts, *(f"memory:{case}" for case in cases if "memory" in args.parts)]


def _in_a_process(name: str, args: argparse.Namespace) -> dict[str, Any]:
    options = {key: value for key, value in vars(args).items() if key not in ("child", "output", "tiny")}
    return run_child(__file__, name, options, ["--tiny"] * args.tiny)


def write(results: dict[str, Any], args: argparse.Namespace) -> None:
    """Compare, and write what there is so far."""
    ours, peer = results.get("ours", {}), results.get("rlinf_like", {})
    ratios = {
        name: round(peer[f"{name}_s"] / ours[f"{name}_s"], 2)
        for name in ("step", "rollout", "update")
        if f"{name}_s" in ours and f"{name}_s" in peer
    }
    if ratios:
        print("ours is faster by", ratios, flush=True)
        ours |= {f"{name}_times_rlinf_like": ratio for name, ratio in ratios.items()}
    if args.output:
        own = {"num_envs", "epochs", "mini_batches"} if args.parts == "memory" else set()  # rows of memory have theirs
        settings = {key: value for key, value in vars(args).items() if key not in {"child", "output"} | own}
        vla_steps.write_results(args.output, "vla_rl_step", settings, results, command_without("--output"))


# ------------------------------------------------------------------------------------------------------- what is built


def policy_cfg(model: str, *, lora: bool = False) -> Any:
    """Configuration of the policy."""
    from RoboRenForce.components.action_heads import FlowHeadCfg
    from RoboRenForce.components.action_heads.flow_sde import FlowSDECfg
    from RoboRenForce.components.vla_policy import VLAPolicyCfg
    from RoboRenForce.networks import DiTCfg
    from RoboRenForce.networks.vlm import LoRACfg, Qwen3VLCfg

    tiny = model == "tiny"
    backbone = Qwen3VLCfg(
        model_name=model if tiny else MODEL.format(model),
        random_weights=True,
        image_size=[64, 64] if tiny else [224, 224],
        prompt="{images}{instruction}",
        state_token=False,
        finetune="lora" if lora else "frozen",
        lora=LoRACfg(rank=RANK, alpha=RANK),
        gradient_checkpointing=lora,
        frozen_dtype="fp32" if tiny else "bf16",
    )
    network = DiTCfg(dim=32, num_layers=2, num_heads=2) if tiny else DiTCfg(dim=1024, num_layers=12, num_heads=16)
    head = FlowHeadCfg(
        chunk_size=CHUNK, num_steps=DENOISE, density="sde", sde=FlowSDECfg(noisy_steps="one"), network=network
    )
    return VLAPolicyCfg(backbone=backbone, head=head)


def random_policy(cfg: Any, device: Any) -> Any:
    """Build the policy with random weights drawn on the device."""
    from RoboRenForce.components.action_heads import FlowHead
    from RoboRenForce.networks.vlm import qwen

    return vla_steps.random_policy(cfg, device, (qwen, "build_architecture"), (FlowHead, "__init__"))


def ppo_cfg(device: Any, **options: Any) -> Any:
    """Options that both organizations have."""
    from RoboRenForce.algorithms.vla_rl import VLAPPOCfg
    from RoboRenForce.utils.parallelize import ParallelCfg

    precision = "fp32" if device.type == "cpu" else "bf16"
    return VLAPPOCfg(
        init_from="(random weights)",
        log_prob_level="chunk",
        parallel=ParallelCfg(mixed_precision=precision),
        **options,
    )


# --------------------------------------------------------------------------------------------------- what is measured


def steps(part: str, args: argparse.Namespace) -> dict[str, Any]:
    """Take steps, and return medians of seconds, rates and peak memory."""
    import torch
    from fake_simulator import FakeSimulator
    from RoboRenForce.algorithms.vla_rl import VLAPPO

    device, is_peer = torch.device(args.device), part == "rlinf_like"
    torch.set_float32_matmul_precision("high")
    options = {"num_learning_epochs": args.epochs, "num_mini_batches": args.mini_batches, "cuda_graph": args.cuda_graph}
    if part == "ours_recompute":
        options["store"] = "observations"
    kind = VLAPPO
    if is_peer:
        import rlinf_like

        kind = rlinf_like.RLinfLikePPO
    size = 64 if args.tiny else 256
    simulator = FakeSimulator(
        num_envs=args.num_envs,
        size=size,
        chunk=CHUNK,
        step_ms=args.step_ms,
        frames_on=torch.device("cpu") if is_peer else device,
        device=device,
    )
    policy = random_policy(policy_cfg(args.model), device)
    built = learner(kind, ppo_cfg(device, **options), policy, simulator.spec, args.decisions, device)
    synchronize = built.synchronize if is_peer else lambda: None
    warmup, repeats = (1, args.peer_repeats) if is_peer else (3, args.repeats)
    obs, rows, metrics = simulator.get_observations(), [], {}
    for number in range(warmup + repeats):
        row: dict[str, float] = {"sync": timed(synchronize, device)}
        forget_peak(device)
        obs, row["rollout"] = collect(built, simulator, obs, args.decisions, device)
        row["rollout_peak_gib"] = peak_gib(device)
        forget_peak(device)
        row["update"] = timed(lambda: metrics.update(built.update()), device)
        row["update_peak_gib"] = peak_gib(device)
        if number >= warmup:
            rows.append(row)
    return _summary(rows, args, built, metrics, device)


def _summary(
    rows: list[dict[str, float]], args: argparse.Namespace, built: Any, metrics: dict[str, Any], device: Any
) -> dict[str, Any]:
    import torch

    samples, epochs = args.num_envs * args.decisions, args.epochs
    middle = {name: median(row[name] for row in rows) for name in ("sync", "rollout", "update")}
    step = median(row["sync"] + row["rollout"] + row["update"] for row in rows)
    found: dict[str, Any] = {f"{name}_s": round(seconds, 4) for name, seconds in middle.items()}
    found |= {
        "step_s": round(step, 4),
        "simulator_s": args.decisions * CHUNK * args.step_ms / 1000,
        "env_frames_per_s": round(samples * CHUNK / step, 1),
        "chunk_samples_per_s": round(samples / step, 1),
        "rollout_samples_per_s": round(samples / middle["rollout"], 1),
        "update_samples_per_s": round(samples * epochs / middle["update"], 1),
        "parameters": sum(p.numel() for p in built.plain_module.parameters()),
        "trained_parameters": sum(p.numel() for p in built.plain_module.parameters() if p.requires_grad),
        "metrics": {name: round(float(metrics[f"actor/{name}"]), 5) for name in ("ratio", "approx_kl", "grad_norm")},
        "micro_batch_size": built.epochs.micro_batch_size,
        "rows_all": [{name: round(value, 4) for name, value in row.items()} for row in rows],
    }
    if device.type == "cuda":
        for phase in ("rollout", "update"):
            found[f"{phase}_peak_gib"] = round(max(row[f"{phase}_peak_gib"] for row in rows), 2)
        found["reserved_gib"] = round(torch.cuda.memory_reserved() / 2**30, 2)
    return found


def memory_case(case: str, args: argparse.Namespace) -> dict[str, Any]:
    """Take two steps of a model within the cap; says if it fits, and what it took."""
    import torch
    from fake_simulator import FakeSimulator
    from RoboRenForce.algorithms.vla_rl import VLAPPO
    from RoboRenForce.utils.errors import NotEnoughMemory

    model, what = case.split()
    device = torch.device(args.device)
    cfg = policy_cfg(model, lora=what == "lora")
    rows = 4 if args.tiny else 16
    found = estimate(cfg) | {"num_envs": rows, "epochs": 1, "mini_batches": 2}
    cap_memory(args.memory_cap, device)
    simulator = FakeSimulator(
        num_envs=rows, size=64 if args.tiny else 256, chunk=CHUNK, step_ms=0.0, frames_on=device, device=device
    )
    options = {"num_learning_epochs": found["epochs"], "num_mini_batches": found["mini_batches"]}
    options["cuda_graph"] = args.cuda_graph
    options["freeze_backbone"] = what == "head"
    try:
        policy = random_policy(cfg, device)
        built = learner(VLAPPO, ppo_cfg(device, **options), policy, simulator.spec, args.decisions, device)
        obs, rollout, update = simulator.get_observations(), 0.0, 0.0
        for _ in range(2):
            obs, rollout = collect(built, simulator, obs, args.decisions, device)
            update = timed(built.update, device)
    except (torch.OutOfMemoryError, NotEnoughMemory) as error:
        return found | {"fits": False, "error": str(error).splitlines()[0], "peak_gib": round(peak_gib(device), 2)}
    samples = rows * args.decisions
    found |= {"fits": True, "micro_batch_size": built.epochs.micro_batch_size or samples // 2}
    found |= {"decisions": samples, "rollout_s": round(rollout, 3), "update_s": round(update, 3)}
    if device.type == "cuda":
        found["peak_allocated_gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 2)
        found["peak_reserved_gib"] = round(torch.cuda.max_memory_reserved() / 2**30, 2)
    return found


def estimate(cfg: Any) -> dict[str, Any]:
    """Compute what weights, gradients and moments take, from shapes alone; activations come on top."""
    import torch

    policy = random_policy(cfg, torch.device("meta"))
    if cfg.backbone.finetune != "lora":
        policy.backbone.requires_grad_(False)
    frozen = sum(p.nbytes for p in policy.parameters() if not p.requires_grad)
    trained = sum(p.numel() for p in policy.parameters() if p.requires_grad)
    return {
        "parameters": sum(p.numel() for p in policy.parameters()),
        "trained_parameters": trained,
        "estimated_gib": round((frozen + 16 * trained) / 2**30, 2),  # float32: weight, gradient and two moments
    }


if __name__ == "__main__":
    main()
