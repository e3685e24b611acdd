"""Fine-tuning and acting of pi0.5 and pi0 at their real size, beside the pi0 of transformers.

    python benchmarks/pi05_sft.py --output benchmarks/results/pi05_sft.json
    python benchmarks/pi05_sft.py --tiny         # the same code on a CPU, in two minutes

Random weights, two images of 224 x 224, a short instruction, chunks of 50 actions, 10 Euler steps. Trained are the
expert, adapters of rank 16 in both Gemmas with the projections of actions, or all weights; `cached` trains the expert
on features that were computed once. Acting goes from images on the GPU to actions on the host, in bfloat16: ours as a
run with `mixed_precision=bf16` plays, in one CUDA graph. Ours have layers compiled (`parallel.compile_blocks`) and the
update of a frozen model captured (`cuda_graph=auto`), but for rows `plain`. Our pi0 does the same work as the peer; our
pi0.5 is larger in its norms. `compiled` is the peer under `torch.compile`.

The peer is transformers' `PI0ForConditionalGeneration` as its documentation shows it: the model called with a batch of
tensors, with the attention that it chooses (`attention` in the results), `torch.autocast`, `torch.optim.AdamW`,
`get_peft_model` of peft; `sample_actions` in bfloat16 for acting. Its pixels and token ids lie on the GPU, of both
images and of 48 text tokens, which its processor pads to; ours starts from uint8 images and instruction ids, as its
loader and an environment give them. What it does not train is bfloat16, as in ours. Every row is a process of its own,
and the result is written after each; no row begins after `--budget_s` seconds, so that a call with a limit ends in
time.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from report import command_without
from vla_steps import drawn_on, random_policy, rates, run_child, write_results

USES = {"expert": 32, "acting 1": 1, "acting 16": 16, "acting 256": 256, "LoRA": 16, "full": 16, "cached": 32}
"""Use -> batch size."""
OURS = {"ours pi0": "pi0", "ours pi0.5": "pi05"}
PEER = "transformers pi0"
ROWS = [
    *(f"{system} {use}" for use in USES for system in (PEER, "ours pi0") if use != "cached"),
    *(f"ours pi0.5 {use}" for use in USES),
    "ours pi0 expert plain",
    "transformers pi0 expert compiled",
]
"""Those that are compared come first."""
SIZE, TEXT_TOKENS, CHUNK, EULER, RANK = 224, 48, 50, 10, 16
LINEARS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
Measured = tuple[Callable[[], Any], Callable[[], dict[str, Any]]]
"""A step, and what to say about it when it has been measured."""


def main() -> None:
    args = parse()
    if args.child:
        print(json.dumps(measure(args.child, args)))
        return
    results: dict[str, Any] = {}
    begin = time.perf_counter()
    for name in args.rows.split(","):
        if time.perf_counter() - begin > args.budget_s:
            print(f"{name} and what follows did not begin within {args.budget_s:g} s", flush=True)
            break
        options = {key: getattr(args, key) for key in ("steps", "repeats", "device")}
        results[name] = run_child(__file__, name, options, ["--tiny"] * args.tiny)
        compare(results)
        print(name, {key: value for key, value in results[name].items() if not key.endswith("_all")}, flush=True)
        if args.output:
            settings = {k: v for k, v in vars(args).items() if k not in ("child", "output", "budget_s")}
            write_results(args.output, "pi05_sft", settings, results, command_without("--output"))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default=",".join(ROWS), help="some of them, by comma")
    parser.add_argument("--steps", type=int, default=10, help="in each time that is taken")
    parser.add_argument("--repeats", type=int, default=3, help="times that are taken")
    parser.add_argument("--budget_s", type=float, default=1e9, help="no row begins later")
    parser.add_argument("--tiny", action="store_true", help="models of half a million parameters, on the CPU")
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--output", default="")
    parser.add_argument("--child", default="", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if unknown := [row for row in args.rows.split(",") if row not in ROWS]:
        parser.error(f"--rows names {', '.join(unknown)}, expected some of {', '.join(ROWS)}")
    if args.tiny:
        args.steps = args.repeats = 1
        args.device = "cpu"
    return args


def compare(results: dict[str, Any]) -> None:
    """Add how many times as fast ours are, and which part of the peer's memory they take."""
    for use in (*USES, "expert plain"):
        peer = results.get(f"{PEER} {'expert' if use in ('cached', 'expert plain') else use}", {})
        for system in OURS:
            ours = results.get(f"{system} {use}", {})
            if "samples_per_s" in ours and "samples_per_s" in peer:
                ours["times_peer"] = round(ours["samples_per_s"] / peer["samples_per_s"], 2)
            if "peak_memory_gib" in ours and "peak_memory_gib" in peer:
                ours["memory_of_peer"] = round(ours["peak_memory_gib"] / peer["peak_memory_gib"], 2)


def measure(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """Milliseconds, samples per second and peak memory of a row; or that it does not fit."""
    import torch
    from RoboRenForce.utils.errors import NotEnoughMemory

    torch.set_float32_matmul_precision("high")
    device = torch.device(args.device)
    system = next(system for system in (*OURS, PEER) if name.startswith(f"{system} "))
    use = name.removeprefix(f"{system} ")
    compiled = use.endswith(" compiled") if system == PEER else not use.endswith(" plain")
    use = use.removesuffix(" compiled").removesuffix(" plain")
    batch_size = min(USES[use], 2) if args.tiny else USES[use]
    try:
        if system == PEER:
            step, facts = peer(use, batch_size, args.tiny, device, compiled=compiled)
        else:
            step, facts = ours(OURS[system], use, batch_size, args.tiny, device, compiled=compiled)
        return {"batch_size": batch_size} | rates(step, batch_size, args.steps, args.repeats, device) | facts()
    except (torch.OutOfMemoryError, NotEnoughMemory) as error:
        return {"batch_size": batch_size, "fits": 0, "error": str(error).splitlines()[0]}


# ---------------------------------------------------------------------------------------------------------------- ours


def policy_cfg(variant: Any, use: str, *, tiny: bool) -> Any:
    """Our policy; what is trained follows from the use."""
    from RoboRenForce.components.openpi_policy import OpenPIPolicyCfg

    cfg: Any = OpenPIPolicyCfg(variant=variant, size="tiny" if tiny else "full")
    trained = use if use in ("LoRA", "full") else "frozen"
    cfg.backbone.tokenizer = "words"
    cfg.backbone.language.finetune = trained.lower()
    cfg.backbone.language.lora.rank = cfg.backbone.language.lora.alpha = RANK
    cfg.head.network.gemma = cfg.head.network.gemma.replace(finetune="lora" if use == "LoRA" else "full")
    cfg.head.network.gemma.lora.rank = cfg.head.network.gemma.lora.alpha = RANK
    cfg.head.num_steps = EULER
    return cfg


def ours(variant: str, use: str, batch_size: int, tiny: bool, device: Any, *, compiled: bool = True) -> Measured:
    """The learner or the policy that runs use, on batches as the loader, or an environment, gives them."""
    from RoboRenForce.components.action_heads import FlowHead
    from RoboRenForce.networks.vlm import PaliGemma
    from RoboRenForce.utils.parallelize import ParallelCfg

    parallel = ParallelCfg(mixed_precision="bf16", compile_blocks=compiled, blocks=["GemmaLayer", "SigLIPLayer"])
    builders = (PaliGemma, "__init__"), (FlowHead, "__init__")
    cfg = policy_cfg(variant, use, tiny=tiny)
    if use.startswith("acting"):
        return _acting(random_policy(cfg, device, *builders), batch_size, parallel, device)
    with drawn_on(device, *builders):
        return _training(cfg, use, batch_size, parallel, device)


def _training(cfg: Any, use: str, batch_size: int, parallel: Any, device: Any) -> Measured:
    from RoboRenForce.algorithms.algorithm import RunContext
    from RoboRenForce.algorithms.vla_training import VLAPretrainAlgorithmCfg
    from RoboRenForce.data import DataLoaderCfg, LeRobotDatasetCfg, to_device
    from RoboRenForce.envs.no_spec import NO_SPEC
    from vla_sft_vs_hf import write_demonstrations

    algorithm = VLAPretrainAlgorithmCfg(
        parallel=parallel,
        cache_features="device" if use == "cached" else "no",
        cuda_graph="auto" if parallel.compile_blocks and use in ("expert", "cached") else "off",
    )
    with tempfile.TemporaryDirectory() as folder:
        write_demonstrations(Path(folder) / "data", max(batch_size, 64), ("front", "wrist"), SIZE)
        data = LeRobotDatasetCfg(data_root=f"{folder}/data").for_policy(cfg.head.chunk_size, [], "all").build()
        learner = algorithm.build(
            policy=cfg, context=RunContext(spec=NO_SPEC, device=device, max_updates=10_000, data=data)
        )
        loader = DataLoaderCfg(batch_size=batch_size, num_workers=0).build(learner.source(data))
        batch = to_device(next(iter(loader)), device)
        seen = to_device(next(iter(DataLoaderCfg(batch_size=1, num_workers=0).build(data))), device)
    return lambda: learner.update(batch), lambda: {
        "compiled": parallel.compile_blocks,
        "captured": getattr(learner._graph, "captured", False),
        **_facts(learner.policy_model, seen),
    }


def _acting(policy: Any, batch_size: int, parallel: Any, device: Any) -> Measured:
    """From images on the device to actions on the host, which a robot waits for."""
    from fake_simulator import FakeSimulator
    from RoboRenForce.algorithms.vla_training import VLAPlayPolicy
    from RoboRenForce.utils.parallelize import autocast_methods, compile_blocks

    simulator = FakeSimulator(
        num_envs=batch_size, size=SIZE, chunk=policy.chunk_size, step_ms=0.0, frames_on=device, device=device
    )
    policy = policy.to(device).eval()
    autocast_methods(policy, ["forward", "encode", "act", "evaluate"])
    compile_blocks(policy, parallel)
    policy.backbone.serves_head_alone = policy.backbone.is_frozen  # as in the run that it would be loaded from
    play, obs = VLAPlayPolicy(policy, simulator.spec), simulator.get_observations()
    return lambda: play(obs).cpu(), lambda: {
        "compiled": parallel.compile_blocks,
        "captured": getattr(play._act, "captured", False),
        **_facts(policy, obs),
    }


def _facts(policy: Any, batch: Any) -> dict[str, Any]:
    """What the numbers depend on."""
    import torch

    with torch.no_grad():
        prefix = policy.encode(batch)
    return {"attention": "sdpa", "prefix_tokens": prefix.key_mask.shape[1]}


# ---------------------------------------------------------------------------------------------------------------- peer


def peer(use: str, batch_size: int, tiny: bool, device: Any, *, compiled: bool = False) -> Measured:
    """transformers, peft and autocast, as their documentation shows."""
    import torch

    model, inputs = _pi0(use, batch_size, tiny, device)
    parts = (model.model.dit, model.model.vlm.language_model, model.model.vlm.vision_tower)
    attention = ", ".join(sorted({part.config._attn_implementation for part in parts}))
    facts = {"attention": attention, "prefix_tokens": inputs["input_ids"].shape[1]}
    if use.startswith("acting"):
        inputs = {name: t.bfloat16() if t.is_floating_point() else t for name, t in inputs.items()}
        return lambda: model.sample_actions(**inputs, num_steps=EULER).float().cpu(), lambda: facts
    actions = torch.rand(batch_size, model.config.chunk_size, model.config.max_action_dim, device=device)
    if use == "LoRA":
        from peft import LoraConfig, get_peft_model

        pattern = rf".*(language_model|dit).*\.({'|'.join(LINEARS)})"
        plain, model = model, get_peft_model(model, LoraConfig(r=RANK, lora_alpha=RANK, target_modules=pattern))
        for part in (plain.embed_action_time, plain.action_out_proj):
            part.requires_grad_(True)
    if compiled:
        model.compile()
    params = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(params, lr=1e-5)

    def train() -> None:
        with torch.autocast(device.type, dtype=torch.bfloat16):
            loss = model(**inputs, actions=actions).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return train, lambda: facts


def _pi0(use: str, batch_size: int, tiny: bool, device: Any) -> tuple[Any, dict[str, Any]]:
    """The model with random weights, frozen where it is, and its inputs."""
    import torch
    import transformers

    torch.manual_seed(0)
    config = pi0_config(transformers, tiny=tiny)
    with torch.device(device):
        model: Any = transformers.PI0ForConditionalGeneration._from_config(config, dtype=torch.float32)
    if use == "expert":
        model.model.vlm.requires_grad_(False)
    if use in ("expert", "LoRA"):
        model.model.vlm.to(torch.bfloat16)
    if use.startswith("acting"):
        model = model.to(torch.bfloat16).eval()
    vlm = config.vlm_config
    patches = (vlm.vision_config.image_size // vlm.vision_config.patch_size) ** 2
    text = torch.randint(10, 200, (TEXT_TOKENS,))
    ids = torch.cat([torch.full((2 * patches,), vlm.image_token_id), text])
    there = torch.arange(len(ids)) < 2 * patches + TEXT_TOKENS // 4  # its processor pads to the right
    size = vlm.vision_config.image_size
    inputs = {
        "input_ids": ids.expand(batch_size, -1),
        "attention_mask": there.long().expand(batch_size, -1),
        "pixel_values": torch.rand(batch_size, 2, 3, size, size) * 2 - 1,
        "pixel_attention_mask": torch.ones(batch_size, 2, dtype=torch.bool),
        "state": torch.randn(batch_size, config.max_state_dim),
    }
    return model, {name: value.contiguous().to(device) for name, value in inputs.items()}


def pi0_config(transformers: Any, *, tiny: bool) -> Any:
    """Its configuration: the published one, or one of the size of our tiny policy."""
    if not tiny:
        return transformers.PI0Config(chunk_size=CHUNK, num_inference_steps=EULER)
    gemma = {"num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 16}
    text = {"model_type": "gemma", "hidden_size": 64, "intermediate_size": 128, "vocab_size": 4096, **gemma}
    vision = {"model_type": "siglip_vision_model", "hidden_size": 48, "intermediate_size": 96, "patch_size": 16}
    vision |= {"image_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "vision_use_head": False}
    vlm = {"model_type": "paligemma", "text_config": text, "vision_config": vision, "image_token_id": 4096}
    dit = {"model_type": "gemma", "hidden_size": 32, "intermediate_size": 64, **gemma}
    return transformers.PI0Config(
        vlm_config=vlm | {"projection_dim": 64}, dit_config=dit, chunk_size=8, num_inference_steps=EULER
    )


if __name__ == "__main__":
    main()
