"""Fine-tuning and acting of a vision-language-action policy of real size: ours against a plain Hugging Face loop.

    python benchmarks/vla_sft_vs_hf.py --output benchmarks/results/vla_sft_qwen2_2b.json

Qwen2-VL-2B with random weights, one 224 x 224 image, 40 tokens of text, chunks of 8 actions of 7 dimensions from the
mean of the last hidden states. The peer is what the documentation of transformers and peft shows: the model called with
a batch of tensors, `get_peft_model`, `torch.autocast`, `torch.optim.AdamW`. Its pixels and token ids lie on the GPU;
ours starts from uint8 images and instruction ids, as its loader gives them. `compiled` has every layer compiled
(`parallel.compile_blocks`) and the update of a frozen model captured (`cuda_graph=auto`), which the other rows of ours
leave off. Every variant is a process of its own.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from vla_steps import rates, run_child

MODEL = "Qwen/Qwen2-VL-2B-Instruct"
SIZE, TEXT_TOKENS, CHUNK, ACTIONS, STATE, RANK = 224, 40, 8, 7, 8, 16
BLOCKS = {
    "Qwen2VL": ["Qwen2VLDecoderLayer", "Qwen2VLVisionBlock"],
    "Qwen3VL": ["Qwen3VLTextDecoderLayer", "Qwen3VLVisionBlock"],
}
"""Family -> classes of its repeated layers, which rows `compiled` compile."""
LINEARS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
VARIANTS: dict[str, tuple[str, str]] = {
    f"{system} {what}": (system, what)
    for what in ("frozen", "LoRA", "acting")
    for system in ("ours", "transformers + peft")
} | {
    "ours frozen compiled": ("ours compiled", "frozen"),
    "ours LoRA compiled": ("ours compiled", "LoRA"),
    "ours cached features": ("ours", "cached"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variants", default=",".join(VARIANTS))
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--output", default="")
    parser.add_argument("--child", default="", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(measure(*VARIANTS[args.child], args)))
        return
    results = {}
    for name in args.variants.split(","):
        results[name] = _in_a_process(name, args)
        print(name, {key: value for key, value in results[name].items() if not key.endswith("_all")}, flush=True)
    for name, (system, what) in VARIANTS.items():
        own, peers = results.get(name, {}), results.get(f"transformers + peft {what}", {})
        if system.startswith("ours") and "ms" in own and "ms" in peers:
            own["times_peer"] = round(peers["ms"] / own["ms"], 2)
    if args.output:
        from report import environment_report, write_json

        settings = {k: v for k, v in vars(args).items() if k not in ("child", "output")}
        write_json(
            args.output, {"benchmark": "vla_sft", "arguments": settings, "results": results, **environment_report()}
        )


def _in_a_process(name: str, args: argparse.Namespace) -> dict[str, Any]:
    options = {key: getattr(args, key) for key in ("model", "batch_size", "steps", "repeats", "device")}
    return run_child(__file__, name, options)


def measure(system: str, what: str, args: argparse.Namespace) -> dict[str, Any]:
    """One variant: milliseconds per step, samples per second, and peak memory."""
    import torch

    torch.set_float32_matmul_precision("high")
    batch_size = 1 if what == "acting" else args.batch_size
    if system == "transformers + peft":
        step = peer(what, batch_size, args)
    else:
        step = ours(what, batch_size, args, compiled=system == "ours compiled")
    return rates(step, batch_size, args.steps, args.repeats, torch.device(args.device))


def peer(what: str, batch_size: int, args: argparse.Namespace) -> Callable[[], Any]:
    """transformers, peft and autocast, as their documentation shows."""
    import torch
    import transformers
    from RoboRenForce.networks.vlm.qwen2_vl import Qwen2VLCfg
    from torch import nn

    torch.manual_seed(0)
    config = transformers.Qwen2VLConfig(**Qwen2VLCfg.architectures[args.model])
    vocabulary = config.text_config.vocab_size
    if config.image_token_id >= vocabulary:  # a tiny model
        config.image_token_id, config.vision_start_token_id, config.vision_end_token_id = range(
            vocabulary - 3, vocabulary
        )
    with torch.device(args.device):
        model = transformers.Qwen2VLModel._from_config(config, dtype=torch.bfloat16)
    width = config.text_config.hidden_size
    head = nn.Sequential(nn.Linear(width, 1024), nn.GELU(), nn.Linear(1024, CHUNK * ACTIONS)).to(args.device)
    model.requires_grad_(False)
    if what == "LoRA":
        from peft import LoraConfig, get_peft_model

        pattern = rf".*language_model.*\.({'|'.join(LINEARS)})"
        model = get_peft_model(model, LoraConfig(r=RANK, lora_alpha=RANK, target_modules=pattern))
    params = [p for p in [*model.parameters(), *head.parameters()] if p.requires_grad]
    optimizer = torch.optim.AdamW(params, lr=1e-4)

    grid = SIZE // config.vision_config.patch_size
    image_tokens = grid * grid // 4
    image = torch.full((image_tokens,), config.image_token_id)
    ends = [torch.tensor([config.vision_start_token_id]), image, torch.tensor([config.vision_end_token_id])]
    ids = torch.cat([*ends, torch.randint(10, 200, (TEXT_TOKENS,))])
    inputs = {
        "input_ids": ids.repeat(batch_size, 1),
        "attention_mask": torch.ones(batch_size, len(ids), dtype=torch.int64),
        "mm_token_type_ids": (ids == config.image_token_id).long().repeat(batch_size, 1),
        "pixel_values": torch.randn(batch_size * grid * grid, 3 * 2 * config.vision_config.patch_size**2),
        "image_grid_thw": torch.tensor([[1, grid, grid]]).repeat(batch_size, 1),
    }
    inputs = {name: value.to(args.device) for name, value in inputs.items()}
    actions = torch.rand(batch_size, CHUNK * ACTIONS, device=args.device)

    def predict() -> Any:
        with torch.autocast(args.device.partition(":")[0], dtype=torch.bfloat16):
            return head(model(**inputs).last_hidden_state.mean(1))

    def train() -> None:
        loss = (predict() - actions).abs().mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        optimizer.step()
        optimizer.zero_grad()

    if what == "acting":
        return torch.inference_mode()(predict)
    return train


def ours(what: str, batch_size: int, args: argparse.Namespace, *, compiled: bool) -> Callable[[], Any]:
    """The learner and the policy that runs use, on batches as the loader gives them."""
    import torch
    from RoboRenForce.algorithms.algorithm import RunContext
    from RoboRenForce.algorithms.vla_training import VLAPlayPolicy, VLAPretrainAlgorithmCfg
    from RoboRenForce.data import DataLoaderCfg, LeRobotDatasetCfg, to_device
    from RoboRenForce.envs.no_spec import NO_SPEC
    from RoboRenForce.utils.parallelize import ParallelCfg

    cfg = policy_cfg(what, args.model)
    blocks = BLOCKS[type(cfg.backbone).__name__.removesuffix("Cfg")]
    parallel = ParallelCfg(mixed_precision="bf16", blocks=blocks, compile_blocks=compiled)
    algorithm = VLAPretrainAlgorithmCfg(
        parallel=parallel,
        cache_features="device" if what == "cached" else "no",
        cuda_graph="auto" if compiled and what == "frozen" else "off",
    )
    folder = Path(tempfile.mkdtemp())
    write_demonstrations(folder / "data", max(batch_size, 64), ("front",), SIZE)
    data = LeRobotDatasetCfg(data_root=str(folder / "data"))
    data = data.for_policy(CHUNK, [], "all").build()
    device = torch.device(args.device)
    draw_weights_on(device)
    learner = algorithm.build(
        policy=cfg,
        context=RunContext(spec=NO_SPEC, device=device, max_updates=10_000, data=data),
    )
    if what == "acting":
        return _act(VLAPlayPolicy, learner, data, device)
    source = learner.source(data)
    loader = DataLoaderCfg(batch_size=batch_size, num_workers=0).build(source)
    batch = to_device(next(iter(loader)), device)
    return lambda: learner.update(batch)


def policy_cfg(what: str, model: str) -> Any:
    """Our policy on a model with random weights; what is trained follows from `what`."""
    from RoboRenForce.components.action_heads import RegressionHeadCfg
    from RoboRenForce.components.vla_policy import VLAPolicyCfg
    from RoboRenForce.networks.mlp import MLPCfg
    from RoboRenForce.networks.vlm import LoRACfg, Qwen2VLCfg, Qwen3VLCfg

    family = Qwen2VLCfg if model in Qwen2VLCfg.architectures else Qwen3VLCfg
    backbone = family(
        model_name=model,
        random_weights=True,
        image_size=[SIZE, SIZE],
        prompt="{images}{instruction}",
        finetune={"LoRA": "lora", "full": "full"}.get(what, "frozen"),
        lora=LoRACfg(rank=RANK, alpha=RANK),
        state_token=False,
    )
    head = RegressionHeadCfg(chunk_size=CHUNK, features="pooled", network=MLPCfg(hidden_features=[1024]))
    return VLAPolicyCfg(backbone=backbone, head=head)


def draw_weights_on(device: Any) -> None:
    """Two billion random numbers take half a minute on a CPU."""
    import torch
    from RoboRenForce.networks.vlm import qwen

    build = qwen.build_architecture

    def on_device(*arguments: Any) -> Any:
        with torch.device(device):
            return build(*arguments)

    qwen.build_architecture = on_device


def _act(policy_class: Any, learner: Any, data: Any, device: Any) -> Callable[[], Any]:
    """Acting on one observation, from its image on the device to the actions there."""
    import torch
    from RoboRenForce.envs import ActionSpec, EnvSpec
    from RoboRenForce.envs.instructions import instruction_id
    from tensordict import TensorDict

    groups = {"front": (SIZE, SIZE, 3), "proprio": (STATE,), "instruction_id": (1,)}
    spec = EnvSpec(
        task="benchmark",
        num_envs=1,
        obs_groups=groups,
        action=ActionSpec("continuous", ACTIONS, chunk=CHUNK),
        max_episode_length=100,
        obs_dtypes={"front": "uint8", "instruction_id": "int64"},
    )
    learner.eval()
    policy = policy_class(learner.policy_model, spec)
    obs = TensorDict(
        {
            "front": torch.randint(0, 256, (1, SIZE, SIZE, 3), dtype=torch.uint8),
            "proprio": torch.randn(1, STATE),
            "instruction_id": torch.tensor([[instruction_id(_TEXT)]]),
        },
        batch_size=[1],
    ).to(device)
    return lambda: policy(obs)


_TEXT = "put the red block on the blue plate, now"


def write_demonstrations(root: Path, frames: int, cameras: Sequence[str], size: int) -> None:
    """Write frames of noise, in episodes of 64, as a LeRobot data set."""
    import numpy as np
    from RoboRenForce.data import LeRobotWriter

    draw = np.random.default_rng(0)
    features = {
        "observation.state": {"dtype": "float32", "shape": [STATE]},
        "action": {"dtype": "float32", "shape": [ACTIONS]},
        **{f"observation.images.{name}": {"dtype": "image", "shape": [size, size, 3]} for name in cameras},
    }
    with LeRobotWriter.create(root, fps=10, features=features) as writer:
        for _ in range(-(-frames // 64)):
            for _ in range(64):
                frame = {
                    "observation.state": draw.normal(size=STATE).astype(np.float32),
                    "action": draw.normal(size=ACTIONS).astype(np.float32),
                }
                for name in cameras:
                    frame[f"observation.images.{name}"] = draw.integers(0, 256, (size, size, 3), np.uint8)
                writer.add_frame(frame, task=_TEXT)
            writer.save_episode()


if __name__ == "__main__":
    main()
