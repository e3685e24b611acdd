"""PPO of pi0.5 at its real size: a step of ours, what its parts gain, and RLinf's own code beside it.

    python benchmarks/pi05_rl_step.py --output benchmarks/results/pi05_rl_step.json
    python benchmarks/pi05_rl_step.py --tiny         # the same code on a CPU, in two minutes

A step is a rollout and an update, in the setting of RLinf's `libero_spatial_ppo_openpi_pi05`: random weights, the
expert trained, Flow-SDE with one noisy step of three, chunks of 10 actions of which 5 are executed, a value head on the
mean of PaliGemma's last features; 64 environments of a fake simulator without cost, two cameras of 256 x 256 pixels, 8
decisions each, one gradient step per epoch in micro-batches of 128. Precision is bfloat16, with trained weights in
float32.

Rows of ours that leave one thing out say what it gains:

    ours             keys and values of a rollout are kept and read by the update, real tokens only, fused attention,
                     acting in CUDA graphs, images resized on the GPU, one copy of the weights
    recomputed       the update computes PaliGemma again, from kept images
    padded           three cameras and 200 text tokens, whatever there is
    eager            no CUDA graphs
    plain attention  softmax of the whole matrix instead of fused attention
    host images      images resized by PIL in 8 threads, as RLinf does
    none             all of that left out at once
    compiled         ours, and every layer compiled by torch.compile

Rows that need less memory; how many times as long as `ours` they take is `..._times_ours`:

    host samples     the rollout is kept on the host
    memory           that, within `--memory_cap` GiB
    memory eager     that, without the memory of CUDA graphs

Rows of RLinf need `--peer`, a script that runs its workers in this setting (`rlinf_peer.py` says what it prints). Every
row is a process of its own, and the result is written after each; no row begins after `--budget_s` seconds, so that a
call with a limit ends in time.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from statistics import median
from typing import Any
from unittest.mock import patch

from report import command_without
from rlinf_peer import EXECUTED, PEERS, run_peer
from vla_steps import (
    cap_memory,
    collect,
    forget_peak,
    learner,
    peak_gib,
    random_policy,
    run_child,
    timed,
    write_results,
)

OURS: dict[str, frozenset[str]] = {
    "ours": frozenset(),
    "recomputed": frozenset({"recomputed"}),
    "padded": frozenset({"padded"}),
    "eager": frozenset({"eager"}),
    "plain attention": frozenset({"plain attention"}),
    "host images": frozenset({"host images"}),
    "none": frozenset({"recomputed", "padded", "eager", "plain attention", "host images"}),
    "compiled": frozenset({"compiled"}),
    "host samples": frozenset({"host samples"}),
    "memory": frozenset({"capped", "host samples"}),
    "memory eager": frozenset({"capped", "host samples", "eager"}),
}
"""Row -> what is different in it."""
DEFAULT = ("ours", "RLinf", "RLinf 4 epochs", "recomputed", "none", "memory")
"""What there is time for in ten minutes."""
CHUNK, DENOISE, NOISE, MICRO_BATCH = 10, 3, 0.5, 128


def main() -> None:
    args = parse()
    if args.child:
        print(json.dumps(steps(args.child, args)))
        return
    results: dict[str, Any] = {}
    begin = time.perf_counter()
    for name in args.rows.split(","):
        if name in PEERS and not args.peer:
            continue
        if time.perf_counter() - begin > args.budget_s:
            print(f"{name} and what follows did not begin within {args.budget_s:g} s", flush=True)
            break
        found = {name: run_peer(name, args)} if name in PEERS else ours(name, args)
        results |= found
        compare(results)
        print(json.dumps({row: {k: v for k, v in results[row].items() if k != "all"} for row in found}), flush=True)
        if args.output:
            hidden = ("child", "output", "peer", "rlinf", "peer_packages", "budget_s")
            settings = {key: value for key, value in vars(args).items() if key not in hidden}
            command = command_without("--output", "--peer", "--rlinf", "--peer_packages")
            write_results(args.output, "pi05_rl_step", settings, results, command)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default=",".join(DEFAULT), help=f"of {', '.join([*OURS, *PEERS])}")
    parser.add_argument("--num_envs", type=int, default=64)
    parser.add_argument("--decisions", type=int, default=8, help="per environment and step")
    parser.add_argument("--repeats", type=int, default=3, help="steps of ours that count")
    parser.add_argument("--peer_repeats", type=int, default=2, help="the same of RLinf")
    parser.add_argument("--peer", default="", help="script that runs RLinf, see above")
    parser.add_argument("--rlinf", default="", help="RLinf's checkout, for the peer")
    parser.add_argument("--peer_packages", default="", help="folder of the packages that the peer imports")
    parser.add_argument("--memory_cap", type=float, default=24.0, help="GiB, with the context, of the memory rows")
    parser.add_argument("--budget_s", type=float, default=1e9, help="no row begins later")
    parser.add_argument("--tiny", action="store_true", help="a model of half a million parameters, on the CPU")
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--output", default="")
    parser.add_argument("--child", default="", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.tiny:
        args.num_envs, args.decisions, args.device, args.repeats = 4, 2, "cpu", 1
    known = [*OURS, *PEERS]
    if unknown := [row for row in args.rows.split(",") if row not in known]:
        parser.error(f"--rows names {', '.join(unknown)}, expected some of {', '.join(known)}")
    if bool(args.peer) != bool(args.rlinf):
        parser.error("--peer and --rlinf belong together: the script, and the checkout that it runs")
    return args


def ours(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """Measure a row of ours; `ours` with four epochs, too."""
    keys = ("num_envs", "decisions", "repeats", "memory_cap", "device")
    found = run_child(__file__, name, {key: getattr(args, key) for key in keys}, ["--tiny"] * args.tiny)
    return {name: found} if "failed" in found or "error" in found else found


def compare(results: dict[str, Any]) -> None:
    """Add how many times as long other rows take as ours of as many epochs."""
    for row in results.values():
        base = results.get("ours" if row.get("epochs") == 1 else f"ours {row.get('epochs')} epochs", row)
        if base is row:
            continue
        for name, key in (("step", "step_s"), ("rollout", "rollout_s"), ("update", "update_s"), ("peak", "peak_gib")):
            if row.get(key) and base.get(key):
                row[f"{name}_times_ours"] = round(row[key] / base[key], 2)


# ---------------------------------------------------------------------------------------------------------------- ours


def policy_cfg(*, tiny: bool, padded: bool = False) -> Any:
    """Configuration of the policy; what is trained of it is the learner's choice."""
    from RoboRenForce.components.action_heads.flow_sde import FlowSDECfg
    from RoboRenForce.components.openpi_policy import OpenPIPolicyCfg

    cfg: Any = OpenPIPolicyCfg(variant="pi05", size="tiny" if tiny else "full")
    cfg.backbone.tokenizer, cfg.backbone.padded = "words", padded
    cfg.backbone.language.finetune = "frozen"
    sde = FlowSDECfg(noise_level=NOISE, noisy_steps="one")
    cfg.head = cfg.head.replace(chunk_size=CHUNK, num_steps=DENOISE, density="sde", sde=sde)
    return cfg


def ppo_cfg(what: frozenset[str], *, bf16: bool) -> Any:
    """Options of RLinf's configuration, and those of a row."""
    from RoboRenForce.algorithms.vla_rl import VLAPPOCfg
    from RoboRenForce.components.vla_value import ValueHeadCfg
    from RoboRenForce.networks import MLPCfg
    from RoboRenForce.utils.parallelize import ParallelCfg

    layers = ["GemmaLayer", "SigLIPLayer"] if "compiled" in what else []
    precision = "bf16" if bf16 else "fp32"
    return VLAPPOCfg(
        init_from="(random weights)",
        value=ValueHeadCfg(network=MLPCfg(hidden_features=[1024, 512, 256], activations="GELU")),
        log_prob_level="chunk",
        num_mini_batches=1,
        num_learning_epochs=1,
        micro_batch_size=MICRO_BATCH,
        dual_clip=None,
        parallel=ParallelCfg(mixed_precision=precision, blocks=layers, compile_blocks=bool(layers)),
        cuda_graph="off" if "eager" in what else "auto",
        store="observations" if "recomputed" in what else "features",
        sample_place="host" if "host samples" in what else "auto",
    )


@contextmanager
def left_out(what: frozenset[str], device: Any) -> Iterator[None]:
    """Change what options can't."""
    from RoboRenForce.algorithms.vla_rl import chunk_collector
    from RoboRenForce.components import vla_preprocessing
    from torch.nn.attention import SDPBackend, sdpa_kernel

    with ExitStack() as stack:
        if "plain attention" in what:
            stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        if "host images" in what:
            stack.enter_context(patch.object(vla_preprocessing, "resize", resized_on_host(device)))
            stack.enter_context(patch.object(chunk_collector, "graphed", _without_encoding(chunk_collector.graphed)))
        yield


def resized_on_host(device: Any) -> Callable[..., Any]:
    """Resize images `(B, H, W, 3)` as RLinf does: one by one, by PIL, in threads."""
    from rlinf_like import Pictures

    known: dict[tuple[int, int], Pictures] = {}

    def resized(images: Any, size: tuple[int, int], _mode: str) -> Any:
        if size not in known:
            known[size] = Pictures(size, device)
        return known[size]([images])[:, 0]

    return resized


def _without_encoding(graphed: Callable[..., Any]) -> Callable[..., Any]:
    """Capture nothing that waits for the host."""

    def function(step: Callable[..., Any], device: Any, mode: Any, name: str, pool: Any) -> Callable[..., Any]:
        return step if name.startswith("encode") else graphed(step, device, mode, name, pool)

    return function


def steps(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """Take steps of a row; returns medians of seconds, rates and peak memory by row, or what did not fit."""
    import torch
    from RoboRenForce.utils.errors import NotEnoughMemory

    what, device = OURS[name], torch.device(args.device)
    torch.set_float32_matmul_precision("high")
    if "capped" in what:
        cap_memory(args.memory_cap, device)
    try:
        with left_out(what, device):
            built, simulator = build(what, args, device)
            return _steps_of_epochs(name, built, simulator, args, device)
    except (torch.OutOfMemoryError, NotEnoughMemory) as error:
        return {"error": str(error).splitlines()[0], "fits": 0, "peak_gib": round(peak_gib(device), 2)}


def build(what: frozenset[str], args: argparse.Namespace, device: Any) -> tuple[Any, Any]:
    """Build the learner of a row, and its simulator."""
    from fake_simulator import FakeSimulator
    from RoboRenForce.algorithms.vla_rl import VLAPPO
    from RoboRenForce.components.action_heads import FlowHead
    from RoboRenForce.networks.vlm import PaliGemma

    size = 96 if args.tiny else 256
    simulator = FakeSimulator(
        num_envs=args.num_envs, size=size, chunk=EXECUTED, step_ms=0.0, frames_on=device, device=device
    )
    cfg = policy_cfg(tiny=args.tiny, padded="padded" in what)
    policy = random_policy(cfg, device, (PaliGemma, "__init__"), (FlowHead, "__init__"))
    options = ppo_cfg(what, bf16=device.type == "cuda")
    return learner(VLAPPO, options, policy, simulator.spec, args.decisions, device), simulator


def _steps_of_epochs(name: str, built: Any, simulator: Any, args: argparse.Namespace, device: Any) -> dict[str, Any]:
    captures = built.device.type == "cuda" and built.cfg.cuda_graph != "off"
    obs, found, warmup = simulator.get_observations(), {}, 3 if captures else 1
    metrics: dict[str, Any] = {}
    for epochs in (1, 4) if name == "ours" else (1,):
        built.cfg.num_learning_epochs = epochs
        rows: list[dict[str, float]] = []
        for _ in range(warmup + args.repeats):
            row: dict[str, float] = {}
            forget_peak(device)
            obs, row["rollout_s"] = collect(built, simulator, obs, args.decisions, device)
            row["update_s"] = timed(lambda: metrics.update(built.update()), device)
            row["step_s"] = row["rollout_s"] + row["update_s"]
            rows.append(row | {"peak_gib": peak_gib(device)})
        title = name if epochs == 1 else f"{name} {epochs} epochs"
        found[title] = _summary(rows[warmup:], metrics, epochs, built, args)
        warmup = 1  # what is captured stays
    return found


def _summary(
    rows: list[dict[str, float]], metrics: dict[str, Any], epochs: int, built: Any, args: argparse.Namespace
) -> dict[str, Any]:
    import torch

    samples, store, policy = args.num_envs * args.decisions, built.rollout.store, built.model
    found: dict[str, Any] = {key: round(median(row[key] for row in rows), 4) for key in rows[0]}
    found["peak_gib"] = round(max(row["peak_gib"] for row in rows), 2)
    found |= {
        "epochs": epochs,
        "rollout_samples_per_s": round(samples / found["rollout_s"], 1),
        "update_samples_per_s": round(samples * epochs / found["update_s"], 1),
        "stored_mib_per_sample": round(sum(rows[0].nbytes for rows in store.rows.values()) / 2**20, 3),
        "stored_on": next(iter(store.rows.values())).device.type,
        "micro_batch_size": built.epochs.micro_batch_size,
        "graphs": sum(getattr(step, "captured", False) for step in built.collector._graphs.values()),
        "parameters": sum(p.numel() for p in policy.parameters()),
        "trained_parameters": sum(p.numel() for p in built.plain_module.parameters() if p.requires_grad),
        **{key: round(float(metrics[f"actor/{key}"]), 5) for key in ("ratio", "approx_kl", "policy_loss", "grad_norm")},
    }
    if (keys := store.rows.get("prefix/key_mask")) is not None:
        found |= {"prefix_tokens": keys.shape[1], "real_prefix_tokens": int(keys[0].sum())}
    if torch.cuda.is_available():
        found["reserved_gib"] = round(torch.cuda.max_memory_reserved() / 2**30, 2)
    return found | {"all": rows}


if __name__ == "__main__":
    main()
